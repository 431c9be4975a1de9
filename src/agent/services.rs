//! What every part of the agent uses.

use std::{path::PathBuf, sync::Arc};

use super::{
    config::Config,
    freeze::{guard::Lookout, receipt::Receipts},
    guest::process::Vmms,
    host::{
        carve::{HostResources, Lendable, ReserveError},
        clock::LeaseClock,
        inventory::{Inventory, InventoryError},
        network::Networks,
    },
    identity::Identity,
    image_cache::ImageCache,
    key_trust::KeyTrust,
    partition::table::Table,
    registry_link::RegistryLink,
};
use crate::domain::{id::PartitionId, qualities::Qualities, terms::Terms, tls_key::TlsKey};

/// Shared by all; nothing in it changes while the agent runs.
#[derive(Debug)]
pub struct Services {
    pub config: Config,
    pub inventory: Inventory,
    pub identity: Identity,
    pub keys: KeyTrust,
    pub table: Table,
    pub receipts: Receipts,
    /// Where the freeze guard looks.
    pub lookout: Lookout,
    pub images: ImageCache,
    pub vmms: Vmms,
    pub networks: Networks,
    pub clock: Arc<LeaseClock>,
    /// The key that this host proves to have over TLS; none: it speaks plain HTTP.
    pub tls_key: Option<TlsKey>,
    /// None: the host lends directly only.
    pub registry: Option<RegistryLink>,
}

impl Services {
    /// Where a partition's disk, console and output are.
    pub fn directory(&self, partition: PartitionId) -> PathBuf {
        self.partitions_directory().join(partition.to_string())
    }

    pub fn partitions_directory(&self) -> PathBuf {
        self.config.state_directory.join("partitions")
    }

    pub fn disk(&self, partition: PartitionId) -> PathBuf {
        self.directory(partition).join("disk")
    }

    /// The console of the guest with this context id.
    pub fn console(&self, partition: PartitionId, cid: u32) -> PathBuf {
        self.directory(partition).join(format!("console-{cid}"))
    }

    /// What the host has, while partitions hold `disk_mib` of its disk.
    pub fn resources(&self, disk_mib: u64) -> Result<HostResources, InventoryError> {
        self.inventory.resources(&self.config.state_directory, disk_mib)
    }

    pub fn lendable(&self, resources: &HostResources) -> Result<Lendable, ReserveError> {
        Lendable::new(resources, &self.config.reserve)
    }

    /// Where all threads of partitions' machines run that are no vCPU's.
    pub fn service_cpus(&self) -> Vec<u32> {
        self.config.reserve.host_cpus(&self.inventory.cores)
    }

    /// The terms with what the host itself adds to them.
    pub fn with_host_facts(&self, terms: Terms) -> Terms {
        let os_images = self.images.list().into_iter().map(|image| image.name).collect();
        let qualities = Qualities {
            huge_pages: self.config.huge_pages,
            numa_nodes: self.inventory.numa_nodes,
            labels: self.config.labels.clone(),
            ..Qualities::default()
        };
        let (cpu_model, lending) = (self.inventory.cpu_model.clone(), self.config.lending);
        Terms { os_images, cpu_model, qualities, lending, ..terms }
    }
}
