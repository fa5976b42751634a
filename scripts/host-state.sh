#!/bin/bash
# Prints what pathtrace, its lab and its tests must leave as they found it:
# links, addresses, routes, rules, named namespaces, firewall and its logging,
# sysctls, installed packages, running processes, control groups, temporary
# files. Two outputs are compared with diff.
set -uo pipefail
PATH=$PATH:/usr/sbin:/sbin

# show TITLE COMMAND... prints the output of a command under a title.
show() {
	echo "== $1"
	"${@:2}" 2>&1
}
show 'network namespaces' ls -1 /run/netns /var/run/docker/netns
show 'mounted namespaces' awk '$(NF-2) == "nsfs" {print $5}' /proc/self/mountinfo
show 'control groups' find /sys/fs/cgroup -maxdepth 2 -name '*pathtrace*'
show links ip -br link
show addresses ip -br address
for family in -4 -6; do
	show "rules $family" ip "$family" rule
	echo "== routes $family"
	ip "$family" route show table all | sed -E 's/ expires [0-9]+sec//'
done
show sysctls grep -rs '' /proc/sys/net/netfilter/nf_log \
	/proc/sys/net/netfilter/nf_conntrack_{timestamp,events,acct} \
	/proc/sys/net/ipv4/{ip_forward,conf/all/rp_filter,ping_group_range} \
	/proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/bridge \
	/proc/sys/user/max_user_namespaces
show 'legacy tables' cat /proc/net/ip_tables_names /proc/net/ip6_tables_names
[ "$(id -u)" != 0 ] || ! command -v nft >/dev/null || show 'nft ruleset' nft -s list ruleset
show packages md5sum /var/lib/dpkg/status
show 'policy-rc.d' ls -1 /usr/sbin/policy-rc.d
echo '== processes'
ps -eo comm= | grep -xE 'pathtrace|conntrackd|dockerd|docker-proxy|containerd.*|conmon|firewalld|openvpn|zebra|ospfd|[a-z]+\.test' | sort
show 'temporary files' find /tmp /run /var/lib -maxdepth 1 -iname '*pathtrace*'
