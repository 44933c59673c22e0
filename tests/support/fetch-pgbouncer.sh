#!/bin/sh
# Unpack Debian's PgBouncer below the folder $1, without root, where the machine has none of its own.
# It never fails: without a PgBouncer its tests are skipped, and say so.
set -eu
PATH="$PATH:/usr/sbin:/usr/local/sbin"
command -v pgbouncer >/dev/null && exit 0
none() {
  echo "There is no PgBouncer here, and none is to be had without root: its tests are skipped (apt install pgbouncer)."
  exit 0
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || none
mkdir -p "$1" && cd "$1"
# What a small installation lacks; its C library and OpenSSL are those of the system.
libraries=$(apt-cache depends pgbouncer 2>/dev/null | sed -n 's/.*Depends: \(lib\(event\|c-ares\|cares\)[^ ]*\)$/\1/p')
# shellcheck disable=SC2086  # several words
apt-get download -qq pgbouncer $libraries 2>/dev/null || none
for package in ./*.deb; do
  dpkg-deb -x "$package" . || none
done
rm -f ./*.deb
