//! What a vCPU answers to the CPUID instruction: of the host's CPU what KVM can virtualise and [`allowed`] lists, with
//! the machine's own topology.

mod allowed;

use std::{fs, path::Path};

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use thiserror::Error;

/// Basic leaves (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E).
const LEAF_LAST: u32 = 0;
const LEAF_FEATURES: u32 = 1;
const LEAF_INTEL_CACHES: u32 = 4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_KVM: u32 = 0x4000_0000;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
/// Frequencies, where VMware and QEMU tell them too.
const LEAF_FREQUENCIES: u32 = 0x4000_0010;
const LEAF_AMD_FEATURES: u32 = 0x8000_0001;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_CACHES: u32 = 0x8000_001d;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
const FEATURES_EDX_HTT: u32 = 1 << 28;
/// KVM_HINTS_REALTIME: no vCPU ever waits for a CPU, so that a guest may wait by spinning.
const KVM_FEATURES_EDX_DEDICATED: u32 = 1;
/// Of KVM's local APIC.
const APIC_TIMER_KHZ: u32 = 1_000_000;
const AMD_FEATURES_ECX_CMP_LEGACY: u32 = 1 << 1;

#[derive(Debug, Error)]
#[error("more CPUID leaves than one table takes")]
pub struct TooManyLeaves;

/// The machine's CPUs: one package of cores with equally many threads each. vCPU `i` has APIC id `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    vcpus: u32,
    threads_per_core: u32,
    /// Nobody else runs on the host CPUs beneath.
    alone: bool,
}

impl Topology {
    /// Follows the host: where each two vCPUs in turn run on the two threads of one host core they are two threads
    /// of one core in the guest as well; anything else is a core a vCPU.
    pub fn of_host_cpus(host_cpus: &[u32], alone: bool) -> Self {
        let siblings: Vec<Option<String>> = host_cpus.iter().map(|cpu| host_siblings(*cpu)).collect();
        Self { alone, ..Self::of_siblings(&siblings) }
    }

    fn of_siblings(siblings: &[Option<String>]) -> Self {
        let in_pairs = siblings.chunks(2).all(|pair| matches!(pair, [Some(a), Some(b)] if a == b));
        Self { vcpus: siblings.len() as u32, threads_per_core: if in_pairs { 2 } else { 1 }, alone: true }
    }

    fn cores(self) -> u32 {
        self.vcpus.div_ceil(self.threads_per_core)
    }

    /// Bits of an APIC id that number a core's threads.
    fn thread_bits(self) -> u32 {
        self.threads_per_core.next_power_of_two().trailing_zeros()
    }

    /// Bits of an APIC id that number the package's threads.
    fn package_bits(self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }
}

/// Which host CPUs are threads of the same core, as the kernel lists them. Unknown where the host does not say.
fn host_siblings(cpu: u32) -> Option<String> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(Path::new(&path)).ok()
}

/// CPUID of vCPU `index`, from what KVM supports on this host.
pub fn of_vcpu(supported: &CpuId, index: u32, topology: Topology) -> Result<CpuId, TooManyLeaves> {
    let mut leaves: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|leaf| leaf.function != LEAF_TOPOLOGY)
        .filter_map(|leaf| allowed::allowed(*leaf))
        .collect();
    leaves.iter_mut().for_each(|leaf| adjust(leaf, index, topology));
    let last = leaves.iter().find(|leaf| leaf.function == LEAF_LAST).map_or(0, |leaf| leaf.eax);
    if last >= LEAF_TOPOLOGY {
        leaves.extend(topology_leaves(index, topology));
    }
    CpuId::from_entries(&leaves).map_err(|_| TooManyLeaves)
}

/// Tells at what frequency the vCPU's TSC counts; Linux learns it from kvmclock, others look here.
pub fn tell_frequencies(cpuid: &CpuId, tsc_khz: u32) -> Result<CpuId, TooManyLeaves> {
    let frequencies = kvm_cpuid_entry2 {
        function: LEAF_FREQUENCIES,
        eax: tsc_khz,
        ebx: APIC_TIMER_KHZ,
        ..Default::default()
    };
    let mut cpuid = cpuid.clone();
    cpuid.push(frequencies).map_err(|_| TooManyLeaves)?;
    Ok(cpuid)
}

fn adjust(leaf: &mut kvm_cpuid_entry2, index: u32, topology: Topology) {
    match leaf.function {
        // The second list of levels would be looked at first.
        LEAF_LAST => leaf.eax = leaf.eax.min(LEAF_TOPOLOGY_V2 - 1),
        LEAF_FEATURES => adjust_features(leaf, index, topology),
        LEAF_KVM => leaf.eax = LEAF_FREQUENCIES,
        LEAF_KVM_FEATURES => leaf.edx = if topology.alone { KVM_FEATURES_EDX_DEDICATED } else { 0 },
        LEAF_INTEL_CACHES if leaf.eax & 0x1f != 0 => {
            let cores = (1 << (topology.package_bits() - topology.thread_bits())) - 1;
            leaf.eax = (leaf.eax & 0x3fff) | (cores << 26) | (sharing(leaf.eax, topology) << 14);
        }
        LEAF_AMD_FEATURES => {
            leaf.ecx &= !AMD_FEATURES_ECX_CMP_LEGACY;
            if topology.vcpus > 1 {
                leaf.ecx |= AMD_FEATURES_ECX_CMP_LEGACY;
            }
        }
        LEAF_AMD_SIZES => leaf.ecx = (topology.package_bits() << 12) | (topology.vcpus - 1),
        LEAF_AMD_CACHES if leaf.eax & 0x1f != 0 => {
            leaf.eax = (leaf.eax & 0x3fff) | (sharing(leaf.eax, topology) << 14);
        }
        LEAF_AMD_TOPOLOGY => {
            leaf.eax = index;
            leaf.ebx = ((topology.threads_per_core - 1) << 8) | (index >> topology.thread_bits());
            leaf.ecx = 0;
        }
        _ => {}
    }
}

fn adjust_features(leaf: &mut kvm_cpuid_entry2, index: u32, topology: Topology) {
    let threads = 1 << topology.package_bits();
    leaf.ebx = (leaf.ebx & 0xffff) | (index << 24) | (threads << 16);
    leaf.ecx |= FEATURES_ECX_HYPERVISOR | FEATURES_ECX_TSC_DEADLINE;
    if topology.vcpus > 1 {
        leaf.edx |= FEATURES_EDX_HTT;
    }
}

/// How many APIC ids share this cache, less one: the third level is the package's, the others are a core's.
fn sharing(cache_eax: u32, topology: Topology) -> u32 {
    let level = (cache_eax >> 5) & 0x7;
    let bits = if level >= 3 { topology.package_bits() } else { topology.thread_bits() };
    (1 << bits) - 1
}

fn topology_leaves(index: u32, topology: Topology) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let leaf = |number: u32, kind: u32, bits: u32, count: u32| kvm_cpuid_entry2 {
        function: LEAF_TOPOLOGY,
        index: number,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: count,
        ecx: kind | number,
        edx: index,
        ..Default::default()
    };
    [
        leaf(0, THREADS, topology.thread_bits(), topology.threads_per_core),
        leaf(1, CORES, topology.package_bits(), topology.cores() * topology.threads_per_core),
        leaf(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;

    fn leaf(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn host() -> CpuId {
        let entries = [
            leaf(LEAF_LAST, 0x20, 0, 0, 0),
            leaf(LEAF_FEATURES, 0, 0x0740_0800, VMX, 0),
            leaf(LEAF_TOPOLOGY_V2, 7, 7, 7, 7),
            leaf(LEAF_KVM, 0x4000_0001, 0, 0, 0),
            leaf(LEAF_KVM_FEATURES, 9, 0, 0, 0),
            leaf(LEAF_AMD_FEATURES, 0, 0, SVM, 0),
            leaf(LEAF_AMD_SIZES, 0x3030, 0, 0x7fff, 0),
        ];
        CpuId::from_entries(&entries).unwrap()
    }

    fn answer(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = cpuid.as_slice().iter().find(|leaf| leaf.function == function && leaf.index == index);
        *found.unwrap()
    }

    const FOUR: Topology = Topology { vcpus: 4, threads_per_core: 1, alone: true };

    #[test]
    fn each_vcpu_has_its_own_apic_id_everywhere() {
        for index in 0..4 {
            let cpuid = of_vcpu(&host(), index, FOUR).unwrap();
            assert_eq!(answer(&cpuid, LEAF_FEATURES, 0).ebx >> 24, index);
            assert_eq!(answer(&cpuid, LEAF_TOPOLOGY, 0).edx, index);
        }
    }

    #[test]
    fn a_guest_is_told_how_fast_its_clock_counts_and_that_its_cpus_are_its_own() {
        let cpuid = tell_frequencies(&of_vcpu(&host(), 0, FOUR).unwrap(), 2_994_372).unwrap();
        assert_eq!(answer(&cpuid, LEAF_KVM, 0).eax, LEAF_FREQUENCIES);
        let frequencies = answer(&cpuid, LEAF_FREQUENCIES, 0);
        assert_eq!((frequencies.eax, frequencies.ebx), (2_994_372, 1_000_000));
        assert_eq!(answer(&cpuid, LEAF_KVM_FEATURES, 0).edx, 1);
        let shared = of_vcpu(&host(), 0, Topology { alone: false, ..FOUR }).unwrap();
        assert_eq!(answer(&shared, LEAF_KVM_FEATURES, 0).edx, 0, "it must not wait by spinning");
    }

    #[test]
    fn a_guest_is_told_of_no_nested_virtualisation() {
        let cpuid = of_vcpu(&host(), 0, FOUR).unwrap();
        assert_eq!(answer(&cpuid, LEAF_FEATURES, 0).ecx & VMX, 0);
        assert_eq!(answer(&cpuid, LEAF_AMD_FEATURES, 0).ecx & SVM, 0);
    }

    #[test]
    fn the_hosts_topology_does_not_show_through() {
        let cpuid = of_vcpu(&host(), 0, FOUR).unwrap();
        assert!(cpuid.as_slice().iter().all(|leaf| leaf.function != LEAF_TOPOLOGY_V2));
        assert_eq!(answer(&cpuid, LEAF_AMD_SIZES, 0).ecx, (2 << 12) | 3);
        assert_eq!(answer(&cpuid, LEAF_FEATURES, 0).ebx >> 16 & 0xff, 4);
    }

    #[test]
    fn vcpus_on_the_threads_of_one_host_core_are_threads_of_one_core() {
        let siblings = |names: &[&str]| names.iter().map(|name| Some(name.to_string())).collect::<Vec<_>>();
        let paired = Topology::of_siblings(&siblings(&["0,4", "0,4", "1,5", "1,5"]));
        assert_eq!(paired, Topology { threads_per_core: 2, ..FOUR });
        let apart = Topology::of_siblings(&siblings(&["0,4", "1,5"]));
        assert_eq!(apart, Topology { vcpus: 2, ..FOUR });
        assert_eq!(Topology::of_siblings(&[None, None]), Topology { vcpus: 2, ..FOUR });
    }
}
