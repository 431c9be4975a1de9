//! Which PostgreSQL server, and how it is come to: `postgres://USER@HOST:PORT/DATABASE?…`, as libpq has it, but for what
//! would be unsafe. A password is never in it: it is in a file, named by `passfile` or `PGPASSFILE`.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use reqwest::Url;
use thiserror::Error;
use tokio_postgres::config::{Config, Host, SslMode};

/// Where Debian keeps the certificates of authorities that it trusts.
const SYSTEMS_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What each session is told when it begins.
///
/// Law 6: a commit is answered once it is durable. A process that died far away must not hold its locks for long. Index
/// scans are preferred, as serializable transactions lock all that they scan.
const SESSION: &str = "-c synchronous_commit=on -c idle_in_transaction_session_timeout=10s \
                       -c lock_timeout=10s -c statement_timeout=30s -c tcp_keepalives_idle=5 \
                       -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c enable_seqscan=off";

#[derive(Debug, Clone)]
pub struct Server {
    /// Without a password.
    pub(super) config: Config,
    /// Where TLS is spoken: the certificates of the authorities that may vouch for the server.
    pub(super) authorities: Option<PathBuf>,
    pub(super) passfile: Option<PathBuf>,
    url: String,
}

#[derive(Debug, Error)]
pub enum BadServer {
    #[error("the database's URL cannot be read")]
    Url(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "the database's URL holds a password, which others could see: put a line HOST:PORT:DATABASE:USER:PASSWORD into a \
         file of mode 600, and name it with ?passfile=FILE or PGPASSFILE"
    )]
    Password,
    #[error("a database's URL names user, host and database, postgres://USER@HOST/DATABASE, not {0:?}")]
    Incomplete(String),
    #[error("sslmode: \"disable\" or \"verify-full\", not {0:?}")]
    SslMode(String),
}

impl FromStr for Server {
    type Err = BadServer;

    fn from_str(text: &str) -> Result<Self, BadServer> {
        let mut url = Url::parse(text).map_err(|error| BadServer::Url(error.into()))?;
        if url.password().is_some() {
            return Err(BadServer::Password);
        }
        let mut ours = Ours::take_from(&mut url);
        let mut config: Config =
            url.as_str().parse().map_err(|error: tokio_postgres::Error| BadServer::Url(error.into()))?;
        if config.get_password().is_some() {
            return Err(BadServer::Password);
        }
        if config.get_hosts().is_empty() || config.get_user().is_none() || config.get_dbname().is_none() {
            return Err(BadServer::Incomplete(text.to_owned()));
        }
        let authorities = match ours.sslmode.take() {
            None if config.get_hosts().iter().all(is_on_this_machine) => None,
            Some(mode) if mode == "disable" => None,
            Some(mode) if mode != "verify-full" => return Err(BadServer::SslMode(mode)),
            None | Some(_) => Some(ours.sslrootcert.unwrap_or_else(|| SYSTEMS_AUTHORITIES.into())),
        };
        config.ssl_mode(if authorities.is_some() { SslMode::Require } else { SslMode::Disable });
        let options = config.get_options().map_or(SESSION.to_owned(), |own| format!("{own} {SESSION}"));
        config.options(options).connect_timeout(CONNECT_TIMEOUT).application_name("sublet-registry");
        config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3).tcp_user_timeout(Duration::from_secs(20));
        let passfile = ours.passfile.or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from));
        Ok(Self { config, authorities, passfile, url: text.to_owned() })
    }
}

/// What is ours to read of the URL: the driver knows less of TLS, and nothing of files with passwords.
#[derive(Default)]
struct Ours {
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

impl Ours {
    fn take_from(url: &mut Url) -> Self {
        let mut ours = Self::default();
        let mut rest = Vec::new();
        for (name, value) in url.query_pairs().into_owned() {
            match name.as_str() {
                "sslmode" => ours.sslmode = Some(value),
                "sslrootcert" => ours.sslrootcert = Some(value.into()),
                "passfile" => ours.passfile = Some(value.into()),
                _ => rest.push((name, value)),
            }
        }
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        ours
    }
}

/// Nobody is on the way there who could listen.
fn is_on_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    }
}

impl Server {
    /// The name or address of the first host, its port, the database and the user, as a file with passwords has them.
    pub(super) fn login(&self) -> [String; 4] {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(_)) | None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432).to_string();
        let named = |name: Option<&str>| name.unwrap_or_default().to_owned();
        [host, port, named(self.config.get_dbname()), named(self.config.get_user())]
    }

    pub(super) fn passfile(&self) -> Option<&Path> {
        self.passfile.as_deref()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server, BadServer> {
        url.parse()
    }

    #[test]
    fn tls_is_spoken_with_every_server_but_those_of_this_machine() {
        for near in ["postgres://u@%2Ftmp%2Fs/d", "postgres://u@localhost/d", "postgres://u@127.0.0.1:1/d"] {
            assert_eq!(server(near).unwrap().authorities, None, "{near}");
        }
        let far = server("postgres://u@db.example/d").unwrap();
        assert_eq!(far.authorities.as_deref(), Some(Path::new(SYSTEMS_AUTHORITIES)));
        let own = server("postgres://u@10.0.0.1/d?sslrootcert=%2Fetc%2Fca.pem").unwrap();
        assert_eq!(own.authorities.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!(server("postgres://u@10.0.0.1/d?sslmode=disable").unwrap().authorities, None);
        let asked = server("postgres://u@localhost/d?sslmode=verify-full").unwrap();
        assert!(asked.authorities.is_some());
    }

    #[test]
    fn ways_of_tls_that_an_impostor_passes_are_refused() {
        for mode in ["allow", "prefer", "require", "verify-ca"] {
            let refused = server(&format!("postgres://u@db/d?sslmode={mode}"));
            assert!(matches!(refused, Err(BadServer::SslMode(named)) if named == mode));
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        for url in ["postgres://u:hunter2@db/d", "postgres://u@db/d?password=hunter2"] {
            let error = server(url).unwrap_err();
            assert!(matches!(error, BadServer::Password) && !error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn what_is_not_a_servers_url_is_refused() {
        for url in ["postgres://u@db:port/d", "postgres://u@db/d?colour=blue"] {
            assert!(matches!(server(url), Err(BadServer::Url(_))), "{url}");
        }
        for url in ["postgres://", "postgres://db/d", "postgres://u@db", "postgres:///d"] {
            assert!(matches!(server(url), Err(BadServer::Incomplete(_))), "{url}");
        }
    }
}
