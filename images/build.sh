#!/usr/bin/env bash
# Builds an OS image from Debian packages.
#
#     images/build.sh NAME OUTPUT [--guest FILE] [--cache DIR]
#
#     debian-micro       Debian's 6.12 cloud kernel (ELF), busybox and sublet-guest
#     debian-micro-6.1   the same with Debian's 6.1 cloud kernel (bzImage)
#     debian-12          a disk with all of Debian 12, systemd and sublet-guest, to be started by our firmware
#     debian-13          the same with Debian 13
#     debian-12-plain, debian-13-plain   without sublet-guest; see images/debian/seed.sh
#
# OUTPUT becomes a directory with image.json and the files it names; nothing is done where it is up to date.
# FILE is a static sublet-guest; without it, cargo builds one. DIR keeps the unpacked kernels.
set -euo pipefail

images=$(dirname "$(realpath "$0")")
target=${CARGO_TARGET_DIR:-$images/../target}

usage() { sed -n '4s/^# *//p' "$0" >&2; exit 2; }

[ $# -ge 2 ] || usage
name=$1 output=$2
shift 2
guest='' cache=$target/lab-system/cache
while [ $# -gt 0 ]; do
    case $1 in
        --guest) guest=${2:?--guest needs a file} ;;
        --cache) cache=${2:?--cache needs a directory} ;;
        *) usage ;;
    esac
    shift 2
done

if [ -z "$guest" ] && [[ $name != *-plain ]]; then
    triple=x86_64-unknown-linux-gnu
    (cd "$images/.." && RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --quiet --release --target "$triple" -p sublet-guest --target-dir "$target")
    guest=$target/$triple/release/sublet-guest
fi

case $name in
    debian-micro) "$images/debian-micro/build.sh" "$name" 6.12 vmlinux "$output" "$guest" "$cache" ;;
    debian-micro-6.1) "$images/debian-micro/build.sh" "$name" 6.1 vmlinuz "$output" "$guest" "$cache" ;;
    debian-12) "$images/debian/build.sh" "$name" bookworm 12 "$output" "$guest" ;;
    debian-13) "$images/debian/build.sh" "$name" trixie 13 "$output" "$guest" ;;
    debian-12-plain) "$images/debian/build.sh" "$name" bookworm 12 "$output" '' ;;
    debian-13-plain) "$images/debian/build.sh" "$name" trixie 13 "$output" '' ;;
    *) echo "images/build.sh: there is no image $name; $0 says which there are" >&2; exit 2 ;;
esac
