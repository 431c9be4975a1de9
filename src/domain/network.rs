//! Where a partition's guest reaches by itself.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Ordered: a partition that reaches further also does for a borrower who asked for less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nowhere: it has no network card.
    #[default]
    None,
    /// The internet, by connections that the guest opens, under the host's address; none of the lender's own networks.
    Nat,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a network is none or nat, not {0:?}")]
pub struct NotANetwork(String);

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "nat" => Ok(Self::Nat),
            _ => Err(NotANetwork(text.to_owned())),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Nat => "nat",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_as_it_was_written() {
        for network in [Network::None, Network::Nat] {
            assert_eq!(network.to_string().parse(), Ok(network));
            assert_eq!(serde_json::to_string(&network).unwrap(), format!("\"{network}\""));
        }
        assert_eq!(
            "bridge".parse::<Network>().unwrap_err().to_string(),
            "a network is none or nat, not \"bridge\""
        );
    }
}
