//! What of the host's CPU a guest may see: an explicit list. What a newer KVM supports beside it is not passed on until
//! it stands here.
//!
//! Bits as in Intel's SDM, volume 2, CPUID, and AMD's APM, volume 3, appendix E, with Linux's names for them.

use kvm_bindings::kvm_cpuid_entry2;

/// Bits of one register that are passed on.
const fn bits<const N: usize>(list: [(u8, &str); N]) -> u32 {
    let (mut mask, mut at) = (0, 0);
    while at < N {
        mask |= 1 << list[at].0;
        at += 1;
    }
    mask
}

/// The whole register: a number, not features.
const ALL: u32 = u32::MAX;
const NONE: u32 = 0;

const FEATURES_ECX: u32 = bits([
    (0, "pni"),
    (1, "pclmulqdq"),
    (9, "ssse3"),
    (12, "fma"),
    (13, "cx16"),
    (17, "pcid"),
    (19, "sse4_1"),
    (20, "sse4_2"),
    (21, "x2apic"),
    (22, "movbe"),
    (23, "popcnt"),
    (24, "tsc_deadline_timer"),
    (25, "aes"),
    (26, "xsave"),
    (27, "osxsave"),
    (28, "avx"),
    (29, "f16c"),
    (30, "rdrand"),
    (31, "hypervisor"),
]);
const FEATURES_EDX: u32 = bits([
    (0, "fpu"),
    (1, "vme"),
    (2, "de"),
    (3, "pse"),
    (4, "tsc"),
    (5, "msr"),
    (6, "pae"),
    (7, "mce"),
    (8, "cx8"),
    (9, "apic"),
    (11, "sep"),
    (12, "mtrr"),
    (13, "pge"),
    (14, "mca"),
    (15, "cmov"),
    (16, "pat"),
    (17, "pse36"),
    (19, "clflush"),
    (23, "mmx"),
    (24, "fxsr"),
    (25, "sse"),
    (26, "sse2"),
    (27, "ss"),
    (28, "ht"),
]);
const POWER_EAX: u32 = bits([(2, "arat")]);
const EXTENDED_EBX: u32 = bits([
    (0, "fsgsbase"),
    (1, "tsc_adjust"),
    (3, "bmi1"),
    (5, "avx2"),
    (7, "smep"),
    (8, "bmi2"),
    (9, "erms"),
    (10, "invpcid"),
    (16, "avx512f"),
    (17, "avx512dq"),
    (18, "rdseed"),
    (19, "adx"),
    (20, "smap"),
    (21, "avx512ifma"),
    (23, "clflushopt"),
    (24, "clwb"),
    (28, "avx512cd"),
    (29, "sha_ni"),
    (30, "avx512bw"),
    (31, "avx512vl"),
]);
const EXTENDED_ECX: u32 = bits([
    (1, "avx512vbmi"),
    (2, "umip"),
    (3, "pku"),
    (4, "ospke"),
    (6, "avx512_vbmi2"),
    (8, "gfni"),
    (9, "vaes"),
    (10, "vpclmulqdq"),
    (11, "avx512_vnni"),
    (12, "avx512_bitalg"),
    (14, "avx512_vpopcntdq"),
    (22, "rdpid"),
    (27, "movdiri"),
    (28, "movdir64b"),
]);
const EXTENDED_EDX: u32 = bits([
    (4, "fsrm"),
    (8, "avx512_vp2intersect"),
    (10, "md_clear"),
    (14, "serialize"),
    (23, "avx512_fp16"),
    (26, "ibrs"),
    (27, "stibp"),
    (28, "flush_l1d"),
    (29, "arch_capabilities"),
    (31, "ssbd"),
]);
const EXTENDED_1_EAX: u32 =
    bits([(4, "avx_vnni"), (5, "avx512_bf16"), (10, "fzrm"), (11, "fsrs"), (12, "fsrc")]);
/// State components that the guest may save; AMX's need a permission of the process that nobody asks for.
const XSAVE_EAX: u32 =
    bits([(0, "x87"), (1, "sse"), (2, "avx"), (5, "opmask"), (6, "zmm_hi256"), (7, "hi16_zmm"), (9, "pkru")]);
const XSAVE_1_EAX: u32 = bits([(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")]);
/// Asynchronous page faults are left out: the guest's memory is all there.
const KVM_EAX: u32 = bits([
    (0, "clocksource"),
    (1, "nop_io_delay"),
    (3, "clocksource2"),
    (5, "steal_time"),
    (6, "pv_eoi"),
    (7, "pv_unhalt"),
    (9, "pv_tlb_flush"),
    (11, "pv_send_ipi"),
    (12, "poll_control"),
    (13, "pv_sched_yield"),
    (15, "msi_ext_dest_id"),
    (24, "clocksource_stable_bit"),
]);
const AMD_FEATURES_ECX: u32 = bits([
    (0, "lahf_lm"),
    (1, "cmp_legacy"),
    (4, "cr8_legacy"),
    (5, "abm"),
    (6, "sse4a"),
    (7, "misalignsse"),
    (8, "3dnowprefetch"),
    (22, "topoext"),
]);
const AMD_FEATURES_EDX: u32 = (FEATURES_EDX & !bits([(11, "sep"), (19, "clflush"), (27, "ss"), (28, "ht")]))
    & !bits([(25, "sse"), (26, "sse2")])
    | bits([
        (11, "syscall"),
        (20, "nx"),
        (22, "mmxext"),
        (25, "fxsr_opt"),
        (26, "pdpe1gb"),
        (27, "rdtscp"),
        (29, "lm"),
    ]);
const AMD_POWER_EDX: u32 = bits([(8, "constant_tsc")]);
const AMD_SIZES_EBX: u32 = bits([
    (0, "clzero"),
    (2, "xsaveerptr"),
    (9, "wbnoinvd"),
    (12, "amd_ibpb"),
    (14, "amd_ibrs"),
    (15, "amd_stibp"),
    (16, "amd_ibrs_always_on"),
    (17, "amd_stibp_always_on"),
    (18, "amd_ibrs_preferred"),
    (24, "amd_ssbd"),
    (25, "virt_ssbd"),
    (28, "amd_psfd"),
]);
const AMD_EXTENDED_EAX: u32 = bits([
    (0, "no_nested_data_bp"),
    (2, "lfence_rdtsc"),
    (6, "null_sel_clr_base"),
    (8, "autoibrs"),
    (10, "fsrs"),
    (11, "fsrc"),
    (27, "sbpb"),
    (28, "ibpb_brtype"),
    (29, "srso_no"),
]);

/// Masks of eax, ebx, ecx and edx; none: the leaf is not passed on.
fn masks(function: u32, index: u32) -> Option<[u32; 4]> {
    Some(match (function, index) {
        // Vendor; cache descriptors and parameters; TSC and clock frequencies.
        (0 | 2 | 4 | 0x15 | 0x16, _) => [ALL; 4],
        (1, _) => [ALL, ALL, FEATURES_ECX, FEATURES_EDX],
        (6, _) => [POWER_EAX, NONE, NONE, NONE],
        (7, 0) => [1, EXTENDED_EBX, EXTENDED_ECX, EXTENDED_EDX],
        (7, 1) => [EXTENDED_1_EAX, NONE, NONE, NONE],
        (0xb, _) => [ALL; 4],
        (0xd, 0) => [XSAVE_EAX, ALL, ALL, NONE],
        (0xd, 1) => [XSAVE_1_EAX, ALL, NONE, NONE],
        (0xd, component) if component < 32 && XSAVE_EAX & (1 << component) != 0 => [ALL; 4],
        (0x4000_0000, _) => [ALL; 4],
        (0x4000_0001, _) => [KVM_EAX, NONE, NONE, NONE],
        // Vendor; the model's name; caches.
        (0x8000_0000 | 0x8000_0002..=0x8000_0006, _) => [ALL; 4],
        (0x8000_0001, _) => [ALL, NONE, AMD_FEATURES_ECX, AMD_FEATURES_EDX],
        (0x8000_0007, _) => [NONE, NONE, NONE, AMD_POWER_EDX],
        (0x8000_0008, _) => [ALL, AMD_SIZES_EBX, ALL, NONE],
        // Caches, and where the CPU stands among others.
        (0x8000_001d | 0x8000_001e, _) => [ALL; 4],
        (0x8000_0021, _) => [AMD_EXTENDED_EAX, NONE, NONE, NONE],
        _ => return None,
    })
}

/// Takes away what is not on the list; none: all of it.
pub(super) fn allowed(mut leaf: kvm_cpuid_entry2) -> Option<kvm_cpuid_entry2> {
    let [eax, ebx, ecx, edx] = masks(leaf.function, leaf.index)?;
    leaf.eax &= eax;
    leaf.ebx &= ebx;
    leaf.ecx &= ecx;
    leaf.edx &= edx;
    Some(leaf)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax: ALL, ebx: ALL, ecx: ALL, edx: ALL, ..Default::default() }
    }

    fn passed(function: u32, index: u32) -> [u32; 4] {
        let leaf = allowed(full(function, index)).unwrap();
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    }

    #[test]
    fn nested_virtualisation_counters_and_hardware_tracing_are_not_passed_on() {
        let (vmx, svm, pdcm, monitor, pt, amx) = (1 << 5, 1 << 2, 1 << 15, 1 << 3, 1 << 25, 1 << 24);
        assert_eq!(passed(1, 0)[2] & (vmx | pdcm | monitor), 0);
        assert_eq!(passed(0x8000_0001, 0)[2] & svm, 0);
        assert_eq!(passed(7, 0)[1] & pt, 0);
        assert_eq!(passed(7, 0)[3] & amx, 0);
        assert!(
            [0xa, 0x12, 0x14, 0x1d, 0x8000_000a, 0x8000_001f]
                .iter()
                .all(|leaf| allowed(full(*leaf, 0)).is_none())
        );
    }

    /// System V psABI for x86-64, "Micro-Architecture Levels".
    #[test]
    fn every_level_of_x86_64_passes() {
        let v2_ecx = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23;
        let v3_ecx = 1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29;
        assert_eq!(passed(1, 0)[2] & (v2_ecx | v3_ecx), v2_ecx | v3_ecx);
        let (lahf, lzcnt) = (1, 1 << 5);
        assert_eq!(passed(0x8000_0001, 0)[2] & (lahf | lzcnt), lahf | lzcnt);
        let v3_ebx = 1 << 3 | 1 << 5 | 1 << 8;
        let v4_ebx = 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31;
        assert_eq!(passed(7, 0)[1] & (v3_ebx | v4_ebx), v3_ebx | v4_ebx);
    }

    #[test]
    fn a_cpu_in_long_mode_keeps_what_a_kernel_needs_to_start() {
        let [_, _, _, edx] = passed(0x8000_0001, 0);
        let needed = [11, 20, 29];
        assert!(needed.iter().all(|bit| edx & (1 << bit) != 0), "{edx:#x}");
    }

    proptest! {
        #[test]
        fn nothing_is_added_to_what_the_host_has(function: u32, index in 0u32..64, eax: u32, ebx: u32, ecx: u32, edx: u32) {
            let host = kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() };
            if let Some(leaf) = allowed(host) {
                prop_assert_eq!((leaf.eax | eax, leaf.ebx | ebx, leaf.ecx | ecx, leaf.edx | edx), (eax, ebx, ecx, edx));
            }
        }
    }
}
