#!/usr/bin/env bash
# Builds the firmware, a freestanding PVH program, and prints where it is.
#
#     firmware/build.sh [--target-dir DIR]
set -euo pipefail

here=$(dirname "$(realpath "$0")")
target_dir=${CARGO_TARGET_DIR:-$here/../target}
case ${1-} in
    '') ;;
    --target-dir) target_dir=${2:?--target-dir needs a directory} ;;
    *) sed -n '2,4s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac

# The host's target has core and a linker, which is all it takes; naming it keeps the build script and this apart.
triple=x86_64-unknown-linux-gnu
(cd "$here" && cargo build --quiet --package sublet-firmware --bin sublet-firmware --features pvh \
    --profile firmware --target "$triple" --target-dir "$target_dir")
realpath "$target_dir/$triple/firmware/sublet-firmware"
