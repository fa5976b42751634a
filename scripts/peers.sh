#!/bin/sh
# Unpacks the programs that pathtrace meets on real hosts - container engines,
# firewall managers, VPN, routing daemons, package managers - into a root tree
# of the build, with all that they need, down to the C library. Tests run them in
# it, in a mount namespace of their own (internal/peer). Nothing is installed:
# no post-install script runs, no service starts, and the machine's package state
# and firewall stay as they are.
#
# usage: scripts/peers.sh DIR
#
# Afterwards DIR/root is the tree and DIR/packages the list of what is in it.
# Without anything to do it needs no network and prints nothing. The tree
# appears only when it is complete, so that an interrupted run is simply
# repeated; runs at the same time wait for each other.
set -eu
umask 022

dir=${1:?usage: scripts/peers.sh DIR}
PATH=$PATH:/usr/sbin:/sbin

packages='docker.io containerd runc podman conmon crun netavark containernetworking-plugins
openvpn frr firewalld ufw dnf createrepo-c tinyproxy
busybox-static iproute2 conntrack iptables nftables iputils-ping
bash dash libc-bin coreutils diffutils findutils grep sed mawk util-linux mount procps tini'

# stop REASON ends the run with what can be done about it.
stop() {
	[ ! -s "$work/log" ] || tail -n 20 "$work/log" >&2
	echo "peers: $1: tests with real container engines, firewalls and VPNs have nothing to run" >&2
	exit 1
}

# complete reports whether the tree has what this script would put into it.
complete() { [ -d "$dir/root" ] && cksum <"$script" | cmp -s - "$dir/made-by"; }

script=$0 work=$dir/work
! complete || exit 0
[ "$(id -u)" = 0 ] || stop "only root can unpack and run them"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
	stop "this is not a Debian-like system to fetch packages from"
# The tests know what these versions do: Docker 20.10 among them.
grep -qx VERSION_CODENAME=bookworm /etc/os-release ||
	stop "the packages have to be those of Debian 12"
mkdir -p "$dir"

exec 9>"$dir/lock"
flock 9
! complete || exit 0 # another run was faster
echo "peers: unpacking container engines, firewalld, OpenVPN, FRR and dnf into $dir (nothing is installed)" >&2
rm -rf "$work" "$dir/root" "$dir/made-by"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb" "$work/root"
work=$(cd "$work" && pwd)
: >"$work/status" # nothing counts as installed

# apt runs apt-get on lists, a cache and a package state of our own.
apt() {
	apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
		-o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 \
		-o Acquire::Languages=none -o Acquire::Retries=2 "$@" 2>>"$work/log" 9>&-
}
# One unreachable source among several is no reason to stop: the next step tells.
apt update >>"$work/log" || true
# shellcheck disable=SC2086 # a list of names
wanted=$(apt -s --no-install-recommends install $packages | awk '$1 == "Inst" && !seen[$2]++ {print $2}')
[ -n "$wanted" ] || stop "the package lists do not have them"
# shellcheck disable=SC2086 # a list of names
(cd "$work/deb" && apt download $wanted >>"$work/log") || stop "the packages cannot be fetched"

# Debian's packages expect /bin and others to be links into /usr.
root=$work/root
for name in bin sbin lib lib64; do
	mkdir -p "$root/usr/$name"
	ln -s "usr/$name" "$root/$name"
done
for deb in "$work"/deb/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -C "$root" --keep-directory-symlink -xf - || stop "${deb##*/} cannot be unpacked"
done

# What package scripts would have made: links to the alternatives, users of the
# daemons, PAM's common files, the identity that D-Bus asks for.
for tool in iptables ip6tables; do
	for suffix in '' -save -restore; do
		ln -sf "$tool-nft$suffix" "$root/usr/sbin/$tool$suffix"
	done
done
ln -sf ebtables-nft "$root/usr/sbin/ebtables"
ln -sf mawk "$root/usr/bin/awk"
printf 'root:*:0:0:root:/root:/bin/sh\nnobody:*:65534:65534::/nonexistent:/usr/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:*:0:\nnogroup:*:65534:\nfrrvty:*:899:frr\n' >"$root/etc/group"
id=900
for user in messagebus polkitd frr tinyproxy docker; do
	echo "$user:*:$id:$id::/nonexistent:/usr/sbin/nologin" >>"$root/etc/passwd"
	echo "$user:*:$id:" >>"$root/etc/group"
	id=$((id + 1))
done
for kind in auth account password session; do
	echo "$kind required pam_permit.so" >"$root/etc/pam.d/common-$kind"
done
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
mkdir -p "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/tmp" "$root/mnt" "$root/root"
rm -rf "$root/var/run"
ln -s ../run "$root/var/run"

(cd "$work/deb" && ls) >"$dir/packages"
mv "$root" "$dir/root"
cksum <"$script" >"$dir/made-by"
rm -rf "$work"
