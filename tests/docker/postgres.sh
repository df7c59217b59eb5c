#!/bin/sh
# What the stand-in for the image `postgres` starts: of that image's variables, the three that our compose files use.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin)
user=${POSTGRES_USER:-postgres}
name=${POSTGRES_DB:-$user}
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/secret
    "$bin/initdb" --no-sync --username="$user" --pwfile=/tmp/secret --auth-host=scram-sha-256 --auth-local=trust \
        --encoding=UTF8 --locale=C --pgdata="$data" >/dev/null
    rm /tmp/secret
    echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
    if [ "$name" != postgres ]; then
        echo "create database $name" | "$bin/postgres" --single -D "$data" postgres >/dev/null
    fi
fi
exec "$bin/postgres" -D "$data" -c 'listen_addresses=*' -c unix_socket_directories=/tmp -c fsync=off
