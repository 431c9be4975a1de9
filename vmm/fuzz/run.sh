#!/usr/bin/env bash
# Builds the fuzz targets and runs them, beginning with their seeds.
# usage: run.sh                      every target for so many inputs, found the same way each time
#        run.sh TARGET [OPTION…]     one target until it finds something, with libFuzzer's options
#                                    (-max_total_time=3600 -fork=2 …); the corpus is kept for the next time
#        run.sh TARGET INPUT         one target with one input: what was found before
set -euo pipefail
cd "$(dirname "$0")/../.."

# Inputs for each target: a few seconds' worth.
inputs=(
    bus:30000 virtio_transport:30000 virtio_block:20000 virtio_rng:30000 virtio_port:10000
    control_socket:30000 console_ring:50000 boot:30000 guest_frames:200000
)

target=x86_64-unknown-linux-gnu
folder=${CARGO_TARGET_DIR:-$PWD/target}
place=$folder/fuzz-corpus
programs=$folder/$target/fuzz

# What `cargo fuzz build --sanitizer none` sets. With an explicit target it does not reach build scripts.
flags=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
    --cfg fuzzing
)
RUSTFLAGS="${flags[*]}" cargo build --locked --profile fuzz --target "$target" --package sublet-vmm-fuzz --bins
# With what the whole workspace asks of the libraries, as tests build it.
cargo build --locked --quiet --workspace --example seeds
"$folder/debug/examples/seeds" "$place/seeds"

# usage: fuzz TARGET CORPUS [OPTION…]
fuzz() {
    local name=$1 corpus=$2
    shift 2
    mkdir -p "$corpus" "$place/found"
    "$programs/$name" -timeout=120 -rss_limit_mb=1024 -artifact_prefix="$place/found/$name-" "$@" \
        "$corpus" "$place/seeds/$name"
}

if [ $# -eq 0 ]; then
    for entry in "${inputs[@]}"; do
        name=${entry%:*} begun=$SECONDS
        rm -rf "$place/brief" # so that nothing found earlier changes what is tried
        fuzz "$name" "$place/brief" -runs="${entry#*:}" -seed=1 >"$place/brief.log" 2>&1 || {
            tail -n 60 "$place/brief.log" >&2
            exit 1
        }
        printf '%-18s %6d inputs, %3d s\n' "$name" "${entry#*:}" $((SECONDS - begun))
    done
elif [ -f "${2:-}" ]; then
    "$programs/$1" "$2"
else
    name=$1
    shift
    fuzz "$name" "$place/kept/$name" "$@"
fi
