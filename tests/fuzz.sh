#!/usr/bin/env bash
# Builds a package's fuzz targets and runs them, beginning with their seeds; called by the package's own run.sh.
# usage: fuzz.sh PACKAGE SEEDS TARGET:RUNS… -- [TARGET [OPTION… | INPUT]]
#        SEEDS is the package's example that writes the seeds; RUNS is how many inputs a target is given where none is named
set -euo pipefail
cd "$(dirname "$0")/.."

package=$1 seeds=$2 inputs=()
shift 2
while [ "$1" != -- ]; do
    inputs+=("$1")
    shift
done
shift

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
RUSTFLAGS="${flags[*]}" cargo build --locked --profile fuzz --target "$target" --package "$package" --bins
# With what the whole workspace asks of the libraries, as tests build it.
cargo build --locked --quiet --workspace --example "$seeds"
"$folder/debug/examples/$seeds" "$place/seeds"

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
