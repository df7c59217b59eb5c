#!/usr/bin/env bash
# `make run`: runs pgweir for a demonstration and leaves no files or processes behind.
#
#   config/demo.sh PATH_TO_PGWEIR
#
# If DATABASE_URL is set, pgweir pools that server. Otherwise this script starts a private PostgreSQL with its own data
# directory, on loopback only, with a role `demo` that has a SCRAM password. In both cases the script writes a
# pgbouncer.ini and a userlist.txt, starts pgweir, sends one query, and prints the commands to connect. Ctrl-C or SIGTERM
# stops everything.
#
#   PGWEIR_LISTEN_PORT   the port to listen on (6432)
set -euo pipefail

pgweir=${1:?usage: config/demo.sh PATH_TO_PGWEIR}
export PGWEIR_LISTEN_PORT=${PGWEIR_LISTEN_PORT:-6432}
work='' data='' programs='' pooler='' login='' operator=demo
as_user=()

main() {
    insist_on_free_port
    trap end EXIT
    trap 'exit 0' INT TERM HUP
    prepare_folder
    find_programs
    if [[ -n ${DATABASE_URL:-} ]]; then
        local path=${DATABASE_URL%%\?*}
        path=${path#*://}
        database=postgres
        [[ $path == */?* ]] && database=${path##*/}
        databases=''
        # Clients use the same login.
        login=${DATABASE_URL#*://}
        login=${login%%[/?]*}
        [[ $login == *@* ]] || { echo "DATABASE_URL names no user: postgres://user:password@host/db" >&2; exit 1; }
        login=${login%@*}
        # A name that is unlikely to be in the URL: a user in auth_file has precedence over the URL's user.
        operator=demo_console
        server="the server of DATABASE_URL"
    else
        unset DATABASE_URL
        start_postgres
        database=demo
        databases="demo = host=127.0.0.1 port=$server_port dbname=demo"
        server="a private PostgreSQL on port $server_port"
    fi
    start_pgweir
    prove_and_tell

    # Returns when pgweir exits or a signal arrives.
    local status=0
    wait "$pooler" || status=$?
    pooler=''
    echo "pgweir has exited unexpectedly with status $status. The end of its log:" >&2
    tail -n 20 "$work/pgweir.log" >&2
    return 1
}

insist_on_free_port() {
    is_listening "$PGWEIR_LISTEN_PORT" || return 0
    local owner=''
    if command -v ss >/dev/null; then
        owner=$(ss -Hltnp "sport = :$PGWEIR_LISTEN_PORT" | sed -n 's/.*users:((\("[^"]*",pid=[0-9]*\).*/\1/p' | head -n 1)
    fi
    echo "Port $PGWEIR_LISTEN_PORT is in use${owner:+ by $owner}. Use another: make run PGWEIR_LISTEN_PORT=6433" >&2
    exit 1
}

# Creates a private directory. PostgreSQL does not run as root, so for root the files belong to `postgres`, and the
# programs run as `postgres`.
prepare_folder() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/pgweir-demo.XXXXXX")
    if [[ $(id -u) -eq 0 ]]; then
        local user=postgres
        id "$user" >/dev/null 2>&1 || user=nobody
        as_user=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
        # The build may be in a directory that only root can read.
        install -m 755 "$pgweir" "$work/pgweir"
        pgweir=$work/pgweir
        chown -R "$user" "$work"
    fi
    export HOME=$work
}

find_programs() {
    local folder
    for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(command -v initdb || echo /none/)")"; do
        if [[ -x $folder/initdb && -x $folder/psql ]]; then
            programs=$folder
            return
        fi
    done
    if [[ -n ${DATABASE_URL:-} ]] && command -v psql >/dev/null; then
        programs=$(dirname "$(command -v psql)")
        return
    fi
    echo "PostgreSQL is not installed. Run \`make deps\`." >&2
    exit 1
}

start_postgres() {
    password=$(random_password)
    data=$work/data
    mkdir -m 700 "$work/socket"
    [[ ${#as_user[@]} -eq 0 ]] || chown --reference="$work" "$work/socket"
    in_work "$programs/initdb" --no-sync --auth-local=trust --auth-host=scram-sha-256 --username=postgres \
        --encoding=UTF8 --locale=C --pgdata="$data" >"$work/initdb.log" 2>&1 || fail initdb.log
    server_port=$(free_port)
    in_work "$programs/pg_ctl" start --silent --wait --pgdata="$data" --log="$work/postgres.log" \
        --options="-p $server_port -h 127.0.0.1 -k $work/socket -c fsync=off" </dev/null >"$work/pg_ctl.log" 2>&1 ||
        fail postgres.log
    in_work "$programs/psql" -h "$work/socket" -p "$server_port" -U postgres -d postgres -XqAt \
        -c "set password_encryption = 'scram-sha-256'" \
        -c "create role demo login password '$password'" \
        -c "create database demo owner demo" >"$work/psql.log" 2>&1 || fail psql.log
}

start_pgweir() {
    password=${password:-$(random_password)}
    login=${login:-demo:$password}
    printf '"%s" "%s"\n' "$operator" "$password" >"$work/userlist.txt"
    cat >"$work/pgbouncer.ini" <<INI
[databases]
$databases

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $PGWEIR_LISTEN_PORT
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $work/userlist.txt
admin_users = $operator
pool_mode = transaction
default_pool_size = 25
max_client_conn = 1000
INI
    # In a separate session, so that Ctrl-C reaches this script only. The script then stops everything in order.
    setsid "${as_user[@]}" "$pgweir" "$work/pgbouncer.ini" </dev/null >"$work/pgweir.log" 2>&1 &
    pooler=$!
    local tries
    for tries in {1..100}; do
        ! is_listening "$PGWEIR_LISTEN_PORT" || return 0
        kill -0 "$pooler" 2>/dev/null || fail pgweir.log
        sleep 0.1
    done
    echo "pgweir does not listen after $((tries / 10)) seconds. The end of its log:" >&2
    fail pgweir.log
}

prove_and_tell() {
    local here="127.0.0.1:$PGWEIR_LISTEN_PORT" url answer
    url=postgresql://$login@$here/$database
    answer=$(PGCONNECT_TIMEOUT=20 "$programs/psql" "$url" -XqAtc \
        "select 'PostgreSQL ' || current_setting('server_version') || ', as ' || current_user" 2>"$work/psql.log") || {
        cat "$work/psql.log" >&2
        fail pgweir.log
    }
    cat <<TEXT

pgweir listens on 127.0.0.1:$PGWEIR_LISTEN_PORT and pools $server.
One query was sent through it and answered by $answer.

  to connect:      psql '$url'
  to the console:  psql 'postgresql://$operator:$password@$here/pgbouncer' -c 'SHOW POOLS'

Ctrl-C stops pgweir and removes all its files.
TEXT
}

end() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [[ -n $pooler ]]; then
        # SIGQUIT stops pgweir at once, even with clients connected. Five seconds are more than enough.
        kill -QUIT "$pooler" 2>/dev/null || true
        for _ in {1..50}; do
            kill -0 "$pooler" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pooler" 2>/dev/null || true
        wait "$pooler" 2>/dev/null || true
    fi
    if [[ -n $data && -e $data/postmaster.pid ]]; then
        in_work "$programs/pg_ctl" stop --silent --wait --mode=immediate --pgdata="$data" >/dev/null 2>&1 || true
    fi
    cd /
    [[ -z $work ]] || rm -rf "$work"
    exit "$status"
}

# Prints the end of a log and exits.
fail() {
    tail -n 20 "$work/$1" >&2
    exit 1
}

in_work() {
    (cd "$work" && exec "${as_user[@]}" "$@")
}

is_listening() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM))
        is_listening "$port" || break
    done
    echo "$port"
}

random_password() {
    od -An -N 12 -tx1 /dev/urandom | tr -d ' \n'
}

main
