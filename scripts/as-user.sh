#!/bin/bash
# Runs a test binary as an ordinary user who is root in namespaces of their own
# (user, network, mount), for "go test -exec". When root asks, that is uid
# 65534, who may not be allowed to read where the source, the binary or the
# tools are, and gets copies, which are removed afterwards.
#
# usage: scripts/as-user.sh BINARY [ARGUMENT...]    in the package's folder
set -euo pipefail
umask 022

# /run is where iptables keeps its lock and ip its namespaces.
inside='mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"'
isolate=(unshare --user --map-root-user --net --mount --propagation private -- sh -c "$inside" sh)

if [ "$(id -u)" != 0 ]; then
	"${isolate[@]}" true || {
		echo "as-user: no user namespaces here for ordinary users; what needs them cannot be tested" >&2
		exec "$@"
	}
	exec "${isolate[@]}" "$@"
fi

root=$(cd "$(dirname "$0")/.." && pwd -P)
package=$(pwd -P)
binary=$1
shift

place=$(mktemp -d "${TMPDIR:-/tmp}/pathtrace-test.XXXXXX")
trap 'rm -rf "$place"' EXIT
chmod 755 "$place"
mkdir "$place/source" "$place/home" "$place/tmp"
tar -C "$root" --exclude=./build --exclude=./.git -cf - . | tar -C "$place/source" -xf -
# Published data that some tests are held against lies beside the source.
[ ! -d "$root/../shared/data" ] || { mkdir "$place/shared" && cp -a "$root/../shared/data" "$place/shared/"; }
[ ! -d "$root/build/tools" ] || cp -a "$root/build/tools" "$place/tools"
install -m 755 "$binary" "$place/${binary##*/}"
chown 65534:65534 "$place/home" "$place/tmp"

cd "$place/source/${package#"$root"}"
env PATH="$place/tools/bin:$PATH" HOME="$place/home" TMPDIR="$place/tmp" \
	setpriv --reuid=65534 --regid=65534 --clear-groups "${isolate[@]}" "$place/${binary##*/}" "$@"
