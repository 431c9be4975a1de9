#!/usr/bin/env bash
# Installs the Debian packages that the lab, the OS images and the README's curl tour need: those that are missing.
# usage: packages.sh [PACKAGE…]      these as well
set -euo pipefail

packages=(qemu-system-x86 busybox-static cpio zstd xz-utils e2fsprogs curl jq iproute2 nftables conntrack dnsmasq-base mmdebstrap
    gdisk dosfstools mtools "$@")

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "These Debian packages are missing: ${missing[*]}. Install them as root, or install sudo." >&2
        exit 1
    }
    as_root=(sudo)
fi
echo "Installing ${missing[*]}"
"${as_root[@]}" apt-get -q update
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get -q install -y --no-install-recommends "${missing[@]}"
