//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hookPlace is a network whose packets are dropped outside of IP's hooks.
type hookPlace struct {
	source string
	target netip.Addr
	// in is the host's interface that requests come in by, out the one that they
	// leave by and answers come in by; above is the bridge that in is a port of,
	// empty for none.
	in, out, above string
	// last is the namespace in whose interface lastIn requests come in next, if
	// it can be seen.
	last, lastIn string
	// sourceOut is the interface of the source.
	sourceOut string
}

func (p hookPlace) ipv6() bool { return p.target.Is6() }

func (p hookPlace) echo(leg string) string {
	return filterPlace{target: p.target}.echo(leg)
}

// atDevice is a rule in a table that is asked at devices, and atDevices makes
// that table, with one base chain.
func atDevice(family, text string) func(Backend) Rule {
	return func(Backend) Rule { return nftRule(family, "early", "early", text) }
}

func atDevices(family, hook, policy string, devices ...string) func(*node, Rule) {
	return func(n *node, rule Rule) {
		var names []string
		for _, device := range devices {
			names = append(names, fmt.Sprintf("%q", device))
		}
		text := rule.Text
		if policy == "drop" {
			text = "meta protocol arp accept\n\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept\n\t\tudp dport 53 accept"
		}
		n.nft(fmt.Sprintf("table %s early {\n\tchain early {\n\t\ttype filter hook %s devices = { %s } priority 0; policy %s;\n\t\t%s\n\t}\n}\n",
			family, hook, strings.Join(names, ", "), policy, text))
	}
}

// faults are the ways in which a packet is lost there.
func (p hookPlace) faults() []Fault {
	ping := pinging(p.source, p.target)
	netdev := func(name, summary, family, leg, hook, device string) Fault {
		return Fault{
			Name: name, Summary: summary, netns: HostName, Probe: ping, outcome: ended("dropped", leg, "INGRESS_FILTERED", hook).by(device),
			rule:  atDevice(family, p.echo(leg)+` drop comment "not at this port"`),
			apply: atDevices(family, hook, "accept", device),
		}
	}
	filtered := func(name, summary, leg, side, device string) Fault {
		return Fault{
			Name: name, Summary: summary, netns: HostName, Probe: patiently(ping), outcome: ended("dropped", leg, "INGRESS_FILTERED", "").by(device),
			apply: func(n *node, _ Rule) { n.filterEcho(device, side, p.ipv6(), leg) },
		}
	}
	all := []Fault{
		netdev("netdev-drop", "a rule at the interface by which requests come in drops them", "netdev", "request", "ingress", p.in),
		netdev("netdev-out", "a rule at the interface by which requests leave drops them", "netdev", "request", "egress", p.out),
		netdev("netdev-reply", "a rule at the uplink drops answers before anything else sees them", "netdev", "reply", "ingress", p.out),
		netdev("inet-ingress", "a rule in a table for IP, at the interface by which requests come in, drops them", "inet", "request", "ingress", p.in),
		{
			Name: "netdev-policy", Summary: "the policy of a chain at the interface by which requests come in drops them", netns: HostName, Probe: ping,
			outcome: ended("dropped", "request", "INGRESS_FILTERED", "ingress").by(p.in),
			rule:    atDevice("netdev", "policy drop"), apply: atDevices("netdev", "ingress", "drop", p.in),
		},
		filtered("tc-drop", "a filter of tc drops requests at the interface by which they come in", "request", "ingress", p.in),
		filtered("tc-out", "a filter of tc drops requests at the interface by which they leave", "request", "egress", p.out),
		filtered("tc-reply", "a filter of tc drops answers at the uplink", "reply", "ingress", p.out),
		{
			Name: "tc-out@" + p.source, Summary: "a filter of tc in " + p.source + " drops what it sends", netns: p.source, Probe: patiently(ping),
			outcome: ended("dropped", "request", "INGRESS_FILTERED", "").by(p.sourceOut),
			apply:   func(n *node, _ Rule) { n.filterEcho(p.sourceOut, "egress", p.ipv6(), "request") },
		},
		{
			Name: "tcx-drop", Summary: "a program of tcx drops requests at the interface by which they come in", netns: HostName, Probe: ping, Root: true, NoFix: true,
			outcome: ended("dropped", "request", "INGRESS_FILTERED", "").by(p.in),
			apply:   func(n *node, _ Rule) { n.tcx(p.in, p.ipv6(), "request") },
		},
		{
			// Looks alike: the filter passes everything, and a rule drops later.
			Name: "tc-pass", Summary: "a filter of tc lets everything pass, and a rule drops it behind the routing", netns: HostName, Probe: ping,
			outcome: dropped("request", "postrouting"),
			rule: func(backend Backend) Rule {
				return iptablesRule(beside(backend), p.ipv6(), "mangle", echoRule("POSTROUTING", p.ipv6(), "request", "nothing goes out", "DROP"))
			},
			apply: func(n *node, rule Rule) {
				n.filter(p.in, "ingress", classic{{opReturn, 0, 0, verdictUnspecified}})
				n.insert(rule)
			},
		},
		{
			Name: "xdp-drop", Summary: "an XDP program drops requests at the interface by which they come in", netns: HostName, Probe: ping, Root: true,
			outcome: ended("dropped", "request", "XDP_DROP", "").by(p.in),
			apply:   func(n *node, _ Rule) { n.xdp(p.in, p.ipv6(), "request") },
		},
		{
			Name: "xdp-reply@" + p.source, Summary: "an XDP program in " + p.source + " drops the answers", netns: p.source, Probe: ping, Root: true,
			outcome: ended("dropped", "reply", "XDP_DROP", "").by(p.sourceOut),
			apply:   func(n *node, _ Rule) { n.xdp(p.sourceOut, p.ipv6(), "reply") },
		},
	}
	if p.above != "" {
		all = append(all, netdev("netdev-bridge", "a rule at the bridge drops requests behind its ports", "netdev", "request", "ingress", p.above))
	}
	if p.last != "" {
		all = append(all, Fault{
			Name: "xdp-drop@" + p.last, Summary: "an XDP program in " + p.last + " drops what comes from the host", netns: p.last, Probe: ping, Root: true,
			outcome: ended("dropped", "request", "XDP_DROP", "").by(p.lastIn),
			apply:   func(n *node, _ Rule) { n.xdp(p.lastIn, p.ipv6(), "request") },
		})
	}
	return all
}

func byHandHooks() []Fault {
	p := hookPlace{source: "mynamespace", sourceOut: "veth1", target: ipv4Target, in: "veth0", out: "eth0"}
	return p.faults()
}

func masqueradeHooks() []Fault {
	p := hookPlace{
		source: "cnt01", sourceOut: "eth0", target: masqueradeTarget, in: "veth671b926", above: "br_ipv6_nw", out: "ens192", last: "router", lastIn: "eth0",
	}
	return append(p.faults(),
		bridged("bridge-drop", "a rule of the bridge drops what comes by the container's port", pinging("cnt01", masqueradeTarget), "prerouting",
			`iifname "veth671b926" icmpv6 type echo-request drop comment "not from this port"`))
}

// bridged is a rule of family bridge.
func bridged(name, summary string, probe *Probe, hook, text string) Fault {
	return Fault{
		Name: name, Summary: summary, netns: HostName, Probe: probe, outcome: ended("dropped", "request", "BRIDGE_FILTERED", hook),
		rule: func(Backend) Rule { return nftRule("bridge", "guard", "guard", text) },
		apply: func(n *node, rule Rule) {
			n.nft(fmt.Sprintf("table bridge guard {\n\tchain guard {\n\t\ttype filter hook %s priority 0; policy accept;\n\t\t%s\n\t}\n}\n", hook, rule.Text))
		},
	}
}

// dockerHooks are those around Docker's bridge, and what keeps its containers
// from one another.
func dockerHooks() []Fault {
	p := hookPlace{source: "cnt01", sourceOut: "eth0", target: ipv4Target, in: "veth8c1f3e2", above: "docker0", out: "eth0"}
	cnt02 := netip.MustParseAddr("172.17.0.3")
	ping := pinging("cnt01", cnt02)
	return slices.Concat(p.faults(), []Fault{
		bridged("bridge-drop", "a rule of the bridge drops what one container sends to another", ping, "forward",
			`ip saddr 172.17.0.2 icmp type echo-request drop comment "containers keep to themselves"`),
		bridged("bridge-port-drop", "a rule of the bridge drops what comes by the container's port", pinging("cnt01", ipv4Target), "prerouting",
			`iifname "veth8c1f3e2" icmp type echo-request drop comment "not from this port"`),
		{
			Name: "icc-off", Summary: "Docker keeps containers of one bridge apart (--icc=false), by a rule for IP that br_netfilter applies to the bridge", netns: HostName, Probe: ping,
			outcome: ended("dropped", "request", "BRIDGE_FILTERED", "forward"),
			rule: func(backend Backend) Rule {
				return iptablesRule(backend, false, "filter", "-A FORWARD -i docker0 -o docker0 -j DROP")
			},
		},
		{
			Name: "bridge-policy", Summary: "no rule accepts what one container sends to another, and br_netfilter applies the policy of FORWARD to the bridge", netns: HostName, Probe: ping,
			outcome: ended("dropped", "request", "BRIDGE_FILTERED", "forward"),
			rule:    func(backend Backend) Rule { return iptablesRule(backend, false, "filter", ":FORWARD DROP") },
			apply: func(host *node, _ Rule) {
				host.iptables(host.network.Options.Backend, false, "*filter\n-D FORWARD -i docker0 -o docker0 -j ACCEPT\n")
			},
		},
		{
			Name: "bridge-reply", Summary: "a rule for IP drops the answers between two containers, since br_netfilter applies it to the bridge", netns: HostName, Probe: ping,
			outcome: ended("dropped", "reply", "BRIDGE_FILTERED", "forward").by("vethd04b7a9"),
			rule: func(backend Backend) Rule {
				return iptablesRule(backend, false, "filter", echoRule("DOCKER-USER", false, "reply", "no echo replies", "DROP"))
			},
		},
		{
			Name: "xdp-drop@cnt02", Summary: "an XDP program in the other container drops the request", netns: "cnt02", Probe: ping, Root: true,
			outcome: ended("dropped", "request", "XDP_DROP", "").by("eth0"),
			apply:   func(n *node, _ Rule) { n.xdp("eth0", false, "request") },
		},
	})
}

// classic is a program of classic BPF: of each instruction the code, the two
// jumps and the value.
type classic [][4]uint32

// What the filters are made of, and the verdicts TC_ACT_SHOT and TC_ACT_UNSPEC
// of tc (include/uapi/linux/pkt_cls.h), the second of which leaves the packet to
// the next filter.
const (
	opReturn = unix.BPF_RET | unix.BPF_K
	opHalf   = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
	opByte   = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	opEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K

	verdictShot        = 2
	verdictUnspecified = 1<<32 - 1
)

// echoAt is where an Ethernet frame has what tells an echo request or reply, and
// what it has there.
func echoAt(ipv6 bool, leg string) (etherType uint16, protocolAt, typeAt int16, protocol, kind uint8) {
	if ipv6 {
		return unix.ETH_P_IPV6, 20, 54, unix.IPPROTO_ICMPV6, map[string]uint8{"request": 128, "reply": 129}[leg]
	}
	return unix.ETH_P_IP, 23, 34, unix.IPPROTO_ICMP, map[string]uint8{"request": 8, "reply": 0}[leg]
}

// filterEcho has a filter of tc drop echo requests or replies at a link.
func (n *node) filterEcho(name, side string, ipv6 bool, leg string) {
	etherType, protocolAt, typeAt, protocol, kind := echoAt(ipv6, leg)
	// Ethernet's type, the protocol, the kind of ICMP.
	n.filter(name, side, classic{
		{opHalf, 0, 0, 12},
		{opEqual, 0, 5, uint32(etherType)},
		{opByte, 0, 0, uint32(protocolAt)},
		{opEqual, 0, 3, uint32(protocol)},
		{opByte, 0, 0, uint32(typeAt)},
		{opEqual, 0, 1, uint32(kind)},
		{opReturn, 0, 0, verdictShot},
		{opReturn, 0, 0, verdictUnspecified},
	})
}

// filter adds a filter of tc whose program decides alone. A program of classic
// BPF needs no right beyond those over the namespace.
func (n *node) filter(name, side string, program classic) {
	words := []string{fmt.Sprint(len(program))}
	for _, op := range program {
		words = append(words, fmt.Sprintf("%d %d %d %d", op[0], op[1], op[2], op[3]))
	}
	if !n.classifies(name) {
		n.run("", "tc", "qdisc", "add", "dev", name, "clsact")
	}
	n.run("", "tc", "filter", "add", "dev", name, side, "bpf", "direct-action", "bytecode", strings.Join(words, ","))
}

// classifies reports whether filters can be added to a link already.
func (n *node) classifies(name string) (yes bool) {
	n.do("list the queueing disciplines of "+name, func() error {
		at, err := n.link(name)
		if err != nil {
			return err
		}
		all, err := retry(func() ([]netlink.Qdisc, error) { return n.handle.QdiscList(at) })
		yes = slices.ContainsFunc(all, func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
		return err
	})
	return yes
}

// xdp has an XDP program drop echo requests or replies at a link.
func (n *node) xdp(name string, ipv6 bool, leg string) {
	n.attach(name, dropEcho(ipv6, leg))
}

// attach loads an XDP program and attaches it to a link, in the form that every
// link has (generic).
func (n *node) attach(name string, program asm.Instructions) {
	n.do(fmt.Sprintf("attach an XDP program to %s in %s", name, n.name), func() error {
		loaded, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "no_echo", Type: ebpf.XDP, Instructions: program, License: "Apache-2.0"})
		if err != nil {
			return &RootError{Err: err}
		}
		defer loaded.Close() //nolint:errcheck // the link holds it
		at, err := n.link(name)
		if err != nil {
			return err
		}
		return n.ns.Do(func() error { return netlink.LinkSetXdpFdWithFlags(at, loaded.FD(), unix.XDP_FLAGS_SKB_MODE) })
	})
}

// tcx attaches a program to a link, in place of a filter of tc, that drops echo
// requests or replies. It is there until the network is closed.
func (n *node) tcx(name string, ipv6 bool, leg string) {
	n.do(fmt.Sprintf("attach a program to %s in %s", name, n.name), func() error {
		loaded, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "no_echo", Type: ebpf.SchedCLS, License: "Apache-2.0",
			Instructions: echoProgram(ipv6, leg, 76, 80, verdictShot, -1), // struct __sk_buff
		})
		if err != nil {
			return &RootError{Err: err}
		}
		defer loaded.Close() //nolint:errcheck // the link holds it
		at, err := n.link(name)
		if err != nil {
			return err
		}
		return n.ns.Do(func() error {
			attached, err := link.AttachTCX(link.TCXOptions{Interface: at.Attrs().Index, Program: loaded, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				n.undo(attached.Close)
			}
			return err
		})
	})
}

// RootError says that a fault needs more than namespaces of its own.
type RootError struct {
	Err error
}

func (e *RootError) Error() string {
	return fmt.Sprintf("BPF programs can be loaded by root only, outside of user namespaces: %v", e.Err)
}

// Unwrap returns the kernel's answer.
func (e *RootError) Unwrap() error { return e.Err }

// XDP_DROP and XDP_PASS (include/uapi/linux/bpf.h).
const (
	xdpDrop = 1
	xdpPass = 2
)

// dropEcho is an XDP program that drops echo requests or replies.
func dropEcho(ipv6 bool, leg string) asm.Instructions {
	return echoProgram(ipv6, leg, 0, 4, xdpDrop, xdpPass) // struct xdp_md
}

// echoProgram is a program that finds the packet, and its end, at these places of
// what it is given, and has one verdict for echo requests or replies and another
// for the rest.
func echoProgram(ipv6 bool, leg string, data, end int16, verdict, otherwise int32) asm.Instructions {
	etherType, protocolAt, typeAt, protocol, kind := echoAt(ipv6, leg)
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, end, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, int32(typeAt)+1),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R5, asm.R2, 12, asm.Half),
		asm.HostTo(asm.BE, asm.R5, asm.Half),
		asm.JNE.Imm(asm.R5, int32(etherType), "pass"),
		asm.LoadMem(asm.R5, asm.R2, protocolAt, asm.Byte),
		asm.JNE.Imm(asm.R5, int32(protocol), "pass"),
		asm.LoadMem(asm.R5, asm.R2, typeAt, asm.Byte),
		asm.JNE.Imm(asm.R5, int32(kind), "pass"),
		asm.Mov.Imm(asm.R0, verdict),
		asm.Return(),
		asm.Mov.Imm(asm.R0, otherwise).WithSymbol("pass"),
		asm.Return(),
	}
}
