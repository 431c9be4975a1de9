#!/usr/bin/env bash
# Builds an image of the debian-micro kind; called by images/build.sh.
#
#     images/debian-micro/build.sh NAME SERIES KERNEL OUTPUT GUEST CACHE
#
# SERIES is that of the kernel; KERNEL says which form of it the image has: vmlinux (ELF) or vmlinuz (bzImage).
set -euo pipefail

name=$1 series=$2 form=$3 output=$4 guest=$5 cache=$6
here=$(dirname "$(realpath "$0")")
# shellcheck source=../initramfs.sh
. "$here/../initramfs.sh"

# The guest's disk, its way to the agent, its random bytes, its power button, and how it says that it panicked.
modules=(virtio_pci virtio_blk vmw_vsock_virtio_transport virtio_rng button evdev pvpanic-mmio)
# What only some guests have; init loads it where it is there.
card=virtio_net

# A panic reaches the VMM through pvpanic, which ends the guest there and then; without it, the guest reboots. The kernel's
# self-tests of its ciphers take as long as two thirds of all the rest of its boot (ADR 31).
command_line='console=ttyS0 quiet panic=-1 cryptomgr.notests'

kernel=$("$here/../kernel.sh" "$series" "$cache")
release=$(cat "$kernel/release")
mkdir -p "$output"
output=$(realpath "$output")
exec 8>"$output/.lock"
flock 8
stamp=$(cat "$here"/* "$here/../initramfs.sh" "$kernel/release" "$(command -v busybox)" "$guest" | sha256sum)
if [ "$(cat "$output/.stamp" 2>/dev/null)" = "$stamp" ] && [ -e "$output/image.json" ]; then exit; fi

tree=$(mktemp -d "$cache/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
stage_busybox "$tree"
mkdir -p "$tree"/{dev,proc,sys,run,tmp,root,mnt,usr,etc/acpi/PWRF}
stage_modules "$kernel" "$tree" "${modules[@]}" >"$tree/etc/modules"
stage_modules "$kernel" "$tree" "$card" >/dev/null
ln -s bin "$tree/sbin"
ln -s ../bin "$tree/usr/bin"
ln -s ../bin "$tree/usr/sbin"
install -m 755 "$here/init" "$tree/init"
install -m 644 "$here/fstab" "$tree/etc/fstab"
install -m 755 "$here/network-card" "$here/network-address" "$tree/etc/"
install -m 755 "$here/power-button" "$tree/etc/acpi/PWRF/00000080"
install -m 755 "$guest" "$tree/bin/sublet-guest"
echo "$name" >"$tree/etc/hostname"
echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
echo 'root:x:0:' >"$tree/etc/group"

rm -f "$output/image.json"
pack_initramfs "$tree" "$output/initrd.img"
case $form in
    vmlinux) "$here/../vmlinux.sh" "$kernel/vmlinuz" "$output/vmlinux" ;;
    vmlinuz) cp "$kernel/vmlinuz" "$output/vmlinuz" ;;
esac
cat >"$output/image.json" <<JSON
{
  "name": "$name",
  "os": "Debian 12 (micro)",
  "kernel_release": "$release",
  "kernel": "$form",
  "initrd": "initrd.img",
  "command_line": "$command_line"
}
JSON
echo "$stamp" >"$output/.stamp"
