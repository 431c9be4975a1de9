#!/usr/bin/env bash
# Builds all programs, static, so that the same files run here, in a lab host and in a guest.
# usage: build.sh        prints the folder they are in
set -euo pipefail
cd "$(dirname "$0")/.."

# With an explicit target the flags do not reach procedural macros, which cannot be static.
target=x86_64-unknown-linux-gnu
RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target "$target" \
    --package sublet --package sublet-vmm --package sublet-guest --package sublet-lab >&2
echo "${CARGO_TARGET_DIR:-$PWD/target}/$target/release"
