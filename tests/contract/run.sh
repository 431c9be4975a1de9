#!/usr/bin/env bash
# Holds both servers to their own descriptions: a public contract tester (schemathesis) asks the running registry and
# the running agent what their OpenAPI documents allow and what they do not, as each kind of asker. No answer may be a
# server error, or be of a status, type or shape that the document does not have. The same questions each time.
# usage: tests/contract/run.sh [--longer]      builds what it needs; SUBLET_PROGRAMS=DIR takes programs built already
set -euo pipefail
cd "$(dirname "$0")/../.."

SEED=20260101
examples=12
[ "${1:-}" != --longer ] || examples=200

target=${CARGO_TARGET_DIR:-$PWD/target}
# The last release that was tried; a newer one may ask other questions.
tester=schemathesis==4.32.5
venv=$target/contract-venv
[ -x "$venv/bin/schemathesis" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "$tester"; }

if [ -z "${SUBLET_PROGRAMS:-}" ]; then
    cargo build --locked --bin sublet-registry --bin sublet-agent
    SUBLET_PROGRAMS=$target/debug
fi

work=$(mktemp -d)
pids=()
end() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap end EXIT

# Starts a server and sets `address` to where it listens.
start() {
    local log=$work/$1.log
    : > "$log"
    shift
    "$@" 2> "$log" &
    pids+=($!)
    for _ in $(seq 600); do
        address=$(sed -n 's/^listening on //p' "$log")
        [ -z "$address" ] || return 0
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "a server did not start:" >&2
    cat "$log" >&2
    return 1
}

# Asks all that the description at `address` has. usage: ask WHOSE TOKEN [OPTION…]
ask() {
    local whose=$1 token=$2
    shift 2
    echo "-- as $whose"
    # The token goes by a file: arguments can be read by everybody.
    printf 'headers.Authorization = "Bearer %s"\n' "$token" > "$work/schemathesis.toml"
    chmod 600 "$work/schemathesis.toml"
    # What it leaves behind goes with the rest.
    (cd "$work" && "$venv/bin/schemathesis" --config-file "$work/schemathesis.toml" --no-color run "$address/openapi.json" \
        --seed "$SEED" --max-examples "$examples" --generation-database none \
        --phases examples,coverage,fuzzing --continue-on-failure --request-timeout 20 --warnings off \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance,missing_required_header,negative_data_rejection \
        "$@")
}

token() { "$SUBLET_PROGRAMS/sublet-registry" --database "$work/registry.db" token make "$1" --name "$1"; }

echo "== the registry"
lender=$(token lender) borrower=$(token borrower) admin=$(token admin)
start registry "$SUBLET_PROGRAMS/sublet-registry" --database "$work/registry.db" serve --listen 127.0.0.1:0
# A stream of events does not end; tests/registry/events.rs reads it.
for whose in lender borrower admin; do
    ask "$whose" "${!whose}" --exclude-path /v1/events
done
host=$(curl -sS --fail-with-body -H @- --json '{"address": "http://192.0.2.1:7180"}' "$address/v1/hosts" \
    <<< "Authorization: Bearer $lender" | sed 's/.*"host_token":"\([^"]*\)".*/\1/')
ask "a host" "$host" --include-path-regex '^/v1/hosts'

echo "== the agent"
siblings=$(cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list)
cat > "$work/agent.toml" <<TOML
listen = '127.0.0.1:0'
advertise = 'http://127.0.0.1:7180'
state_directory = '$work/state'
image_directory = '$work/images'
vmm = '$work/no-vmm'
vsock_port = 99999
[reserve]
cpus = $(tr -c '0-9\n' '\n' <<< "$siblings" | grep -c .)
memory_mib = 128
disk_mib = 64
[prices]
currency = 'EUR'
per_cpu_hour_micros = 20000
per_gib_hour_micros = 5000
per_disk_gib_hour_micros = 100
TOML
start agent "$SUBLET_PROGRAMS/sublet-agent" --config "$work/agent.toml"
# To offer a partition takes a VMM, and KVM: whole-system tests do that.
ask "the owner" "$(cat "$work/state/owner.token")" --exclude-path '/v1/partitions/{id}/offer'
ask "a stranger" "no-such-key"
