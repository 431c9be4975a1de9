//! Links the freestanding program by its own script.

use std::env::{var, var_os};

const LINK_ARGUMENTS: [&str; 6] =
    ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-znoexecstack"];

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    let directory = var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if var_os("CARGO_FEATURE_PVH").is_some() {
        for argument in LINK_ARGUMENTS {
            println!("cargo::rustc-link-arg-bin=sublet-firmware={argument}");
        }
        println!("cargo::rustc-link-arg-bin=sublet-firmware=-Wl,-T,{directory}/link.ld");
    }
}
