//! Fixed numbers of bytes, as hexadecimal digits: keys, signatures and digests on the wire.

use thiserror::Error;

#[derive(Debug, Error, PartialEq, Eq)]
#[error("{what} is {digits} hexadecimal digits, not {got:?}")]
pub struct NotHex {
    what: &'static str,
    digits: usize,
    got: String,
}

impl NotHex {
    /// Of a secret: what is wrong with it is not shown.
    pub(super) fn hidden(self) -> Self {
        Self { got: "…".to_owned(), ..self }
    }
}

pub(super) fn digits<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], NotHex> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(NotHex { what, digits: 2 * N, got: text.to_owned() }),
    }
}

/// Has a newtype of bytes read and written as hexadecimal digits.
macro_rules! hexadecimal {
    ($name:ident, $what:literal) => {
        impl std::str::FromStr for $name {
            type Err = crate::domain::hexadecimal::NotHex;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::domain::hexadecimal::digits($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = crate::domain::hexadecimal::NotHex;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(bytes: $name) -> Self {
                hex::encode(bytes.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

pub(super) use hexadecimal;
