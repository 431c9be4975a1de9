#!/usr/bin/env bash
# Fetches a Debian cloud kernel and unpacks it, without installing it.
#
#     images/kernel.sh SERIES CACHE
#
# SERIES is 6.12 or 6.1. The newest package of the series that this machine's apt knows of is taken; a kernel
# that is in CACHE already is used as it is (remove CACHE/linux-SERIES to look for a newer one). Prints the
# directory, which holds boot/ and lib/modules/ as in the package, and beside them
#     release   the kernel's release, as `uname -r` says it
#     vmlinuz   the bzImage
set -euo pipefail

series=${1:?usage: kernel.sh SERIES CACHE}
cache=${2:?usage: kernel.sh SERIES CACHE}

fail() { echo "images/kernel.sh: $*" >&2; exit 1; }

# apt warns when it cannot drop its privileges because a directory is ours alone; that is no news to the reader.
apt_options=(-o APT::Sandbox::User=root)

newest_package() {
    case $series in
        6.1) pattern='^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' ;;
        *) pattern="^linux-image-${series//./\\.}\\.[0-9]+(\\+deb[0-9]+)?-cloud-amd64\$" ;;
    esac
    apt-cache "${apt_options[@]}" pkgnames "linux-image-$series." | grep -E "$pattern" | sort -V | tail -n 1 || true
}

# Package lists of our own below CACHE: for where the machine's are empty, stale, or not ours to update.
use_private_lists() {
    apt_options+=(-o "Dir::State::Lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt/cache")
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/cache/archives/partial"
    apt-get "${apt_options[@]}" -qq update >&2 || fail "'apt-get update' failed; see above"
}

download() { apt-get "${apt_options[@]}" -qq download "$1" >&2; }

# Leaves the newest package of the series in the current directory, and its name in `package`.
fetch_package() {
    package=$(newest_package)
    if [ -n "$package" ] && download "$package" 2>/dev/null; then return; fi
    use_private_lists
    package=$(newest_package)
    [ -n "$package" ] || fail "apt knows no linux-image-$series*-cloud-amd64 package; are Debian's main and security suites among its sources?"
    download "$package" || fail "cannot download $package"
}

mkdir -p "$cache"
cache=$(realpath "$cache")
exec 9>"$cache/lock"
flock 9

if [ ! -e "$cache/linux-$series/release" ]; then
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    fetch_package
    dpkg-deb -x "$package"_*.deb unpacked
    release=${package#linux-image-}
    mv "unpacked/boot/vmlinuz-$release" unpacked/vmlinuz
    echo "$release" >unpacked/release
    rm -rf "${cache:?}/$release"
    mv unpacked "$cache/$release"
    ln -sfn "$release" "$cache/linux-$series"
fi
realpath "$cache/linux-$series"
