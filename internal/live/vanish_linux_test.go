package live_test

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// change is what breaks a network without a rule.
type change func(t *testing.T, n *lab.Network)

// setting writes a sysctl in a namespace.
func setting(netns, key, value string) change {
	return func(t *testing.T, n *lab.Network) {
		t.Helper()
		if err := n.NetNS(netns).Do(func() error {
			return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644)
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// noDefault removes the default route of the target's family.
func noDefault(netns string) change {
	return func(t *testing.T, n *lab.Network) {
		t.Helper()
		family, all := netlink.FAMILY_V4, "0.0.0.0/0"
		if n.Scenario.Target.Is6() {
			family, all = netlink.FAMILY_V6, "::/0"
		}
		h := handle(t, n.NetNS(netns))
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for i := range routes {
			if routes[i].Dst != nil && routes[i].Dst.String() != all {
				continue
			}
			if err := h.RouteDel(&routes[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// via adds a route for an address.
func via(netns, address, gateway string) change {
	return func(t *testing.T, n *lab.Network) {
		t.Helper()
		to := netip.MustParseAddr(address)
		r := &netlink.Route{Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}, Gw: net.ParseIP(gateway)}
		if err := handle(t, n.NetNS(netns)).RouteAdd(r); err != nil {
			t.Fatal(err)
		}
	}
}

// patient is long enough for the kernel to give up on a neighbour, so that what
// vanished is known to be gone.
const patient = 3500 * time.Millisecond

// TestVanished loses packets where no rule drops them. The report says where
// they were lost; it never names a rule.
func TestVanished(t *testing.T) {
	t.Parallel()
	const (
		masquerade = "request observed masquerade host postrouting source 172.19.0.2 → 203.0.113.1 [nft ip nat postrouting] ip saddr 172.19.0.0/24 masquerade"
	)
	// lost is the verdict on a packet that vanished.
	lost := func(leg, code, netns string, there, back []string, translations ...string) verdict {
		return verdict{
			Outcome: report.Dropped, Leg: leg, Code: code, NetNS: netns, Confidence: report.Reconstructed,
			Translations: translations, Request: there, Reply: back,
		}
	}
	unanswered := func(v verdict, outcome report.Outcome, confidence report.Confidence) verdict {
		v.Outcome, v.Confidence = outcome, confidence
		return v
	}
	tests := []struct {
		name, scenario string
		changes        []change
		target         string // empty: the scenario's
		want           verdict
	}{
		{
			name: "reply leaves elsewhere", scenario: "netns-by-hand",
			changes: []change{setting("host", "net/ipv4/conf/veth0/rp_filter", "0"), via("host", "172.19.0.2", "203.0.113.254")},
			want: unanswered(lost("reply", "SUBNET_OVERLAP", "host", byHandThere, []string{"host/eth0 ingress", "host/eth0 egress"}, masquerade),
				report.Lost, report.Reconstructed),
		}, {
			name: "ignored by the host", scenario: "netns-by-hand", target: "172.19.0.1",
			changes: []change{setting("host", "net/ipv4/icmp_echo_ignore_all", "1")},
			want:    unanswered(lost("request", "NO_REPLY", "host", byHandThere[:2], nil), report.Lost, report.Reconstructed),
		}, {
			name: "ignored by the internet", scenario: "netns-by-hand",
			changes: []change{setting("internet", "net/ipv4/icmp_echo_ignore_all", "1")},
			want:    unanswered(lost("request", "NO_REPLY", "host", byHandThere, nil, masquerade), report.Lost, report.Observed),
		}, {
			name: "no route on the host", scenario: "netns-by-hand", changes: []change{noDefault("host")},
			want: unanswered(lost("request", "NO_ROUTE", "host", byHandThere[:2], byHandBack[1:]), report.Rejected, report.Observed),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := build(t, tt.scenario, lab.Options{})
			for _, change := range tt.changes {
				change(t, n)
			}
			cfg := probe(n)
			if tt.target != "" {
				cfg = ping(n, tt.target)
			}
			cfg.Timeout = patient
			r := trace(t, n, cfg)
			tell(t, tt.want, shorten(r))
			for _, problem := range accusations(r) {
				t.Error(problem)
			}
		})
	}
}

// TestNeighbour asks for an address beside the host that nobody has. The kernel
// gives up after three seconds and tells the sender; the report waits for that.
func TestNeighbour(t *testing.T) {
	t.Parallel()
	n := build(t, "netns-by-hand", lab.Options{})
	r := trace(t, n, ping(n, "203.0.113.77"))
	tell(t, verdict{
		Outcome: report.Rejected, Leg: "request", Code: "NEIGHBOUR_UNREACHABLE", NetNS: "host", Confidence: report.Observed,
		Translations: []string{"request observed masquerade host postrouting source 172.19.0.2 → 203.0.113.1 [nft ip nat postrouting] ip saddr 172.19.0.0/24 masquerade"},
		Request:      byHandThere[:2], Reply: byHandBack[1:],
	}, shorten(r))
	for _, problem := range accusations(r) {
		t.Error(problem)
	}
}

// TestNeighbourSoon gives up before the kernel does: the packet may still wait
// there and be delivered, so nothing is said to have dropped it.
func TestNeighbourSoon(t *testing.T) {
	t.Parallel()
	n := build(t, "netns-by-hand", lab.Options{})
	cfg := ping(n, "203.0.113.77")
	cfg.Timeout = impatient
	r := trace(t, n, cfg)
	if r.Verdict.Outcome != report.Inconclusive || r.Verdict.Confidence == report.Observed || r.Verdict.NetNS != lab.HostName {
		t.Errorf("verdict: %+v", r.Verdict)
	}
	for _, problem := range accusations(r) {
		t.Error(problem)
	}
}
