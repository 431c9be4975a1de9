#!/usr/bin/env bash
# Runs COMMAND while a PostgreSQL server of its own runs, whose URL it finds in SUBLET_TEST_DATABASE.
# usage: with-server.sh [--far] [--durable] COMMAND…
#   --far       the server is in a network namespace of its own, behind TCP, TLS and a password; else behind a socket that
#               its owner alone can open
#   --durable   what it acknowledges survives a power cut, as everywhere but here: else it waits for no disk
# It runs as user postgres where the caller is root, who may not run a server. It is gone when COMMAND ends; until then
# SUBLET_TEST_POSTGRES_CONTROL is a shell command that controls it: pg_ctl(1).
set -euo pipefail

far=no durable=no
while true; do
    case "${1:-}" in
    --far) far=yes ;;
    --durable) durable=yes ;;
    *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || { sed -n '3,6s/^# //p' "$0" >&2; exit 2; }

programs=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$programs" ] || { echo "PostgreSQL is not installed: apt-get install postgresql" >&2; exit 1; }

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
owner=$(id -un)
[ "$owner" != root ] || owner=postgres
as_owner=(env)
[ "$(id -un)" = "$owner" ] || as_owner=(runuser -u "$owner" --)

# A socket's path has to be short, and user postgres may not get into a checkout.
place=$(mktemp -d /tmp/sublet-postgres.XXXXXX)
space=sublet-pg-$$
there=()

end() {
    "${as_owner[@]}" "$programs/pg_ctl" --pgdata "$place/data" --mode immediate --wait stop >/dev/null 2>&1 || true
    [ "$far" = no ] || "${as_root[@]}" ip netns delete "$space" 2>/dev/null || true
    rm -rf "$place"
}
trap end EXIT
trap 'exit 130' INT TERM

# An authority of this run alone, and the server's certificate by it.
certificates() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "/CN=an authority" \
        -keyout "$place/authority.key" -out "$place/authority.pem"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$address" \
        -keyout "$place/server.key" -out "$place/server.request"
    openssl x509 -req -in "$place/server.request" -CA "$place/authority.pem" -CAkey "$place/authority.key" \
        -CAcreateserial -days 1 -extfile <(echo "subjectAltName=IP:$address") -out "$place/server.pem"
    chmod 600 "$place/server.key"
}

# A network of two: this side and the server's.
network() {
    local near=10.213.$(($$ % 256)).1 link=pg$(($$ % 100000))
    address=${near%.1}.2
    "${as_root[@]}" ip netns add "$space"
    "${as_root[@]}" ip link add "$link" type veth peer name far netns "$space"
    "${as_root[@]}" ip address add "$near/30" dev "$link"
    "${as_root[@]}" ip link set "$link" up
    "${as_root[@]}" ip -n "$space" address add "$address/30" dev far
    "${as_root[@]}" ip -n "$space" link set far up
    there=("${as_root[@]}" ip netns exec "$space")
}

login=trust
options="-c listen_addresses='' -c unix_socket_directories='$place' -c max_connections=300"
url="postgres://sublet@${place//\//%2F}/postgres"
if [ "$far" = yes ]; then
    network
    certificates 2>/dev/null
    login=scram-sha-256
    (
        umask 077
        head -c 24 /dev/urandom | base64 | tr -d '/+' >"$place/password"
        echo "*:*:*:*:$(<"$place/password")" >"$place/passfile"
    )
    options="-c listen_addresses=$address -c unix_socket_directories='' -c max_connections=300 -c ssl=on"
    options+=" -c ssl_cert_file='$place/server.pem' -c ssl_key_file='$place/server.key'"
    url="postgres://sublet@$address/postgres?sslmode=verify-full&sslrootcert=$place/authority.pem&passfile=$place/passfile"
fi

# A crash of the server loses nothing by it; of the machine it would.
[ "$durable" = yes ] || options+=" -c fsync=off -c full_page_writes=off"

if [ "$(id -un)" != "$owner" ]; then
    chown "$owner" "$place"
    [ "$far" = no ] || chown "$owner" "$place/server.key" "$place/password"
    chmod 711 "$place"
fi
"${as_owner[@]}" "$programs/initdb" --pgdata "$place/data" --username sublet --auth "$login" \
    $([ "$far" = no ] || echo --pwfile "$place/password") --encoding UTF8 --locale C >/dev/null
if [ "$far" = yes ]; then
    echo "hostssl all all all scram-sha-256" >"$place/access"
    options+=" -c hba_file='$place/access'"
    chmod 644 "$place/access"
fi
"${there[@]}" "${as_owner[@]}" "$programs/pg_ctl" --pgdata "$place/data" --log "$place/data/log" --options "$options" \
    --wait start >/dev/null || { "${as_owner[@]}" cat "$place/data/log" >&2; exit 1; }

export SUBLET_TEST_DATABASE=$url
export SUBLET_TEST_POSTGRES_CONTROL="${as_owner[*]} $programs/pg_ctl --pgdata $place/data --log $place/data/log"
"$@"
