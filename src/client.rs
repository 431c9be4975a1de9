//! Typed HTTP client of both servers; the CLI, the agent and the tests use it.

mod agent;
mod events;
mod http;
mod images;
mod registry;
mod trust;

pub use agent::{AgentClient, Tunnel};
pub use events::{LogEvent, LogEvents, MarketEvents};
pub use http::{ClientError, bare};
pub use images::{
    BadCredentials, Credentials, FetchedManifest, ImageClientError, ImageRegistry, RemoteImage, What,
};
pub use registry::{HostRequestId, LeaseRequestId, RegistryClient};
pub use trust::{Trust, TrustError};
