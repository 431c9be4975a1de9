#!/usr/bin/env bash
# Every check of the project: formatting, lints, unit tests, and whole-system tests on real guests in the lab.
# usage: tests/run.sh [--long]
#   --long   also what takes long: property tests, simulations and crash loops with many more cases
# Installs what it needs on a fresh Debian 12 with Rust and a C compiler (as root, or by sudo).
set -euo pipefail
cd "$(dirname "$0")/.."

long=no
for argument in "$@"; do
    case "$argument" in
    --long) long=yes ;;
    *) echo "usage: tests/run.sh [--long]" >&2; exit 2 ;;
    esac
done
histories_on_postgres=100 kills_on_postgres=40 time_on_postgres=15m
if [ "$long" = yes ]; then
    export PROPTEST_CASES=20000 SUBLET_SEEDS=3000 SUBLET_HISTORIES=20000 SUBLET_KILLS=1000
    histories_on_postgres=3000 kills_on_postgres=400 time_on_postgres=90m
fi

# Nothing here is built twice, so what would make that faster is only gigabytes.
export CARGO_INCREMENTAL=0

step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

step "Debian packages"
# libFuzzer is C++. An SSH server for guests, and what logs in to it. The contract tester is a Python program.
# Other people's client and registry of images, QEMU's disks, and the walls that these are converted within.
# What makes the disks that the firmware reads, and a unified kernel image.
bash tests/lab/packages.sh g++ dropbear-bin openssh-client python3-venv postgresql postgresql-client openssl \
    skopeo docker-registry qemu-utils bubblewrap fdisk binutils systemd-boot-efi

step "formatting"
cargo fmt --all --check

# Everything is built with what the whole workspace asks of the libraries, once.
step "lints"
cargo clippy --locked --workspace --features sublet/postgres-tests --all-targets -- -D warnings
cargo clippy --locked --workspace --features sublet/postgres-tests --test system --test lab --test machine -- -D warnings
for feature in cli agent registry images; do
    cargo clippy --locked --package sublet --no-default-features --features "$feature" -- -D warnings
done
cargo clippy --locked --package sublet-firmware --bins --features pvh --profile firmware \
    --target x86_64-unknown-linux-gnu -- -D warnings

step "unit tests"
cargo test --locked --workspace

step "the registry on PostgreSQL"
SUBLET_HISTORIES=$histories_on_postgres SUBLET_KILLS=$kills_on_postgres \
    timeout "$time_on_postgres" bash tests/postgres/with-server.sh bash -euc '
    cargo test --locked --workspace --features sublet/postgres-tests --lib registry::resource_db
    cargo test --locked --workspace --features sublet/postgres-tests --test registry'
timeout 5m bash tests/postgres/with-server.sh --far \
    cargo test --locked --workspace --features sublet/postgres-tests --test registry -- registries lending

step "both servers, held to their descriptions"
# The unit tests have built both.
SUBLET_PROGRAMS=${CARGO_TARGET_DIR:-$PWD/target}/debug timeout 10m bash tests/contract/run.sh

step "fuzz targets, briefly"
timeout 20m bash vmm/fuzz/run.sh
timeout 10m bash firmware/fuzz/run.sh

# Each test bounds its own waiting; these end a run that hangs all the same, so that it is told before CI gives up.
step "tests of the VMM on real guests"
# What was begun anew is told though all has passed.
timeout 20m cargo test --locked --workspace --test lab -- --nocapture

step "whole-system tests"
trap '"$(bash examples/build.sh 2>/dev/null)/sublet-lab" --dir "${CARGO_TARGET_DIR:-target}/system-tests/lab" down >/dev/null' EXIT
timeout 30m cargo test --locked --workspace --test system -- --test-threads 1

step "done"
