//! The processor as software sees it: its model, and the level of x86-64 that it amounts to.

use std::collections::BTreeSet;

use super::files::value_of;

/// Longest model name that is told, in bytes; what CPUID has room for is 48.
const MODEL_NAME_MAX: usize = 100;
/// What each level of x86-64 from the second on adds, in Linux's names (System V psABI for x86-64, "Micro-Architecture
/// Levels"). A guest sees all of it: the VMM passes it on.
const X86_64_LEVELS: [&[&str]; 3] = [
    &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
    &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
    &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
];

/// Of /proc/cpuinfo: `AMD EPYC 7763 64-Core Processor (x86-64-v3)`.
pub(super) fn model(cpuinfo: &str) -> String {
    let level = x86_64_level(value_of(cpuinfo, "flags").unwrap_or_default());
    format!("{} (x86-64-v{level})", told(value_of(cpuinfo, "model name").unwrap_or("unknown")))
}

/// As much of a model's name as is told.
fn told(model: &str) -> &str {
    let end = model.char_indices().map(|(at, _)| at).take_while(|at| *at <= MODEL_NAME_MAX).last();
    if model.len() <= MODEL_NAME_MAX { model } else { &model[..end.unwrap_or_default()] }
}

/// The highest level whose every feature, and those of the levels below it, is among the CPU's `flags`.
fn x86_64_level(flags: &str) -> usize {
    let flags: BTreeSet<&str> = flags.split_whitespace().collect();
    let reached = X86_64_LEVELS.iter().take_while(|level| level.iter().all(|flag| flags.contains(flag)));
    1 + reached.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_of_the_level_of_which_it_lacks_nothing() {
        let [v2, v3, v4] = X86_64_LEVELS.map(|level| level.join(" "));
        assert_eq!(x86_64_level("fpu sse2"), 1);
        assert_eq!(x86_64_level(&format!("fpu {v2}")), 2);
        assert_eq!(x86_64_level(&format!("{v3} {v2}")), 3);
        assert_eq!(x86_64_level(&format!("{v2} {v4}")), 2);
        assert_eq!(x86_64_level(&format!("{v2} {v3} {v4} amx_tile")), 4);
    }

    #[test]
    fn a_model_is_told_with_its_level() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: svm\n";
        assert_eq!(model(cpuinfo), "AMD EPYC 7763 (x86-64-v1)");
        assert_eq!(model(""), "unknown (x86-64-v1)");
        assert_eq!(told(&"ä".repeat(80)).len(), 100);
    }
}
