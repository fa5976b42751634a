#!/bin/sh
# Unpacks the command line tools that the lab and the tests drive (nft,
# iptables, conntrack, tcpdump) into a folder of the build, without installing
# anything: no post-install script runs, no daemon starts, and the machine's
# package state and firewall stay as they are. No root needed.
#
# usage: scripts/tools.sh DIR
#   prints nothing when every tool is already on PATH or in DIR/bin.
set -eu

dir=${1:?usage: scripts/tools.sh DIR}
tools="nft iptables-legacy iptables-legacy-save ip6tables-legacy ip6tables-legacy-save iptables-nft iptables-nft-save ip6tables-nft ip6tables-nft-save conntrack tcpdump"
packages="nftables iptables conntrack tcpdump"

missing=
for tool in $tools; do
	PATH=$dir/bin:$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
[ -n "$missing" ] || exit 0

stop() {
	echo "tools:$missing: not found, and $1." >&2
	echo "tools: install the packages $packages yourself, or run: sudo make test-deps" >&2
	exit 1
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || stop "this is not a Debian-like system to fetch them from"

mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/deb" "$dir/root" "$dir/bin"
dir=$(cd "$dir" && pwd)
apt() {
	apt-get -qq -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" \
		-o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}
echo "tools: unpacking $packages into $dir (nothing is installed)" >&2
apt update >"$dir/apt/log" 2>&1 || stop "the package lists cannot be fetched (see $dir/apt/log)"
wanted=$(apt -s --no-install-recommends install $packages 2>>"$dir/apt/log" | awk '$1 == "Inst" {print $2}')
# What is installed already but not on PATH needs no second copy; its
# libraries are there too.
(cd "$dir/deb" && apt download $wanted >>"$dir/apt/log" 2>&1) || stop "the packages cannot be fetched (see $dir/apt/log)"
for deb in "$dir"/deb/*.deb; do
	dpkg-deb -x "$deb" "$dir/root"
done

libraries=
for lib in "$dir"/root/usr/lib/*-linux-gnu* "$dir"/root/lib/*-linux-gnu*; do
	[ -d "$lib" ] && libraries="$libraries${libraries:+:}$lib"
done
extensions=$(find "$dir/root" -type d -name xtables | head -n 1)
for tool in $tools; do
	for sbin in usr/sbin usr/bin sbin bin; do
		[ -e "$dir/root/$sbin/$tool" ] || continue
		cat >"$dir/bin/$tool" <<-WRAPPER
			#!/bin/sh
			LD_LIBRARY_PATH='$libraries' XTABLES_LIBDIR='$extensions' exec '$dir/root/$sbin/$tool' "\$@"
		WRAPPER
		chmod 755 "$dir/bin/$tool"
		break
	done
done
for tool in $missing; do
	[ -x "$dir/bin/$tool" ] || stop "$tool is in none of the packages"
done
