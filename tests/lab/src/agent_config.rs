//! The configuration that a lab host's agent starts with.

use serde::Serialize;
use thiserror::Error;
use url::{Host, Url};

use crate::inside;

/// As the agent's own configuration has it.
#[derive(Debug, Serialize)]
pub(crate) struct AgentConfig {
    listen: String,
    advertise: String,
    insecure_http: bool,
    state_directory: &'static str,
    image_directory: &'static str,
    vmm: &'static str,
    owner_token_file: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_group: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<RegistryConfig>,
    guests: Guests,
    lending: Lending,
    reserve: Reserve,
    prices: Prices,
}

/// Guests are slow in an emulated host, and its tests do not wait long for one that hangs.
#[derive(Debug, Serialize)]
struct Guests {
    silent_after_seconds: u64,
    call_within_seconds: u64,
}

/// Lenders can have partitions back, as quickly as a test wants.
#[derive(Debug, Serialize)]
struct Lending {
    recall_notice_seconds: u64,
}

#[derive(Debug, Serialize)]
struct RegistryConfig {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment_token_file: Option<&'static str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    tls: Option<RegistryTls>,
}

/// Whom to take for the registry, and what to show it.
#[derive(Debug, Serialize)]
struct RegistryTls {
    ca_file: &'static str,
    client_cert: &'static str,
    client_key: &'static str,
}

#[derive(Debug, Serialize)]
struct Reserve {
    cpus: u32,
    memory_mib: u64,
    disk_mib: u64,
}

/// In millionths of the currency.
#[derive(Debug, Serialize)]
struct Prices {
    currency: &'static str,
    per_cpu_hour_micros: u64,
    per_gib_hour_micros: u64,
    per_disk_gib_hour_micros: u64,
}

#[derive(Debug, Error)]
pub enum RegistryUrlError {
    #[error("{0:?} is not a URL")]
    Malformed(String, #[source] url::ParseError),
    #[error("{0:?} is not an http or https URL with a host")]
    NotHttp(String),
}

/// The registry of a lab's hosts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registry<'a> {
    /// As it is seen from the machine that runs the lab.
    pub(crate) url: &'a str,
    pub(crate) enrolment: bool,
}

impl AgentConfig {
    /// `forwarded_port` is the port on this machine's loopback at which borrowers reach the agent.
    pub(crate) fn new(
        forwarded_port: u16,
        registry: Option<Registry<'_>>,
        speaks_tls: bool,
        systemd: bool,
    ) -> Result<Self, RegistryUrlError> {
        let scheme = if speaks_tls { "https" } else { "http" };
        Ok(Self {
            listen: format!("0.0.0.0:{}", inside::AGENT_PORT),
            advertise: format!("{scheme}://127.0.0.1:{forwarded_port}"),
            // The way to a lab host is QEMU's, within this machine.
            insecure_http: !speaks_tls,
            state_directory: inside::STATE_DIRECTORY,
            image_directory: inside::IMAGE_DIRECTORY,
            vmm: inside::VMM,
            owner_token_file: inside::OWNER_TOKEN,
            control_group: systemd.then_some(inside::DELEGATED_GROUP),
            registry: registry.map(|registry| RegistryConfig::new(registry, speaks_tls)).transpose()?,
            guests: Guests { silent_after_seconds: 15, call_within_seconds: 60 },
            lending: Lending { recall_notice_seconds: 5 },
            reserve: Reserve { cpus: 1, memory_mib: 512, disk_mib: 512 },
            prices: Prices {
                currency: "EUR",
                per_cpu_hour_micros: 20_000,
                per_gib_hour_micros: 5_000,
                per_disk_gib_hour_micros: 100,
            },
        })
    }
}

impl RegistryConfig {
    fn new(registry: Registry<'_>, speaks_tls: bool) -> Result<Self, RegistryUrlError> {
        let tls = RegistryTls {
            ca_file: inside::REGISTRY_AUTHORITY,
            client_cert: inside::HOST_CERTIFICATE,
            client_key: inside::HOST_KEY,
        };
        Ok(Self {
            tls: speaks_tls.then_some(tls),
            url: seen_from_inside(registry.url)?,
            enrolment_token_file: registry.enrolment.then_some(inside::ENROLMENT_TOKEN),
        })
    }
}

/// A URL of this machine's loopback as a lab host must spell it; any other stays what it is.
pub(crate) fn seen_from_inside(url: &str) -> Result<String, RegistryUrlError> {
    let mut parsed = Url::parse(url).map_err(|error| RegistryUrlError::Malformed(url.into(), error))?;
    let is_loopback = match (parsed.scheme(), parsed.host()) {
        ("http" | "https", Some(Host::Domain(name))) => name == "localhost",
        ("http" | "https", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http" | "https", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => return Err(RegistryUrlError::NotHttp(url.into())),
    };
    if is_loopback {
        parsed
            .set_host(Some(inside::MACHINE_ADDRESS))
            .map_err(|error| RegistryUrlError::Malformed(url.into(), error))?;
    }
    Ok(parsed.as_str().trim_end_matches('/').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_loopback_is_spelled_as_the_host_sees_it() {
        for url in
            ["http://127.0.0.1:7070", "http://localhost:7070/", "http://[::1]:7070", "http://127.8.9.1:7070"]
        {
            assert_eq!(seen_from_inside(url).unwrap(), "http://10.0.2.2:7070", "{url}");
        }
        assert_eq!(seen_from_inside("http://127.0.0.1/a/b").unwrap(), "http://10.0.2.2/a/b");
    }

    #[test]
    fn any_other_registry_is_left_as_it_is() {
        assert_eq!(
            seen_from_inside("https://registry.example:7070").unwrap(),
            "https://registry.example:7070"
        );
        assert_eq!(seen_from_inside("http://192.168.1.5:7070").unwrap(), "http://192.168.1.5:7070");
    }

    #[test]
    fn what_is_no_http_url_is_named() {
        for url in ["127.0.0.1:7070", "registry", "ftp://127.0.0.1/", "unix:/run/registry"] {
            assert!(seen_from_inside(url).unwrap_err().to_string().contains(url), "{url}");
        }
    }

    #[test]
    fn a_registry_is_only_in_the_configuration_of_a_host_that_has_one() {
        let without = toml::to_string(&AgentConfig::new(20_000, None, false, false).unwrap()).unwrap();
        assert!(!without.contains("registry"), "{without}");
        let registry = Registry { url: "http://127.0.0.1:7070", enrolment: true };
        let with = toml::to_string(&AgentConfig::new(20_000, Some(registry), false, true).unwrap()).unwrap();
        assert!(with.contains("[registry]\nurl = \"http://10.0.2.2:7070\"\n"), "{with}");
        assert!(with.contains("control_group = \"/sys/fs/cgroup/sublet-partitions.service\"\n"), "{with}");
        assert!(with.contains("advertise = \"http://127.0.0.1:20000\"\n"), "{with}");
        assert!(with.contains("insecure_http = true\n") && !with.contains("ca_file"), "{with}");
    }

    #[test]
    fn a_host_that_speaks_tls_is_advertised_so_and_knows_its_registrys_authority() {
        let registry = Registry { url: "https://127.0.0.1:7070", enrolment: true };
        let config =
            toml::to_string(&AgentConfig::new(20_000, Some(registry), true, false).unwrap()).unwrap();
        assert!(config.contains("advertise = \"https://127.0.0.1:20000\"\n"), "{config}");
        assert!(config.contains("insecure_http = false\n"), "{config}");
        assert!(config.contains("ca_file = \"/etc/sublet/registry-ca.crt\"\n"), "{config}");
    }
}
