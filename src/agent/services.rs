//! What every part of the agent uses.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    config::Config,
    freeze::{guard::Lookout, receipt::Receipts},
    guest::process::Vmms,
    host::{
        carve::{HostResources, Lendable, ReserveError, VMM_OVERHEAD_MIB},
        cgroup::{DiskBounds, SetAside},
        clock::LeaseClock,
        disk::{self, DiskError, DiskSettings},
        disk_keys::DiskKeys,
        network::Networks,
    },
    identity::Identity,
    image_cache::ImageCache,
    key_trust::KeyTrust,
    partition::table::Table,
    registry_link::RegistryLink,
};
use crate::{
    domain::{id::PartitionId, partition::Partition, qualities::Qualities, terms::Terms, tls_key::TlsKey},
    inventory::{
        Inventory,
        rating::{self, Ratings},
    },
};

/// Shared by all; nothing in it changes while the agent runs.
#[derive(Debug)]
pub struct Services {
    pub config: Config,
    pub inventory: Inventory,
    /// How fast its cores are.
    pub ratings: Ratings,
    pub identity: Identity,
    pub keys: KeyTrust,
    pub disk_keys: DiskKeys,
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
    pub fn resources(&self, disk_mib: u64) -> Result<HostResources, DiskError> {
        let free_mib = disk::available_mib(&self.config.state_directory)?;
        let topology = self.inventory.topology.clone();
        Ok(HostResources { topology, disk_mib: free_mib.saturating_add(disk_mib) })
    }

    pub fn lendable(&self, resources: &HostResources) -> Result<Lendable, ReserveError> {
        Lendable::new(resources, &self.config.reserve, self.config.huge_pages)
    }

    /// The owner's CPUs, where all threads of partitions' machines run that are no vCPU's.
    pub fn owner_cpus(&self) -> Vec<u32> {
        self.config.reserve.host_cpus(&self.inventory.topology)
    }

    /// The host CPU of each of the partition's vCPUs.
    pub fn vcpu_cpus(&self, partition: &Partition) -> Vec<u32> {
        self.inventory.topology.by_core(&partition.host_cpus)
    }

    /// Where the other threads of its machine run. Nothing of the host's disturbs a vCPU that has its CPU to itself, the
    /// work on its disks least of all; what is done for one that has a share is part of the share.
    pub fn service_cpus(&self, partition: &Partition) -> Vec<u32> {
        let shared = partition.terms.qualities.cpu_share_percent.is_some();
        if shared { partition.host_cpus.clone() } else { self.owner_cpus() }
    }

    /// What the host's kernel is to keep for the partition.
    pub fn set_aside(&self, partition: &Partition) -> SetAside {
        let Partition { terms, host_cpus, .. } = partition;
        let cores = self.inventory.topology.cores_of(host_cpus).flat_map(|core| core.cpus.iter().copied());
        SetAside {
            cpus: host_cpus.iter().copied().collect(),
            cores: cores.collect(),
            cpu_share_percent: terms.qualities.cpu_share_percent,
            owner_cpus: self.owner_cpus().into_iter().collect(),
            memory_mib: terms.allocation.memory_mib + VMM_OVERHEAD_MIB,
            disk: if terms.allocation.disk_mib > 0 { self.disk_bounds() } else { None },
        }
    }

    /// Most that each partition uses of the disk that its own is on.
    fn disk_bounds(&self) -> Option<DiskBounds> {
        let bounds = &self.config.disk;
        let device = disk::device_of(Path::new("/"), &self.config.state_directory)?;
        (*bounds != DiskSettings::default()).then_some(DiskBounds {
            device,
            bytes_per_second: bounds.bytes_per_second,
            operations_per_second: bounds.operations_per_second,
        })
    }

    /// How fast each CPU that can be lent is at least.
    pub fn lendable_performance(&self) -> Option<u32> {
        let (topology, owner_cpus) = (&self.inventory.topology, self.owner_cpus());
        let cpus = topology.cores.iter().flat_map(|core| core.cpus.iter().copied());
        let lendable: Vec<u32> = cpus.filter(|cpu| !owner_cpus.contains(cpu)).collect();
        rating::stated(&self.ratings, topology, &lendable)
    }

    /// The terms of a partition that has these CPUs, with what the host itself adds to them.
    pub fn with_host_facts(&self, terms: Terms, host_cpus: &[u32]) -> Terms {
        let topology = &self.inventory.topology;
        let os_images = self.images.list().into_iter().map(|image| image.name).collect();
        let qualities = Qualities {
            cpu_share_percent: terms.qualities.cpu_share_percent,
            performance: rating::stated(&self.ratings, topology, host_cpus),
            huge_pages: self.config.huge_pages,
            numa_nodes: u16::try_from(topology.nodes_of(host_cpus).len()).ok().filter(|nodes| *nodes > 0),
            labels: self.config.labels.clone(),
            ..Qualities::default()
        };
        let (cpu_model, lending) = (self.inventory.cpu_model.clone(), self.config.lending);
        Terms { os_images, cpu_model, qualities, lending, ..terms }
    }
}
