//! Words of the command line that stand for a value.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use jiff::SignedDuration;

/// `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("write it as NAME=VALUE".to_owned()),
        }
    }
}

/// A size in whole MiB: `512`, `512MiB`, `2GiB`, `1TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub mib: u64,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "" | "MiB" | "M" => 1,
            "GiB" | "G" => 1024,
            "TiB" | "T" => 1024 * 1024,
            _ => return Err("a size is a whole number with MiB, GiB or TiB".to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| "a size starts with a whole number".to_owned())?;
        let mib = number.checked_mul(factor).ok_or("that is too large")?;
        Ok(Self { mib })
    }
}

/// A length of time: `90s`, `30m`, `2h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseDuration {
    pub seconds: u64,
}

impl FromStr for LeaseDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration: SignedDuration = text.parse().map_err(|_| "write it like 90s, 30m or 2h".to_owned())?;
        match u64::try_from(duration.as_secs()) {
            Ok(seconds) if seconds > 0 => Ok(Self { seconds }),
            _ => Err("at least one second".to_owned()),
        }
    }
}

/// What is forwarded where: `[BIND:]LOCAL:GUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where to listen.
    pub local: SocketAddr,
    /// Port of the guest.
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.rsplitn(3, ':');
        let (guest, local, bind) = (parts.next(), parts.next(), parts.next());
        let guest = guest.and_then(|port| port.parse().ok()).filter(|port| *port > 0);
        let local = local.and_then(|port| port.parse().ok());
        let (Some(local), Some(guest)) = (local, guest) else {
            return Err("write it as LOCAL:GUEST, two ports, for example 8022:22".to_owned());
        };
        let bind = match bind {
            None => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some(address) => address.trim_start_matches('[').trim_end_matches(']').parse(),
        };
        let bind =
            bind.map_err(|_| "before the ports comes an IP address, for example 127.0.0.1 or [::1]")?;
        Ok(Self { local: SocketAddr::new(bind, local), guest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_their_unit() {
        assert_eq!("512".parse::<Size>().unwrap().mib, 512);
        assert_eq!("2GiB".parse::<Size>().unwrap().mib, 2048);
        for wrong in ["", "MiB", "1.5GiB", "-1", "3KB", "99999999999999999999", "18446744073709551615TiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_forward_listens_on_loopback_unless_it_says_otherwise() {
        let forward =
            |text: &str| text.parse::<Forward>().map(|forward| (forward.local.to_string(), forward.guest));
        assert_eq!(forward("8022:22").unwrap(), ("127.0.0.1:8022".to_owned(), 22));
        assert_eq!(forward("0:22").unwrap(), ("127.0.0.1:0".to_owned(), 22));
        assert_eq!(forward("0.0.0.0:8080:80").unwrap(), ("0.0.0.0:8080".to_owned(), 80));
        assert_eq!(forward("[::1]:8080:80").unwrap(), ("[::1]:8080".to_owned(), 80));
        for wrong in
            ["", "22", ":", "8022:", "8022:0", "8022:65536", "-1:22", "host:8022:22", "a:b", "1.2.3:1:2"]
        {
            assert!(forward(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_are_read_and_never_empty() {
        assert_eq!("1h 30m".parse::<LeaseDuration>().unwrap().seconds, 5400);
        for wrong in ["", "0s", "-5m", "soon"] {
            assert!(wrong.parse::<LeaseDuration>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_variable_may_have_an_empty_value_but_not_an_empty_name() {
        assert!("A=".parse::<Variable>().is_ok());
        assert!("=1".parse::<Variable>().is_err());
        assert!("A".parse::<Variable>().is_err());
    }
}
