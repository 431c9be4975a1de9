//! A machine's network card.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ConfigError;

/// Longest name of a network interface, in characters (IFNAMSIZ less the NUL).
pub const TAP_NAME_MAX: usize = 15;

/// virtio-net, served by the host's kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// A TAP interface of the host, made beforehand (persistent), that no other machine uses: what goes in there comes
    /// out of the guest's card. How much may pass is for the host to limit there.
    pub tap: String,
    /// The card's address: unicast.
    pub mac: MacAddress,
}

/// An Ethernet address, as text `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a MAC address is six bytes in hexadecimal like 02:00:00:00:00:01, not {0:?}")]
pub struct ParseMacAddressError(String);

impl NetworkConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=TAP_NAME_MAX).contains(&self.tap.len()) || !self.tap.bytes().all(allowed) {
            return Err(ConfigError::Tap(self.tap.clone()));
        }
        if !self.mac.is_a_cards() {
            return Err(ConfigError::Mac(self.mac));
        }
        Ok(())
    }
}

impl MacAddress {
    /// Whether a card can have it: neither a group's, nor nobody's (all zeroes).
    pub fn is_a_cards(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let byte = |digits: &str| match digits.len() {
            2 if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => u8::from_str_radix(digits, 16).ok(),
            _ => None,
        };
        let bytes = text.split(':').map(byte).collect::<Option<Vec<u8>>>();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| ParseMacAddressError(text.to_owned()))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = ParseMacAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_is_the_same_after_a_trip_through_text_and_json(bytes: [u8; 6]) {
            let address = MacAddress(bytes);
            prop_assert_eq!(address.to_string().to_uppercase().parse(), Ok(address));
            let json = serde_json::to_string(&address).unwrap();
            prop_assert_eq!(&json, &format!("\"{address}\""));
            prop_assert_eq!(serde_json::from_str::<MacAddress>(&json).unwrap(), address);
        }

        #[test]
        fn any_text_is_an_address_or_is_named(text in "[0-9a-g:+ ]{0,20}") {
            match text.parse::<MacAddress>() {
                Ok(address) => prop_assert_eq!(address.to_string(), text),
                Err(error) => prop_assert_eq!(error, ParseMacAddressError(text)),
            }
        }
    }

    #[test]
    fn what_is_almost_an_address_is_refused() {
        for text in ["", "02", "02:00:00:00:00", "02:00:00:00:00:01:", "2:0:0:0:0:1", "+2:00:00:00:00:01"] {
            assert_eq!(text.parse::<MacAddress>(), Err(ParseMacAddressError(text.into())));
        }
    }
}
