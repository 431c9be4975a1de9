//! The lender host's agent: it carves partitions, offers them at a registry, lets borrowers in by their keys, boots
//! their guests and runs their jobs. In reading order:

pub mod auto_offer;
pub mod config;
pub mod daemon;

pub mod http;
pub mod identity;
pub mod key_trust;
mod performance;
pub mod registry_link;
pub mod services;
mod tls;

pub mod partition;

pub mod freeze;

pub mod guest;

pub mod host;
pub mod image_cache;
