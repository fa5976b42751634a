#!/bin/sh
# Unpacks the command line tools that the lab and the tests drive (nft,
# iptables, conntrack, tcpdump) into a folder of the build, without installing
# anything: no post-install script runs, no daemon starts, and the machine's
# package state and firewall stay as they are. No root needed.
#
# capinfos and tshark are large for what they do here: they judge capture files
# that pathtrace writes, and capinfos is what the speed of reading is measured
# against.
#
# usage: scripts/tools.sh DIR
#
# Afterwards every tool is on PATH (sbin included) or in DIR/bin, which may be
# moved or copied together with DIR/root. Without anything to do it needs no
# network and prints nothing. A tool appears in DIR/bin only when it is
# complete, so that an interrupted run is simply repeated; runs at the same
# time wait for each other.
set -eu
umask 022

dir=${1:?usage: scripts/tools.sh DIR}
PATH=$PATH:/usr/sbin:/sbin

# package_of TOOL prints the Debian package that has it.
package_of() {
	case $1 in
	nft) echo nftables ;;
	ip*tables-* | xtables-*) echo iptables ;;
	capinfos) echo wireshark-common ;;
	*) echo "$1" ;;
	esac
}

# find_missing sets $missing to the tools that are nowhere, and $packages to
# what they are in.
find_missing() {
	missing='' packages=''
	for tool in nft conntrack tcpdump capinfos tshark \
		iptables-legacy iptables-legacy-save ip6tables-legacy ip6tables-legacy-save \
		iptables-nft iptables-nft-save ip6tables-nft ip6tables-nft-save xtables-monitor; do
		[ -x "$dir/bin/$tool" ] || command -v "$tool" >/dev/null 2>&1 || {
			missing="$missing $tool"
			package=$(package_of "$tool")
			case " $packages " in *" $package "*) ;; *) packages="$packages $package" ;; esac
		}
	done
}

# stop REASON ends the run with what can be done about it.
stop() {
	[ ! -s "$work/log" ] || tail -n 20 "$work/log" >&2
	echo "tools: not found:$missing; and $1." >&2
	echo "tools: install$packages yourself, or run: sudo make test-deps" >&2
	exit 1
}

work=$dir/work
find_missing
[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
	stop "this is not a Debian-like system to fetch packages from"
mkdir -p "$dir/bin" "$dir/root" 2>/dev/null && [ -w "$dir" ] && [ -w "$dir/bin" ] && [ -w "$dir/root" ] ||
	stop "$dir cannot be written"
dir=$(cd "$dir" && pwd)
work=$dir/work

exec 9>"$dir/lock"
flock 9
find_missing # another run may have been faster
[ -n "$missing" ] || exit 0
echo "tools: unpacking$packages into $dir (nothing is installed)" >&2
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb"

# apt runs apt-get on lists and a cache of our own; the machine's are only read.
apt() {
	apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
		-o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 \
		-o Acquire::Languages=none -o Acquire::Retries=2 "$@" 2>>"$work/log" 9>&-
}
# One unreachable source among several is no reason to stop: the next step tells.
apt update >>"$work/log" || true
# Of the packages and what they need, those that the machine does not have.
# shellcheck disable=SC2086 # a list of names
wanted=$(apt -s --no-install-recommends --reinstall install $packages | awk '$1 == "Inst" && !seen[$2]++ {print $2}')
[ -n "$wanted" ] || stop "the package lists do not have them"
# shellcheck disable=SC2086 # a list of names
(cd "$work/deb" && apt download $wanted >>"$work/log") || stop "the packages cannot be fetched"
for deb in "$work"/deb/*.deb; do
	dpkg-deb -x "$deb" "$dir/root"
done

# The wrappers find everything relative to themselves.
cd "$dir"
libraries='' extensions=''
for lib in root/usr/lib/*-linux-gnu* root/lib/*-linux-gnu*; do
	[ -d "$lib" ] || continue
	libraries="$libraries${libraries:+:}\$dir/$lib"
	[ ! -d "$lib/xtables" ] || extensions="\$dir/$lib/xtables"
done
for tool in $missing; do
	for sbin in root/usr/sbin root/usr/bin root/sbin root/bin; do
		[ -e "$sbin/$tool" ] || continue
		cat >"$work/wrapper" <<-WRAPPER
			#!/bin/sh
			dir=\${0%/*}/..
			LD_LIBRARY_PATH="$libraries" XTABLES_LIBDIR="$extensions" exec "\$dir/$sbin/$tool" "\$@"
		WRAPPER
		chmod 755 "$work/wrapper"
		mv "$work/wrapper" "bin/$tool"
		break
	done
done
find_missing
[ -z "$missing" ] || stop "none of the packages has them"
rm -rf "$work"
