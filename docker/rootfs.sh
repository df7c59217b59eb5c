#!/bin/sh
# Creates the file system of the image: the program and the files that it needs at run time. They come from the
# distribution that the program was built on.
#
#   docker/rootfs.sh PATH_TO_PGWEIR ROOTFS
set -eu
program=$1
rootfs=$2
umask 022

install -D -m 755 "$program" "$rootfs/usr/bin/pgweir"
# Four fifths of the file are debug information. The names of functions are kept, for backtraces.
strip --strip-debug "$rootfs/usr/bin/pgweir"
ln -s pgweir "$rootfs/usr/bin/pgbouncer"

# The libraries, in the directories that the loader searches. Image scanners read one file per package in status.d.
libraries=$(ldd "$program" | sed -n 's,^[^/]*\(/[^ ]*\).*,\1,p')
mkdir -p "$rootfs/var/lib/dpkg/status.d"
for library in $libraries; do
    cp -L --parents "$library" "$rootfs"
    package=$(dpkg -S "$library" "$(realpath "$library")" 2>/dev/null | sed -n '1s/:.*//p')
    [ -z "$package" ] || dpkg-query -s "$package" >"$rootfs/var/lib/dpkg/status.d/$package"
done
dpkg-query -s tzdata ca-certificates 2>/dev/null >"$rootfs/var/lib/dpkg/status.d/data" || true
cp -L --parents /etc/os-release "$rootfs"

# User names, host name resolution, time zones, certificate authorities.
for name in postgres pgbouncer pgweir; do
    # A file made for another image may use these names in the settings `user` and `unix_socket_group`.
    echo "$name:x:70:70::/nonexistent:/nonexistent" >>"$rootfs/etc/passwd"
    echo "$name:x:70:" >>"$rootfs/etc/group"
done
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$rootfs/etc/nsswitch.conf"
mkdir -p "$rootfs/usr/share"
[ ! -d /usr/share/zoneinfo ] || cp -R -P /usr/share/zoneinfo "$rootfs/usr/share/"
rm -rf "$rootfs/usr/share/zoneinfo/right" "$rootfs/usr/share/zoneinfo/posix"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L --parents /etc/ssl/certs/ca-certificates.crt "$rootfs"

# The directories for the configuration, and writable ones for sockets, logs and pidfiles. They work for any user.
mkdir -p "$rootfs/etc/pgbouncer" "$rootfs/etc/pgweir" "$rootfs/run"
ln -s ../run "$rootfs/var/run"
for folder in tmp run/pgbouncer run/pgweir var/log/pgbouncer var/log/pgweir; do
    mkdir -p "$rootfs/$folder"
    chmod 1777 "$rootfs/$folder"
done

# The same input gives the same image.
find "$rootfs" -exec touch --no-dereference --date=@0 {} +
