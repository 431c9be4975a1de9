#!/usr/bin/env bash
# The whole story on one machine: a registry, a lender's host, a partition carved and offered, a job run in it on a stock
# Debian kernel, and the bill.
# usage: examples/quickstart.sh [--keep | --stop]
#   --keep   leave registry and host running afterwards, for the curl tour in the README
#   --stop   stop what --keep left running
# Installs the Debian packages it needs (as root, or by sudo). Needs Rust and a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

state=$PWD/target/quickstart
port=${SUBLET_QUICKSTART_PORT:-7070}
image=debian-micro

say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

# Waits until a command succeeds, for half a minute.
wait_for() {
    local deadline=$((SECONDS + 30))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || { echo "This did not succeed in 30 s: $*" >&2; return 1; }
        read -rt 0.1 <> <(:) || true
    done
}

stop() {
    for program in registry agent; do
        if [ -f "$state/$program.pid" ]; then
            kill "$(cat "$state/$program.pid")" 2>/dev/null || true
            rm -f "$state/$program.pid"
        fi
    done
    [ ! -f "$state/lab/owner.token" ] || "$(cat "$state/programs")/sublet-lab" --dir "$state/lab" down
}

keep=no
case "${1:-}" in
"") ;;
--keep) keep=yes ;;
--stop) stop; exit 0 ;;
*) echo "usage: examples/quickstart.sh [--keep | --stop]" >&2; exit 2 ;;
esac

say "Debian packages and programs"
bash tests/lab/packages.sh
programs=$(bash examples/build.sh)
export PATH="$programs:$PATH"

[ ! -d "$state" ] || stop
rm -rf "$state"
mkdir -p -m 700 "$state"
umask 077
echo "$programs" > "$state/programs"
trap '[ "$keep" = yes ] || stop' EXIT

say "The registry"
database=$state/registry.db
sublet-registry --database "$database" token make lender --name alice > "$state/enrolment.token"
sublet-registry --database "$database" token make borrower --name bob > "$state/borrower.token"
sublet-registry --database "$database" serve --listen "127.0.0.1:$port" \
    < /dev/null > "$state/registry.log" 2>&1 &
echo $! > "$state/registry.pid"
registry=http://127.0.0.1:$port
wait_for curl -sf "$registry/healthz"
echo "$registry"

say "The lender's host"
if show sublet doctor; then
    images=$PWD/target/images
    bash images/build.sh "$image" "$images/$image" --guest "$programs/sublet-guest"
    cat > "$state/agent.toml" <<TOML
listen = "127.0.0.1:7180"
advertise = "http://127.0.0.1:7180"
state_directory = "$state/agent"
image_directory = "$images"
owner_token_file = "$state/owner.token"

[registry]
url = "$registry"
enrolment_token_file = "$state/enrolment.token"

[reserve]
cpus = 1
memory_mib = 512
disk_mib = 512

[prices]
currency = "EUR"
per_cpu_hour_micros = 20000
per_gib_hour_micros = 5000
per_disk_gib_hour_micros = 100
TOML
    sublet-agent --config "$state/agent.toml" < /dev/null > "$state/agent.log" 2>&1 &
    echo $! > "$state/agent.pid"
    host=http://127.0.0.1:7180
    wait_for curl -sf "$host/healthz"
else
    echo "So a lender host in a box: QEMU with a stock Debian kernel, real KVM inside, and our agent. The first time takes a while."
    sublet-lab --dir "$state/lab" up --cpus 4 --programs "$programs" --json \
        --registry "$registry" --enrolment-token-file "$state/enrolment.token" > "$state/lab.json"
    host=$(jq -r '.hosts[0].address' "$state/lab.json")
    cp "$(jq -r '.hosts[0].owner_token_file' "$state/lab.json")" "$state/owner.token"
fi
echo "$host"

# For the tour in the README.
printf 'REGISTRY=%s\nHOST=%s\n' "$registry" "$host" > "$state/env"
for who in owner borrower; do
    printf 'Authorization: Bearer %s\n' "$(cat "$state/$who.token")" > "$state/$who.header"
done

export SUBLET_REGISTRY=$registry SUBLET_TOKEN_FILE=$state/borrower.token SUBLET_STATE_DIR=$state/borrower
export SUBLET_HOST=$host SUBLET_OWNER_TOKEN_FILE=$state/owner.token

say "The lender carves a partition and offers it"
printf "$ sublet partition carve --cpus 2 --memory 512MiB --disk 256MiB\n"
sublet partition carve --cpus 2 --memory 512MiB --disk 256MiB --json > "$state/partition.json"
partition=$(jq -r .id "$state/partition.json")
show sublet partition offer "$partition"

say "A borrower searches, borrows, runs, returns and sees the bill"
show sublet search --cpus 2 --image "$image"
show sublet rent --cpus 2 --image "$image" -- sh -c 'uname -a; nproc; free -m; cat /proc/cpuinfo'

say "What the ledger says"
show sublet bill

if [ "$keep" = yes ]; then
    say "Registry and host keep running: cd target/quickstart, and follow the curl tour in README.md"
else
    stop
    say "Everything is stopped. The same with curl, after examples/quickstart.sh --keep"
fi
sed -n '/^```sh tour$/,/^```$/p' README.md | grep -v '^```'
