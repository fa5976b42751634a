//go:build linux

package lab

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cilium/ebpf/asm"
)

// decoys gives the host of a disguised network some of the oddities that hosts
// have and that concern none of the scenario's packets. Each is what some cause
// looks for, in a place where it explains nothing.
func (b *builder) decoys() {
	if b.disguise == nil {
		return
	}
	host := b.nodes[HostName]
	in, out := b.network.Scenario.ends()
	for i, add := range []func(){
		host.idleNetwork,
		host.idleLink,
		func() { host.run("", "ip", "route", "add", "blackhole", "10.199.78.0/24") },
		func() { host.run("", "ip", "-6", "route", "add", "unreachable", "fd00:199:78::/48") },
		func() {
			host.run("", "ip", "rule", "add", "from", "10.199.77.0/24", "lookup", "199")
			host.run("", "ip", "route", "add", "prohibit", "default", "table", "199")
		},
		func() {
			host.decoyRule("filter", "forward", "FORWARD", "ip saddr 10.199.77.9 drop", "-s 10.199.77.9/32 -j DROP")
		},
		func() {
			host.decoyRule("nat", "prerouting", "PREROUTING", "tcp dport 19999 dnat to 10.199.77.9:80", "-p tcp -m tcp --dport 19999 -j DNAT --to-destination 10.199.77.9:80")
		},
		func() { host.decoyDevice(in) },
		func() { host.filter(in, "ingress", classic{{opReturn, 0, 0, verdictUnspecified}}) },
		func() { host.filter(out, "egress", classic{{opReturn, 0, 0, verdictUnspecified}}) },
		func() { host.decoyProgram(out) },
	} {
		if b.disguise.number(fmt.Sprint("decoy ", i))%3 == 0 {
			add()
		}
	}
}

// idleNetwork is a container network without a container: a bridge without
// carrier.
func (n *node) idleNetwork() {
	n.bridge("br-0dec0700dec0")
	n.addr("br-0dec0700dec0", "172.29.0.1/16")
}

// idleLink is a link that nothing leads to: it is short of everything that the
// others need to have.
func (n *node) idleLink() {
	n.wire(n, "eth77", n, "eth78")
	n.addr("eth77", "10.199.77.1/24")
	n.sysctl("net/ipv4/conf/eth77/forwarding", "0")
	n.sysctl("net/ipv4/conf/eth77/rp_filter", "1")
	n.run("", "ip", "link", "set", "eth77", "mtu", "1280")
	n.run("", "ip", "neigh", "replace", "10.199.77.9", "dev", "eth77", "nud", "failed")
	n.run("", "ip", "link", "set", "eth78", "down")
}

// ends are the host's interfaces by which requests come in and leave; where there
// is a bridge the first is a port of it. What comes from a macvlan does not come in:
// there both are the link below.
func (s *Scenario) ends() (in, out string) {
	for _, point := range s.Request {
		place, direction, _ := strings.Cut(point, " ")
		netns, iface, _ := strings.Cut(place, "/")
		switch {
		case netns != HostName:
		case direction == "egress":
			out = iface
		case in == "":
			in = iface
		}
	}
	return cmp.Or(in, out), out
}

// decoyDevice adds a chain at a device that drops what nobody sends.
func (n *node) decoyDevice(name string) {
	n.nft(fmt.Sprintf(`
table netdev decoy_port {
	chain ingress {
		type filter hook ingress device %q priority 10; policy accept;
		ip saddr 10.199.77.9 drop
	}
}
`, name))
}

// decoyProgram attaches an XDP program that passes everything, if this process
// may load one.
func (n *node) decoyProgram(name string) {
	if n.err != nil {
		return
	}
	n.attach(name, asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()})
	if errors.Is(n.err, fs.ErrPermission) {
		n.err = nil
	}
}

// decoyRule adds a rule for packets that there are not, in the backend's way.
func (n *node) decoyRule(table, hook, chain, rule, iptables string) {
	if backend := n.network.Options.Backend; backend != NFT {
		n.iptables(backend, false, fmt.Sprintf("*%s\n-I %s %s\n", table, chain, iptables))
		return
	}
	kind, priority := "filter", "filter - 5"
	if table == "nat" {
		kind, priority = "nat", "dstnat - 5"
	}
	n.nft(fmt.Sprintf(`
table ip decoy_%s {
	chain %s {
		type %s hook %s priority %s; policy accept;
		%s
	}
}
`, table, hook, kind, hook, priority, rule))
}
