# Functions that put an initramfs together; to be sourced.
# shellcheck shell=bash

# stage_busybox TREE: busybox at /bin/busybox with a link for each of its applets in /bin.
stage_busybox() {
    mkdir -p "$1/bin"
    cp "$(command -v busybox)" "$1/bin/busybox"
    busybox --list | while read -r applet; do
        case $applet in busybox) ;; *) ln -s busybox "$1/bin/$applet" ;; esac
    done
}

# module_file KERNEL MODULE: path of a module in an unpacked kernel package; nothing if it is built in or absent.
module_file() {
    local name=${2//_/-}
    find "$1/lib/modules" \( -name "$name.ko*" -o -name "${name//-/_}.ko*" \) -print -quit
}

module_plain() {
    case $1 in
        *.xz) xz -qdc "$1" ;;
        *.zst) zstd -qdc "$1" ;;
        *) cat "$1" ;;
    esac
}

# is_builtin KERNEL MODULE
is_builtin() {
    sed 's|.*/||; s|\.ko$||; s|-|_|g' "$1"/lib/modules/*/modules.builtin | grep -qx "${2//-/_}"
}

# stage_modules KERNEL TREE MODULE...: the named modules and what they depend on, unpacked, where modprobe finds them;
# what a kernel has built in needs no file. Prints the names of those that have one, as one line.
stage_modules() {
    local kernel=$1 tree=$2 directory module names=()
    shift 2
    directory=$tree/lib/modules/$(cat "$kernel/release")
    mkdir -p "$directory"
    for module in "$@"; do
        stage_module "$kernel" "$directory" "${module//-/_}"
        if [ -e "$directory/${module//-/_}.ko" ]; then names+=("${module//-/_}"); fi
    done
    busybox depmod -b "$tree" "$(cat "$kernel/release")"
    # In the order in which the directory happened to be read.
    for module in "$directory"/modules.*; do LC_ALL=C sort -o "$module" "$module"; done
    echo "${names[*]}"
}

# stage_module KERNEL DIRECTORY MODULE
stage_module() {
    local kernel=$1 directory=$2 module=$3 file dependency
    if [ -e "$directory/$module.ko" ] || is_builtin "$kernel" "$module"; then return; fi
    file=$(module_file "$kernel" "$module")
    if [ -z "$file" ]; then
        echo "images/initramfs.sh: $kernel has no module $module" >&2
        return 1
    fi
    module_plain "$file" >"$directory/$module.ko"
    for dependency in $(module_dependencies "$directory/$module.ko"); do
        stage_module "$kernel" "$directory" "${dependency//-/_}"
    done
}

# module_dependencies FILE: names of the modules that an unpacked module says it needs.
module_dependencies() {
    grep -az '^depends=' "$1" | tr ',\0' '  ' | sed 's/^depends=//'
}

# strip_signatures TREE: takes the signatures off the modules in TREE, which saves the time to check
# them. The layout is that of `struct module_signature` (Linux, include/linux/module_signature.h): the signature's
# length as four bytes, big-endian, then a magic text of 28 bytes.
strip_signatures() {
    local module signature
    for module in "$1"/lib/modules/*/*.ko; do
        if [ "$(tail -c 28 "$module")" != '~Module signature appended~' ]; then continue; fi
        signature=$(tail -c 32 "$module" | head -c 4 | od -An -t x1 | tr -d ' ')
        truncate -s "-$((0x$signature + 12 + 28))" "$module"
    done
}

# pack_initramfs TREE FILE: the same tree always makes the same bytes. Not compressed: unpacking would cost the
# guest more time than reading costs its host.
pack_initramfs() {
    find "$1" -exec touch --no-dereference --date=@0 {} +
    (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null --create --format=newc --owner=0:0 --reproducible) >"$2.new"
    mv "$2.new" "$2"
}
