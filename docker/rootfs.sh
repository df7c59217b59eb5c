#!/bin/sh
# Lays out the file system of the image: the program and what it needs at run time, taken from the distribution it was
# built on.
#
#   docker/rootfs.sh PATH_TO_PGWEIR ROOTFS
set -eu
program=$1
rootfs=$2
umask 022

install -D -m 755 "$program" "$rootfs/usr/bin/pgweir"
# Four fifths of the file are for debuggers. The functions' names stay, for backtraces.
strip --strip-debug "$rootfs/usr/bin/pgweir"
ln -s pgweir "$rootfs/usr/bin/pgbouncer"

# The libraries, where the loader looks for them; and what lists them for scanners of images: a file for each package.
libraries=$(ldd "$program" | sed -n 's,^[^/]*\(/[^ ]*\).*,\1,p')
mkdir -p "$rootfs/var/lib/dpkg/status.d"
for library in $libraries; do
    cp -L --parents "$library" "$rootfs"
    package=$(dpkg -S "$library" "$(realpath "$library")" 2>/dev/null | sed -n '1s/:.*//p')
    [ -z "$package" ] || dpkg-query -s "$package" >"$rootfs/var/lib/dpkg/status.d/$package"
done
dpkg-query -s tzdata ca-certificates 2>/dev/null >"$rootfs/var/lib/dpkg/status.d/data" || true
cp -L --parents /etc/os-release "$rootfs"

# Names of users, of hosts, of time zones; the certificate authorities.
for name in postgres pgbouncer pgweir; do
    # The settings `user` and `unix_socket_group` of a file made for another image find a name here.
    echo "$name:x:70:70::/nonexistent:/nonexistent" >>"$rootfs/etc/passwd"
    echo "$name:x:70:" >>"$rootfs/etc/group"
done
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$rootfs/etc/nsswitch.conf"
mkdir -p "$rootfs/usr/share"
[ ! -d /usr/share/zoneinfo ] || cp -R -P /usr/share/zoneinfo "$rootfs/usr/share/"
rm -rf "$rootfs/usr/share/zoneinfo/right" "$rootfs/usr/share/zoneinfo/posix"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L --parents /etc/ssl/certs/ca-certificates.crt "$rootfs"

# Where configuration is mounted, and where sockets, logs and pidfiles go, whatever user the container is given.
mkdir -p "$rootfs/etc/pgbouncer" "$rootfs/etc/pgweir" "$rootfs/run"
ln -s ../run "$rootfs/var/run"
for folder in tmp run/pgbouncer run/pgweir var/log/pgbouncer var/log/pgweir; do
    mkdir -p "$rootfs/$folder"
    chmod 1777 "$rootfs/$folder"
done

# The same input makes the same image.
find "$rootfs" -exec touch --no-dereference --date=@0 {} +
