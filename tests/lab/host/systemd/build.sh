#!/usr/bin/env bash
# Builds the root file system of a lab host whose first program is systemd: Debian, what our programs ask of it, and the
# units that a lender installs (examples/systemd).
#
#     tests/lab/host/systemd/build.sh OUTPUT
#
# OUTPUT/root.ext4 is the disk. Does nothing where it is up to date. Runs as root: Debian's packages belong to it.
set -euo pipefail

output=${1:?usage: build.sh OUTPUT}
here=$(dirname "$(realpath "$0")")
units=$here/../../../../examples/systemd

mkdir -p "$output"
exec 8>"$output/lock"
flock 8
stamp=$(cat "$here"/* "$here"/../rc "$here"/../follow-agent-log "$units"/*.service "$(command -v busybox)" | sha256sum)
if [ "$(cat "$output/stamp" 2>/dev/null)" = "$stamp" ]; then exit; fi

tree=$(mktemp -d "$output/tree.XXXXXX")
trap 'rm -rf --one-file-system "$tree"' EXIT
chmod 755 "$tree"
mmdebstrap --quiet --variant=essential --include=systemd-sysv --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' bookworm "$tree" >&2

install -m 755 "$(command -v busybox)" "$tree/usr/bin/busybox"
for applet in ip usleep; do ln -sf busybox "$tree/usr/bin/$applet"; done
mkdir -p "$tree/usr/lib/sublet" "$tree/usr/share/sublet/images" "$tree/etc/sublet"
install -m 755 "$here/agent" "$tree/usr/bin/agent"
install -m 755 "$here/../rc" "$here/../follow-agent-log" "$tree/etc/"
install -m 644 "$here"/*.service "$units"/*.service "$tree/etc/systemd/system/"
mkdir -p "$tree/etc/systemd/system/sublet-agent.service.d" "$tree/etc/systemd/system/multi-user.target.wants"
printf '[Service]\nStandardError=append:/var/log/sublet-agent.log\n' \
    >"$tree/etc/systemd/system/sublet-agent.service.d/log.conf"
for unit in lab-up lab-host lab-agent-log; do
    ln -s "../$unit.service" "$tree/etc/systemd/system/multi-user.target.wants/$unit.service"
done
ln -sf /lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
ln -sf /dev/null "$tree/etc/systemd/system/getty.target"
# The machine ends, as it does where busybox's init has the last word.
ln -sf /lib/systemd/system/poweroff.target "$tree/etc/systemd/system/reboot.target"
: >"$tree/etc/machine-id"

size_mib=$(($(du -sm "$tree" | cut -f 1) + 128))
rm -f "$output/root.new"
truncate -s "${size_mib}M" "$output/root.new"
/sbin/mke2fs -q -F -t ext4 -m 0 -d "$tree" "$output/root.new"
mv "$output/root.new" "$output/root.ext4"
echo "$stamp" >"$output/stamp"
