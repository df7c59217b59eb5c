#!/usr/bin/env bash
# Installs the distribution's packages that the given purposes need. Packages that are installed are left as they are.
#
#   tests/deps.sh build|make|run|test|bench|fuzz|manifests ...
#
# The tools that check the Kubernetes manifests are not in the distribution. They come from PyPI, into the target
# directory.
# No service is started and no database cluster is created: the tests and the demo start their own PostgreSQL.
set -euo pipefail

missing=()
manifests=

need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

has_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' && compgen -G '/usr/lib/postgresql/*/bin/pgbench'
}

has_compose() {
    docker compose version || docker-compose version
}

# Runs a command that needs the network. Tries up to four times.
patiently() {
    local pause
    for pause in 5 15 45; do
        ! "$@" || return 0
        echo "Trying again in $pause s: $1" >&2
        sleep "$pause"
    done
    "$@"
}

install_manifest_tools() {
    local tools target
    target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}
    tools=$target/tmp/manifest-tools
    [[ ! -x $tools/bin/kubernetes-validate || ! -x $tools/bin/yamllint ]] || return 0
    echo "Installing from PyPI, into $tools: kubernetes-validate yamllint"
    rm -rf "$tools"
    mkdir -p "$target/tmp"
    # pip tries more than once. If PyPI cannot be reached, the test that needs the tools reports that it is skipped.
    /usr/bin/python3 -m venv "$tools" && timeout 300 "$tools/bin/pip" install --quiet --disable-pip-version-check \
        kubernetes-validate==1.37.0 yamllint==1.38.0 || {
        echo "Could not install them. The test of the manifests will be skipped." >&2
        rm -rf "$tools"
    }
}

for purpose in "$@"; do
    case $purpose in
    build)
        need gcc command -v cc
        need libc6-dev test -e /usr/include/stdlib.h
        need libpam0g-dev test -e /usr/include/security/pam_appl.h
        ;;
    make) need make command -v make ;;
    fuzz) need g++ command -v c++ ;;
    run) need postgresql has_postgres ;;
    test)
        need postgresql has_postgres
        need python3-psycopg /usr/bin/python3 -c 'import psycopg'
        need iproute2 command -v ss
        need slapd test -x /usr/sbin/slapd
        need pgbouncer test -x /usr/sbin/pgbouncer
        need libpam-wrapper compgen -G '/usr/lib/*/libpam_wrapper.so'
        need prometheus-pgbouncer-exporter /usr/bin/python3 -c 'import prometheus_pgbouncer_exporter'
        need python3-decorator /usr/bin/python3 -c 'import decorator'
        if docker version >/dev/null 2>&1; then
            need debootstrap test -x /usr/sbin/debootstrap
            need docker-compose has_compose
        fi
        need openssl command -v openssl
        ;;&
    test | manifests)
        need python3-venv /usr/bin/python3 -c 'import ensurepip'
        manifests=wanted
        ;;
    bench)
        need postgresql has_postgres
        need pgbouncer test -x /usr/sbin/pgbouncer
        need openssl command -v openssl
        ;;
    *)
        echo "usage: tests/deps.sh build|make|run|test|bench|fuzz|manifests ..." >&2
        exit 2
        ;;
    esac
done

if [[ ${#missing[@]} -eq 0 ]]; then
    [[ -z $manifests ]] || install_manifest_tools
    exit 0
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    as_root=(sudo)
    [[ -t 0 ]] || as_root+=(--non-interactive)
fi
if ! command -v apt-get >/dev/null || { [[ ${#as_root[@]} -gt 0 ]] && ! command -v sudo >/dev/null; }; then
    echo "Missing Debian packages: ${missing[*]}. They cannot be installed without apt-get and root or sudo." >&2
    echo "Install them, or the packages of your distribution with the same programs, and try again." >&2
    exit 1
fi

# During the installation, do not start services and do not create a database cluster.
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
        apt-get install --yes --quiet=2 --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=3 "${missing[@]}" >/dev/null
}
update_and_install() {
    "${as_root[@]}" apt-get update --quiet=2 -o Acquire::Retries=3 && install
}
# The package lists may be old, or missing as in a container.
install 2>/dev/null || patiently update_and_install

# Services that were installed for the benchmark or the tests must not start at the next boot.
for service in pgbouncer prometheus-pgbouncer-exporter; do
    if [[ " ${missing[*]} " == *" $service "* ]] && command -v systemctl >/dev/null; then
        "${as_root[@]}" systemctl disable "$service" >/dev/null 2>&1 || true
    fi
done

[[ -z $manifests ]] || install_manifest_tools
