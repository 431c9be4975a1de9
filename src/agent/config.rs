//! The agent's configuration file.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::{
    auto_offer::{AutoOfferSettings, BadAutoOffer},
    host::{
        carve::Reserve,
        cgroup,
        disk::{BadDisk, DiskSettings},
        disk_keys,
        network::{BadNetwork, NetworkSettings},
        users::{BadUsers, Users},
    },
};
use crate::{
    client::{Trust, TrustError},
    domain::{
        money::{Currency, PRICE_MAX_MICROS, Price},
        qualities::{BadQualities, WHOLE_CPU_PERCENT, validate_labels},
        resources::Allocation,
        terms::{BadTerms, LendingRules},
    },
};

/// Longest path of a Unix socket (`sun_path`, unix(7)), without its terminating NUL.
const SOCKET_PATH_MAX: usize = 107;
/// What the agent appends to the state directory for a partition's control socket.
const SOCKET_NAME_LENGTH: usize = "/run/00000000-0000-0000-0000-000000000000.sock".len();
const STATE_DIRECTORY_MAX: usize = SOCKET_PATH_MAX - SOCKET_NAME_LENGTH;
/// How long a guest can be waited for.
const PATIENCE_SECONDS: RangeInclusive<u64> = 3..=86_400;

/// What the owner decides about the host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port to serve HTTP at.
    pub listen: SocketAddr,
    /// Base URL at which borrowers reach this agent; told to the registry.
    pub advertise: String,
    /// How HTTPS is spoken; none: with a key of the host's own where `listen` is beyond loopback, else not at all.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Plain HTTP beyond loopback, where the network is trusted.
    #[serde(default)]
    insecure_http: bool,
    pub state_directory: PathBuf,
    pub image_directory: PathBuf,
    /// The VMM's program; none: `sublet-vmm` beside the agent's own.
    #[serde(default)]
    vmm: Option<PathBuf>,
    /// Made with a fresh token where it is missing; none: `owner.token` in the state directory.
    #[serde(default)]
    owner_token_file: Option<PathBuf>,
    /// Port at which guests dial the host.
    #[serde(default = "default_vsock_port")]
    pub vsock_port: u32,
    #[serde(default)]
    pub guests: Guests,
    /// None: the host lends directly only [0165].
    #[serde(default)]
    pub registry: Option<RegistryConfig>,
    pub reserve: Reserve,
    /// Control group in which partitions' groups are made, and which is nobody else's.
    #[serde(default = "default_control_group")]
    pub control_group: PathBuf,
    /// Where keys of partitions' disks are, in memory.
    #[serde(default = "default_key_directory")]
    pub key_directory: PathBuf,
    /// Whether partitions' memory is of huge pages that the owner has reserved (`vm.nr_hugepages`), and of nothing else.
    #[serde(default)]
    pub huge_pages: bool,
    /// What the owner says of the host's partitions, for borrowers to search by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How long leases may be, and how they are recalled; it counts for what is offered from now on.
    #[serde(default)]
    pub lending: LendingRules,
    /// Whom VMMs run as.
    #[serde(default)]
    pub users: Users,
    /// How fast partitions may use their disks.
    #[serde(default)]
    pub disk: DiskSettings,
    /// What partitions' networks are made of, and their limits.
    #[serde(default)]
    pub network: NetworkSettings,
    /// What is offered by itself while the host can spare it; none: nothing.
    #[serde(default)]
    pub auto_offer: Option<AutoOfferSettings>,
    pub prices: Prices,
}

/// Files in PEM; none: a key of the host's own, and a certificate that the host itself signs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    pub url: String,
    /// Whose certificate the registry must show (PEM); none: of an authority that the host's system trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// What the host shows, where the registry asks hosts for certificates (PEM).
    #[serde(default)]
    client_cert: Option<PathBuf>,
    #[serde(default)]
    client_key: Option<PathBuf>,
    /// Holds the lender's enrolment token; needed until the host is enrolled.
    #[serde(default)]
    pub enrolment_token_file: Option<PathBuf>,
}

/// When a guest that is not heard is reported as hanging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guests {
    /// Nothing was heard of its job runner for so long.
    pub silent_after_seconds: u64,
    /// Its job runner has not called so long after its boot.
    pub call_within_seconds: u64,
}

impl Default for Guests {
    fn default() -> Self {
        Self { silent_after_seconds: 30, call_within_seconds: 120 }
    }
}

impl Guests {
    fn validate(&self) -> Result<(), ConfigError> {
        let fields = [
            ("guests.silent_after_seconds", self.silent_after_seconds),
            ("guests.call_within_seconds", self.call_within_seconds),
        ];
        let wrong = fields.into_iter().find(|(_, value)| !PATIENCE_SECONDS.contains(value));
        wrong.map_or(Ok(()), |(field, value)| Err(ConfigError::Patience { field, value }))
    }
}

/// The host's price list: what a partition costs where its owner states no price.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    pub currency: Currency,
    pub per_cpu_hour_micros: u64,
    pub per_gib_hour_micros: u64,
    pub per_disk_gib_hour_micros: u64,
}

fn default_vsock_port() -> u32 {
    7105
}

fn default_control_group() -> PathBuf {
    PathBuf::from(cgroup::DEFAULT_PLACE)
}

fn default_key_directory() -> PathBuf {
    PathBuf::from(disk_keys::DEFAULT_PLACE)
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration {path:?} is wrong")]
    Parse { path: PathBuf, source: toml::de::Error },
    #[error("{field}: must be a URL such as http://host:7180, is {value:?}")]
    Url { field: &'static str, value: String },
    #[error("advertise: must be an https:// URL, as the agent speaks TLS, is {0:?}")]
    AdvertisedWithoutTls(String),
    #[error("insecure_http: cannot be beside [tls]; leave one of them out")]
    InsecureTls,
    #[error("{0}: a certificate and its key belong together; set both or neither")]
    HalfAnIdentity(&'static str),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("{field}: must be an absolute path, is {value:?}")]
    RelativePath { field: &'static str, value: PathBuf },
    #[error(
        "state_directory: must be at most {STATE_DIRECTORY_MAX} bytes long, for the control sockets in it; {0:?} is longer"
    )]
    StateDirectoryTooLong(PathBuf),
    #[error("reserve.cpus: must be at least 1, for the owner's system and the host's interrupts")]
    NoReservedCpu,
    #[error(
        "{field}: must be {} to {}, is {value}",
        PATIENCE_SECONDS.start(),
        PATIENCE_SECONDS.end()
    )]
    Patience { field: &'static str, value: u64 },
    #[error(transparent)]
    Labels(#[from] BadQualities),
    #[error(transparent)]
    Lending(#[from] BadTerms),
    #[error(transparent)]
    Users(#[from] BadUsers),
    #[error(transparent)]
    Disk(#[from] BadDisk),
    #[error(transparent)]
    Network(#[from] BadNetwork),
    #[error(transparent)]
    AutoOffer(#[from] BadAutoOffer),
    #[error("{field}: must be at most {PRICE_MAX_MICROS}, is {value}")]
    Price { field: &'static str, value: u64 },
    #[error("cannot tell where this program is, to find sublet-vmm beside it: set vmm")]
    OwnPath(#[source] io::Error),
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self =
            toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.validate()?;
        Ok(config)
    }

    pub fn vmm(&self) -> Result<PathBuf, ConfigError> {
        match &self.vmm {
            Some(vmm) => Ok(vmm.clone()),
            None => Ok(env::current_exe().map_err(ConfigError::OwnPath)?.with_file_name("sublet-vmm")),
        }
    }

    pub fn owner_token_file(&self) -> PathBuf {
        self.owner_token_file.clone().unwrap_or_else(|| self.state_directory.join("owner.token"))
    }

    /// Whether the agent serves HTTPS.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some() || !(self.insecure_http || self.listen.ip().is_loopback())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        require_url("advertise", &self.advertise)?;
        if let Some(registry) = &self.registry {
            require_url("registry.url", &registry.url)?;
            require_both("registry", &registry.client_cert, &registry.client_key)?;
        }
        self.validate_tls()?;
        require_absolute("state_directory", &self.state_directory)?;
        require_absolute("image_directory", &self.image_directory)?;
        require_absolute("control_group", &self.control_group)?;
        require_absolute("key_directory", &self.key_directory)?;
        if self.state_directory.as_os_str().len() > STATE_DIRECTORY_MAX {
            return Err(ConfigError::StateDirectoryTooLong(self.state_directory.clone()));
        }
        if self.reserve.cpus == 0 {
            return Err(ConfigError::NoReservedCpu);
        }
        self.guests.validate()?;
        validate_labels(&self.labels)?;
        self.lending.validate()?;
        self.users.validate()?;
        self.disk.validate()?;
        self.network.validate()?;
        self.auto_offer.as_ref().map_or(Ok(()), AutoOfferSettings::validate)?;
        self.prices.validate()
    }

    fn validate_tls(&self) -> Result<(), ConfigError> {
        if let Some(tls) = &self.tls {
            require_both("tls", &tls.certificate, &tls.key)?;
            if self.insecure_http {
                return Err(ConfigError::InsecureTls);
            }
        }
        if self.speaks_tls() && !self.advertise.starts_with("https:") {
            return Err(ConfigError::AdvertisedWithoutTls(self.advertise.clone()));
        }
        Ok(())
    }
}

impl RegistryConfig {
    /// Whom the host takes for its registry, and what it shows of itself.
    pub fn trust(&self) -> Result<Trust, TrustError> {
        let trust = self.ca_file.as_deref().map_or_else(|| Ok(Trust::default()), Trust::authorities)?;
        match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => trust.showing(certificate, key),
            _ => Ok(trust),
        }
    }
}

fn require_both(
    table: &'static str,
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
) -> Result<(), ConfigError> {
    if certificate.is_some() == key.is_some() { Ok(()) } else { Err(ConfigError::HalfAnIdentity(table)) }
}

fn require_url(field: &'static str, value: &str) -> Result<(), ConfigError> {
    let is_url = reqwest::Url::parse(value)
        .is_ok_and(|url| url.has_host() && ["http", "https"].contains(&url.scheme()));
    if is_url { Ok(()) } else { Err(ConfigError::Url { field, value: value.to_owned() }) }
}

fn require_absolute(field: &'static str, value: &Path) -> Result<(), ConfigError> {
    if value.is_absolute() {
        Ok(())
    } else {
        Err(ConfigError::RelativePath { field, value: value.to_owned() })
    }
}

impl Prices {
    fn validate(&self) -> Result<(), ConfigError> {
        let fields = [
            ("prices.per_cpu_hour_micros", self.per_cpu_hour_micros),
            ("prices.per_gib_hour_micros", self.per_gib_hour_micros),
            ("prices.per_disk_gib_hour_micros", self.per_disk_gib_hour_micros),
        ];
        let too_high = fields.into_iter().find(|(_, value)| *value > PRICE_MAX_MICROS.unsigned_abs());
        too_high.map_or(Ok(()), |(field, value)| Err(ConfigError::Price { field, value }))
    }

    /// The price of `allocation`, with so much of each CPU's time; a fraction of a micro-unit is dropped.
    pub fn of(&self, allocation: &Allocation, cpu_percent: u8) -> Price {
        let gib = |mib: u64, per_gib: u64| u128::from(mib) * u128::from(per_gib) / 1024;
        let of_cpus = u128::from(allocation.cpus) * u128::from(self.per_cpu_hour_micros);
        let sum = of_cpus * u128::from(cpu_percent) / u128::from(WHOLE_CPU_PERCENT)
            + gib(allocation.memory_mib, self.per_gib_hour_micros)
            + gib(allocation.disk_mib, self.per_disk_gib_hour_micros);
        let per_hour_micros = i64::try_from(sum).unwrap_or(PRICE_MAX_MICROS).min(PRICE_MAX_MICROS);
        Price { per_hour_micros, currency: self.currency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        listen = "127.0.0.1:7180"
        advertise = "http://127.0.0.1:7180"
        state_directory = "/var/lib/sublet"
        image_directory = "/usr/share/sublet/images"
        [reserve]
        cpus = 1
        memory_mib = 512
        disk_mib = 512
        [prices]
        currency = "EUR"
        per_cpu_hour_micros = 20000
        per_gib_hour_micros = 5000
        per_disk_gib_hour_micros = 100
    "#;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    /// The error and its causes for a configuration in which `from` is replaced by `to`.
    fn refusal(from: &str, to: &str) -> String {
        let error = load(&SMALL.replace(from, to)).unwrap_err();
        crate::api::http::chain(&error)
    }

    #[test]
    fn a_small_configuration_gets_its_defaults() {
        let config = load(SMALL).unwrap();
        assert_eq!(config.vsock_port, 7105);
        assert_eq!(config.owner_token_file(), Path::new("/var/lib/sublet/owner.token"));
        assert_eq!(config.vmm().unwrap().file_name().unwrap(), "sublet-vmm");
        assert_eq!(config.users, Users { first: 1_879_048_192, count: 4096 });
        assert_eq!(config.guests, Guests { silent_after_seconds: 30, call_within_seconds: 120 });
        assert!(config.registry.is_none());
    }

    #[test]
    fn plain_http_is_for_loopback_unless_the_owner_says_otherwise() {
        let everywhere = SMALL.replace("listen = \"127.0.0.1", "listen = \"0.0.0.0");
        let secure = everywhere.replace("http://", "https://");
        assert!(load(&secure).unwrap().speaks_tls());
        assert!(!load(SMALL).unwrap().speaks_tls());
        assert!(!load(&format!("insecure_http = true\n{everywhere}")).unwrap().speaks_tls());
        assert!(load(&format!("insecure_http = true\n{secure}\n[tls]")).is_err());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        for (from, to, said) in [
            ("cpus = 1", "cpus = 0", "reserve.cpus"),
            ("cpus = 1", "cpu = 1", "unknown field `cpu`"),
            ("\"EUR\"", "\"euro\"", "three capital letters"),
            ("http://127.0.0.1:7180", "127.0.0.1:7180", "advertise"),
            (
                "127.0.0.1:7180\"\n        a",
                "0.0.0.0:7180\"\n        a",
                "advertise: must be an https:// URL",
            ),
            ("[prices]", "[tls]\n[prices]", "advertise: must be an https:// URL"),
            ("[prices]", "[tls]\nkey = \"/k\"\n[prices]", "tls: a certificate and its key"),
            ("\"/var/lib/sublet\"", "\"state\"", "absolute path, is \"state\""),
            ("[prices]", "[users]\nfirst = 0\ncount = 9\n[prices]", "users: must be within 1000 to"),
            (
                "[prices]",
                "[guests]\nsilent_after_seconds = 0\n[prices]",
                "silent_after_seconds: must be 3 to 86400",
            ),
            (
                "[prices]",
                "[network]\nrange = \"8.8.8.0/24\"\n[prices]",
                "network.range: must be a network of /8",
            ),
            (
                "[prices]",
                "[disk]\nbytes_per_second = 1\n[prices]",
                "disk.bytes_per_second: must be 1048576 to",
            ),
            ("= 20000", "= 20000000000000", "is 20000000000000"),
            ("[prices]", "[labels]\nzone = \"eu 1\"\n[prices]", "'_' and '/', not \"eu 1\""),
        ] {
            let refusal = refusal(from, to);
            assert!(refusal.contains(said), "{refusal}");
        }
    }

    #[test]
    fn a_state_directory_too_deep_for_a_socket_is_refused() {
        let deep = format!("/{}", "d".repeat(80));
        assert!(refusal("/var/lib/sublet", &deep).contains("at most 61 bytes"));
    }

    #[test]
    fn the_price_list_adds_up() {
        let prices = load(SMALL).unwrap().prices;
        let allocation = Allocation { cpus: 2, memory_mib: 1536, disk_mib: 2048 };
        let price = prices.of(&allocation, 100);
        assert_eq!(price.per_hour_micros, 2 * 20_000 + 7_500 + 200);
        assert_eq!(prices.of(&allocation, 25).per_hour_micros, 2 * 5_000 + 7_500 + 200);
    }
}
