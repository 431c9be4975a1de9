#!/usr/bin/env bash
# Writes an initramfs whose init says its command line and powers off.
#
#     firmware/tests/boot/initramfs.sh OUTPUT
set -euo pipefail

output=${1:?usage: initramfs.sh OUTPUT}
here=$(dirname "$(realpath "$0")")
# shellcheck source=../../../images/initramfs.sh
. "$here/../../../images/initramfs.sh"

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
stage_busybox "$tree"
mkdir -p "$tree"/{dev,proc}
cat >"$tree/init" <<'INIT'
#!/bin/sh
mount -t proc proc /proc
read -r line </proc/cmdline
echo "init: up with $line"
poweroff -f
INIT
chmod 755 "$tree/init"
pack_initramfs "$tree" "$output.$$"
mv "$output.$$" "$output"
