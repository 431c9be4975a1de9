#!/usr/bin/env bash
# Builds all programs, static, so that the same files run here, in a lab host and in a guest.
# usage: build.sh        prints the folder they are in; SUBLET_PROGRAMS=DIR takes those that are built already
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${SUBLET_PROGRAMS:-}" ]; then
    echo "$SUBLET_PROGRAMS"
    exit
fi
# With an explicit target the flags do not reach procedural macros, which cannot be static.
target=x86_64-unknown-linux-gnu
RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target "$target" \
    --package sublet --package sublet-vmm --package sublet-guest --package sublet-lab >&2
echo "${CARGO_TARGET_DIR:-$PWD/target}/$target/release"
