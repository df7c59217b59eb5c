#!/usr/bin/env bash
# `make run`: pgweir at work in a minute, and nothing left behind.
#
#   config/demo.sh PATH_TO_PGWEIR
#
# With DATABASE_URL set, that server is pooled. Without it, a private PostgreSQL is started for the occasion: its own
# data folder, loopback only, a role `demo` with a SCRAM password. Both are given a pgbouncer.ini and a userlist.txt
# written here, one query is sent through, and the lines to connect with are printed. Ctrl-C, or SIGTERM, ends it all.
#
#   PGWEIR_LISTEN_PORT   where to listen (6432)
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
        # The same login, here.
        login=${DATABASE_URL#*://}
        login=${login%%[/?]*}
        [[ $login == *@* ]] || { echo "DATABASE_URL names no user: postgres://user:password@host/db" >&2; exit 1; }
        login=${login%@*}
        # A name that the URL is unlikely to have, since auth_file outranks the URL's password.
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

    # Ends when pgweir does, or when a signal comes.
    local status=0
    wait "$pooler" || status=$?
    pooler=''
    echo "pgweir has ended by itself (status $status):" >&2
    tail -n 20 "$work/pgweir.log" >&2
    return 1
}

insist_on_free_port() {
    is_listening "$PGWEIR_LISTEN_PORT" || return 0
    local owner=''
    if command -v ss >/dev/null; then
        owner=$(ss -Hltnp "sport = :$PGWEIR_LISTEN_PORT" | sed -n 's/.*users:((\("[^"]*",pid=[0-9]*\).*/\1/p' | head -n 1)
    fi
    echo "Port $PGWEIR_LISTEN_PORT is taken${owner:+ by $owner}. Pick another: make run PGWEIR_LISTEN_PORT=6433" >&2
    exit 1
}

# A folder of our own. PostgreSQL refuses to run as root, so for root everything here belongs to and runs as `postgres`.
prepare_folder() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/pgweir-demo.XXXXXX")
    if [[ $(id -u) -eq 0 ]]; then
        local user=postgres
        id "$user" >/dev/null 2>&1 || user=nobody
        as_user=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
        # The build may lie where only root can go.
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
    echo "PostgreSQL is not installed: run \`make deps\`" >&2
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
    # In a session of its own: Ctrl-C is for this script, which then ends everything in order.
    setsid "${as_user[@]}" "$pgweir" "$work/pgbouncer.ini" </dev/null >"$work/pgweir.log" 2>&1 &
    pooler=$!
    local tries
    for tries in {1..100}; do
        ! is_listening "$PGWEIR_LISTEN_PORT" || return 0
        kill -0 "$pooler" 2>/dev/null || fail pgweir.log
        sleep 0.1
    done
    echo "pgweir does not listen after $((tries / 10)) seconds" >&2
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

pgweir listens on 127.0.0.1:$PGWEIR_LISTEN_PORT before $server.
One query through it was answered by $answer.

  an application:  psql '$url'
  the console:     psql 'postgresql://$operator:$password@$here/pgbouncer' -c 'SHOW POOLS'

Ctrl-C ends it and leaves nothing behind.
TEXT
}

end() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [[ -n $pooler ]]; then
        # SIGQUIT is "now", whoever is still connected; five seconds are plenty for that.
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

# Shows the end of a log and gives up.
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
