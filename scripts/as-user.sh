#!/bin/bash
# Runs a test binary as an ordinary user (uid 65534), for "go test -exec" by
# root. That user may not be allowed to read where the source, the binary or
# the tools are, so it gets copies, which are removed afterwards.
#
# usage: scripts/as-user.sh BINARY [ARGUMENT...]    in the package's folder
set -euo pipefail
umask 022

root=$(cd "$(dirname "$0")/.." && pwd -P)
package=$(pwd -P)
binary=$1
shift

place=$(mktemp -d "${TMPDIR:-/tmp}/pathtrace-test.XXXXXX")
trap 'rm -rf "$place"' EXIT
chmod 755 "$place"
mkdir "$place/source" "$place/home" "$place/tmp"
tar -C "$root" --exclude=./build --exclude=./.git -cf - . | tar -C "$place/source" -xf -
[ ! -d "$root/build/tools" ] || cp -a "$root/build/tools" "$place/tools"
install -m 755 "$binary" "$place/${binary##*/}"
chown 65534:65534 "$place/home" "$place/tmp"

cd "$place/source/${package#"$root"}"
env PATH="$place/tools/bin:$PATH" HOME="$place/home" TMPDIR="$place/tmp" \
	setpriv --reuid=65534 --regid=65534 --clear-groups "$place/${binary##*/}" "$@"
