#!/usr/bin/env bash
# Builds what a lab host starts with: the kernel (ELF, as Debian ships it) and an initramfs.
#
#     tests/lab/host/build.sh CACHE OUTPUT
#
# Does nothing where OUTPUT is up to date.
set -euo pipefail

cache=${1:?usage: build.sh CACHE OUTPUT}
output=${2:?usage: build.sh CACHE OUTPUT}
here=$(dirname "$(realpath "$0")")
images=$here/../../../images
# shellcheck source=../../../images/initramfs.sh
. "$images/initramfs.sh"

modules=(
    virtio_pci virtio_blk virtio_net virtio_console qemu_fw_cfg
    tun tap vhost vhost_net vhost_vsock
    loop dm-mod dm-flakey dm-log-writes
    nf_tables nft_ct nft_limit nft_connlimit nft_chain_nat nft_masq nf_conntrack_netlink veth
)
# What a lender's host has installed: for partitions with a network, and for the freeze guard.
programs=(ip nft conntrack dnsmasq chrt)

# stage_program PROGRAM: one of this machine's, with the libraries that it is linked with, each where it is here.
stage_program() {
    local file
    for file in "$1" $(ldd "$1" | grep -o '/[^ ]*'); do
        mkdir -p "$tree$(dirname "$file")"
        cp -L "$file" "$tree$file"
    done
}

kernel=$("$images/kernel.sh" 6.12 "$cache")
mkdir -p "$output"
exec 8>"$output/lock"
flock 8
PATH=$PATH:/usr/sbin:/sbin
mapfile -t programs < <(type -P "${programs[@]}")
stamp=$(cat "$kernel/release" $(find "$here" -maxdepth 1 -type f | sort) "$images/initramfs.sh" "$(command -v busybox)" "${programs[@]}" | sha256sum)
if [ "$(cat "$output/stamp" 2>/dev/null)" = "$stamp" ]; then exit; fi

tree=$(mktemp -d "$output/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
stage_busybox "$tree"
mkdir -p "$tree"/{etc,proc,sys,dev}
stage_modules "$kernel" "$tree" "${modules[@]}" >"$tree/etc/modules"
stage_modules "$kernel" "$tree" kvm-amd null_blk >/dev/null
strip_signatures "$tree"
for program in "${programs[@]}"; do stage_program "$program"; done
install -m 644 "$here/passwd" "$here/group" "$tree/etc/"
install -m 755 "$here/init" "$tree/init"
install -m 755 "$here/agent" "$tree/bin/agent"
install -m 755 "$here/rc" "$here/follow-agent-log" "$tree/etc/"
install -m 644 "$here/hooks.nft" "$tree/etc/hooks.nft"
install -m 644 "$here/inittab" "$tree/etc/inittab"
pack_initramfs "$tree" "$output/initrd.img"
"$images/vmlinux.sh" "$kernel/vmlinuz" "$output/vmlinux"
cp "$kernel/release" "$output/kernel_release"
echo "$stamp" >"$output/stamp"
