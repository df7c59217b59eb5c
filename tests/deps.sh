#!/usr/bin/env bash
# Installs from the distribution what the given purposes need, and nothing that is there already.
#
#   tests/deps.sh build|make|run|test|bench|fuzz ...
#
# No service is started and no database cluster made: the tests and the demo start their own PostgreSQL.
set -euo pipefail

missing=()

need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

has_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' && compgen -G '/usr/lib/postgresql/*/bin/pgbench'
}

for purpose in "$@"; do
    case $purpose in
    build)
        need gcc command -v cc
        need libc6-dev test -e /usr/include/stdlib.h
        ;;
    make) need make command -v make ;;
    fuzz) need g++ command -v c++ ;;
    run) need postgresql has_postgres ;;
    test)
        need postgresql has_postgres
        need python3-psycopg /usr/bin/python3 -c 'import psycopg'
        ;;
    bench)
        need postgresql has_postgres
        need pgbouncer test -x /usr/sbin/pgbouncer
        ;;
    *)
        echo "usage: tests/deps.sh build|make|run|test|bench|fuzz ..." >&2
        exit 2
        ;;
    esac
done

[[ ${#missing[@]} -gt 0 ]] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    as_root=(sudo)
    [[ -t 0 ]] || as_root+=(--non-interactive)
fi
if ! command -v apt-get >/dev/null || { [[ ${#as_root[@]} -gt 0 ]] && ! command -v sudo >/dev/null; }; then
    echo "Missing: ${missing[*]} (names of Debian's packages). They cannot be installed from here;" >&2
    echo "install them, or what your system calls them, and try again." >&2
    exit 1
fi

# While packages are installed: start nothing, and make no cluster.
undo=()
quiet_folder=/etc/postgresql-common/createcluster.d
if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee /usr/sbin/policy-rc.d >/dev/null
    "${as_root[@]}" chmod 755 /usr/sbin/policy-rc.d
    undo+=(/usr/sbin/policy-rc.d)
fi
if [[ ! -e $quiet_folder/pgweir.conf ]]; then
    "${as_root[@]}" mkdir -p "$quiet_folder"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$quiet_folder/pgweir.conf" >/dev/null
    undo+=("$quiet_folder/pgweir.conf")
fi
cleanup() {
    [[ ${#undo[@]} -eq 0 ]] || "${as_root[@]}" rm -f "${undo[@]}"
}
trap cleanup EXIT

echo "Installing from the distribution: ${missing[*]}"
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet=2 --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
}
# The lists may be old or absent, as they are in a container.
install 2>/dev/null || { "${as_root[@]}" apt-get update --quiet=2 && install; }

# A pgbouncer that was installed for the benchmark should not come up at the next boot.
if [[ " ${missing[*]} " == *" pgbouncer "* ]] && command -v systemctl >/dev/null; then
    "${as_root[@]}" systemctl disable pgbouncer >/dev/null 2>&1 || true
fi
