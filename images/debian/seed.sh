#!/usr/bin/env bash
# Builds a NoCloud seed disk: cloud-init in a Debian disk beside it installs the job runner and starts it.
#
#     images/debian/seed.sh OUTPUT GUEST
#
# OUTPUT becomes a FAT labelled CIDATA; GUEST is a static sublet-guest.
set -euo pipefail

output=$1 guest=$2
here=$(dirname "$(realpath "$0")")
PATH=$PATH:/usr/sbin:/sbin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$guest" "$work/sublet-guest"
cp "$here/files/sublet-guest.service" "$work/"
echo "instance-id: $(cat "$guest" "$here/seed.sh" | sha256sum | head -c 16)" >"$work/meta-data"
cat >"$work/user-data" <<'USER'
#cloud-config
locale: C.UTF-8
preserve_hostname: true
# The disk is mounted by its label, wherever it is.
runcmd:
  - mount -o ro LABEL=CIDATA /mnt
  - install -m 755 /mnt/sublet-guest /usr/local/sbin/sublet-guest
  - install -m 644 /mnt/sublet-guest.service /etc/systemd/system/sublet-guest.service
  - umount /mnt
  - modprobe vmw_vsock_virtio_transport
  - systemctl daemon-reload
  - systemctl enable --now sublet-guest.service
USER
bytes=$(($(du -sb "$work" | cut -f 1) + 512 * 1024))
rm -f "$output.new"
truncate -s $(((bytes + 511) / 512 * 512)) "$output.new"
mkfs.vfat -n CIDATA "$output.new" >/dev/null
MTOOLS_SKIP_CHECK=1 mcopy -Q -i "$output.new" "$work"/* ::/
mv "$output.new" "$output"
