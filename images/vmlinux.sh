#!/usr/bin/env bash
# Writes the ELF kernel that is packed inside a bzImage: it starts sooner, having nothing to unpack.
#
#     images/vmlinux.sh VMLINUZ OUTPUT
set -euo pipefail

vmlinuz=${1:?usage: vmlinux.sh VMLINUZ OUTPUT}
output=${2:?usage: vmlinux.sh VMLINUZ OUTPUT}

# Number in the bzImage header (Documentation/arch/x86/boot.rst): offset, size in bytes.
header() { od -An -t "u$2" -j "$1" -N "$2" "$vmlinuz" | tr -d ' '; }

setup_sectors=$(header $((0x1f1)) 1)
payload_offset=$(header $((0x248)) 4)
payload_length=$(header $((0x24c)) 4)
start=$(((setup_sectors + 1) * 512 + payload_offset))
magic=$(od -An -t x1 -j "$start" -N 4 "$vmlinuz" | tr -d ' ')
case $magic in
    28b52ffd) unpack='zstd -qdc' ;;
    fd377a58) unpack='xz -dc' ;;
    *)
        echo "images/vmlinux.sh: $vmlinuz is packed in a way this script does not know (it starts with $magic)" >&2
        exit 1
        ;;
esac
# The last four bytes of the payload are its unpacked length, no part of the compressed stream. Zeroes become holes, which
# a VMM need not copy.
tail -c "+$((start + 1))" "$vmlinuz" | { head -c "$((payload_length - 4))" && cat >/dev/null; } | $unpack |
    dd of="$output.new" bs=4k iflag=fullblock conv=sparse status=none
mv "$output.new" "$output"
