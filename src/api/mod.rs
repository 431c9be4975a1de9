//! What goes over the wire, a file a server; errors are RFC 9457 problems with a stable code.

pub mod agent;
#[cfg(feature = "server")]
pub mod http;
pub mod pem;
pub mod problem;
pub mod registry;
pub mod statement;
pub mod token;

pub use crate::domain::secret;

/// The header that names a request, in the logs of whoever has to do with it.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
