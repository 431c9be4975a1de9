#!/usr/bin/env bash
# Builds a full Debian on a disk; called by images/build.sh. Runs as root: Debian's packages belong to it.
#
#     images/debian/build.sh NAME SUITE VERSION OUTPUT GUEST
#
# GUEST is a static sublet-guest, or empty for a disk without a job runner; what else a disk needs then, cloud-init takes
# from a NoCloud seed disk beside it (images/debian/seed.sh).
set -euo pipefail

name=$1 suite=$2 version=$3 output=$4 guest=$5
here=$(dirname "$(realpath "$0")")
PATH=$PATH:/usr/sbin:/sbin

disk_mib=2048
packages=(
    linux-image-cloud-amd64 grub-pc initramfs-tools zstd
    systemd-sysv systemd-resolved libpam-systemd dbus udev kmod e2fsprogs cloud-init cloud-guest-utils
    iproute2 iputils-ping netbase ca-certificates curl openssh-server procps less nano
)

mkdir -p "$output"
output=$(realpath "$output")
exec 8>"$output/.lock"
flock 8
stamp=$(cat "$here/build.sh" "$here"/files/* ${guest:+"$guest"} | cat - <(echo "$suite $version") | sha256sum)
if [ "$(cat "$output/.stamp" 2>/dev/null)" = "$stamp" ] && [ -e "$output/image.json" ]; then exit; fi

tree=$(mktemp -d "$output/tree.XXXXXX")
# What a build that was killed has left mounted in there is not ours to delete.
trap 'rm -rf --one-file-system "$tree"' EXIT
chmod 755 "$tree"
# The same for the same name, so that an image built again is the same in as much as it can be.
uuid=$(printf %s "$name" | sha256sum | sed -E 's/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*/\1-\2-4\3-8\4-\5/')

echo 'grub-pc grub-pc/install_devices_empty boolean true' >"$output/answers"
mmdebstrap --quiet --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --essential-hook='chroot "$1" debconf-set-selections <'"'$output/answers'" \
    --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' "$suite" "$tree" >&2
rm "$output/answers"

# quietly COMMAND…: what it says is shown only where it fails.
quietly() { "$@" >"$output/log" 2>&1 || { cat "$output/log" >&2 && exit 1; }; }
in_tree() { chroot "$tree" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
# put FILE PLACE [MODE]
put() { install -D -m "${3:-644}" "$here/files/$1" "$tree$2"; }

echo "${name%%-plain}" >"$tree/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n' "${name%%-plain}" >"$tree/etc/hosts"
echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$tree/etc/fstab"
: >"$tree/etc/machine-id"
# Whoever has the console has the machine. Nobody else gets in without a key: sshd takes no empty password.
quietly in_tree passwd --quiet --delete root
# Each guest makes its own.
rm -f "$tree"/etc/ssh/ssh_host_*_key*
put host-keys.conf /etc/systemd/system/ssh.service.d/host-keys.conf
put card.network /etc/systemd/network/80-card.network
put sources.cfg /etc/cloud/cloud.cfg.d/90-sources.cfg
put grow-root /usr/local/sbin/grow-root 755
put grow-root.service /etc/systemd/system/grow-root.service
ln -sf ../run/systemd/resolve/stub-resolv.conf "$tree/etc/resolv.conf"
quietly in_tree systemctl --quiet enable systemd-networkd systemd-resolved grow-root
# Nothing goes out to the network by itself, and no boot waits for a network.
quietly in_tree systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer systemd-networkd-wait-online.service
quietly in_tree systemctl --quiet mask e2scrub_reap.service grub-common.service systemd-timesyncd.service

# What a first boot would bring up to date: every lease begins with one. Debian 12 has no such boot.
done=/usr/lib/systemd/systemd-update-done
if [ -e "$tree$done" ]; then
    quietly in_tree journalctl --update-catalog
    quietly in_tree systemd-hwdb update
    quietly in_tree "$done"
fi

if [ -n "$guest" ]; then
    install -m 755 "$guest" "$tree/usr/local/sbin/sublet-guest"
    put sublet-guest.service /etc/systemd/system/sublet-guest.service
    put modules.conf /etc/modules-load.d/sublet.conf
    quietly in_tree systemctl --quiet enable sublet-guest
fi

# grub.cfg as Debian's own program writes it. That asks grub-probe for the device beneath the root, which there is none of
# yet: it is answered what there will be.
mv "$tree/usr/sbin/grub-probe" "$tree/usr/sbin/grub-probe.real"
sed "s/@UUID@/$uuid/" "$here/files/grub-probe" >"$tree/usr/sbin/grub-probe"
chmod 755 "$tree/usr/sbin/grub-probe"
put grub-defaults.cfg /etc/default/grub.d/sublet.cfg
mkdir -p "$tree/boot/grub" "$tree/dev/disk/by-uuid"
: >"$tree/dev/disk/by-uuid/$uuid"
quietly in_tree grub-mkconfig -o /boot/grub/grub.cfg
rm -r "$output/log" "$tree/dev/disk"
mv "$tree/usr/sbin/grub-probe.real" "$tree/usr/sbin/grub-probe"
release=$(basename "$tree"/boot/vmlinuz-* | sed 's/^vmlinuz-//')

# Sectors: a GPT, the root from 1 MiB on, the table's copy.
rm -f "$output/image.json" "$output/disk.img" "$output/root.new"
root_mib=$((disk_mib - 2))
truncate -s "${root_mib}M" "$output/root.new"
mke2fs -q -F -t ext4 -m 1 -L root -U "$uuid" -d "$tree" "$output/root.new"
truncate -s "${disk_mib}M" "$output/disk.new"
sgdisk --new "1:2048:+${root_mib}M" --typecode 1:8304 "$output/disk.new" >/dev/null
dd if="$output/root.new" of="$output/disk.new" bs=1M seek=1 conv=notrunc,sparse status=none
rm "$output/root.new"
mv "$output/disk.new" "$output/disk.img"
cat >"$output/image.json" <<JSON
{
  "name": "$name",
  "os": "Debian $version",
  "kernel_release": "$release",
  "disk": "disk.img"
}
JSON
echo "$stamp" >"$output/.stamp"
