//! What lending is, without a clock, files, sockets, SQL or randomness: everything here is decided from its
//! arguments alone.

pub mod auto_offer;
mod hexadecimal;
pub mod id;
pub mod image;
pub mod lease;
pub mod ledger;
pub mod lending_key;
pub mod matching;
pub mod money;
pub mod month;
pub mod network;
pub mod partition;
pub mod qualities;
pub mod receipt;
pub mod registration;
pub mod resources;
pub mod secret;
pub mod terms;
pub mod tls_key;
