package diagnose_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// wired lets the request vanish between cnt01's eth0 and the host's veth0.
func wired() *outward {
	o := newOutward("172.17.0.2", "8.8.8.8")
	o.path.Request.Hops = o.path.Request.Hops[:1]
	end := &o.path.Request.End
	end.Kind, end.NetNS, end.Interface, end.Next, end.NextNetNS = path.Vanished, "cnt01", "eth0", "host/veth0", topology.HostName
	o.input.Topology.Namespace("cnt01").Links[0] = topology.Link{
		Index: 2, Name: "eth0", Kind: "veth", Up: true, Carrier: true, Addresses: o.input.Topology.Namespace("cnt01").Links[0].Addresses,
		Peer: &topology.Peer{NetNS: topology.HostName, Interface: "veth0", Index: 5},
	}
	o.host().Links = append(o.host().Links, topology.Link{
		Index: 5, Name: "veth0", Kind: "veth", Up: true, Carrier: true, Peer: &topology.Peer{NetNS: "cnt01", Interface: "eth0", Index: 2},
		XDP: &topology.XDP{Mode: "xdpdrv", ID: 7, Name: "guard"},
	})
	return o
}

func (o *outward) veth0() *topology.Link { return o.host().Link("veth0") }

// at lets the request vanish on the host behind docker0.
func at(drop *skbdrop.Drop) *outward {
	o := newOutward("172.17.0.2", "8.8.8.8")
	o.vanished(drop, topology.Conntrack{}, nil)
	return o
}

// filters puts filters of tc at a link of the host and has them drop packets
// meanwhile.
func (o *outward) filters(name string, drops uint64, filters ...topology.Filter) {
	for _, snapshot := range []*topology.Snapshot{o.input.Topology, o.input.After} {
		ns := snapshot.Namespace(topology.HostName)
		ns.Links = append([]topology.Link(nil), ns.Links...)
		link := ns.Link(name)
		link.Index, link.Filters, link.FilterDrops = 3, filters, 5
		if snapshot == o.input.After {
			link.FilterDrops += drops
		}
	}
}

// TestHookCauses has the signatures of what drops at a link in the forms that
// the kernel does not show here, and what looks like them.
func TestHookCauses(t *testing.T) {
	in, out := topology.Filter{Preference: 9, Text: "u32 action drop"}, topology.Filter{Egress: true, Preference: 8, Text: "flower action drop"}
	record := func(reason, function string, index int) *skbdrop.Drop {
		return &skbdrop.Drop{NetNS: topology.HostName, Reason: reason, Function: function, Interface: index}
	}
	device := []ruletrace.BaseChain{{Backend: ruletrace.NFT, Family: "netdev", Table: "early", Name: "c", Hook: ruletrace.IngressHook, Devices: []string{"docker0"}}}
	type want struct {
		Code, NetNS, Interface, Fix string
		Confidence                  report.Confidence
	}
	for _, tt := range []struct {
		name string
		make func() *outward
		want want
	}{
		{
			"XDP without a record", wired,
			want{diagnose.XDPDrop, topology.HostName, "veth0", "ip link set dev veth0 xdpdrv off", report.Reconstructed},
		}, {
			"XDP with a record", func() *outward {
				o := wired()
				o.path.Request.End.Drop = record("XDP", "veth_xdp_rcv_skb", 5)
				return o
			}, want{diagnose.XDPDrop, topology.HostName, "veth0", "ip link set dev veth0 xdpdrv off", report.Observed},
		}, {
			"XDP, and the link is down", func() *outward {
				o := wired()
				o.veth0().Up = false
				return o
			}, want{Code: diagnose.KernelDrop, NetNS: "cnt01", Interface: "eth0", Confidence: report.Reconstructed},
		}, {
			"XDP, and the kernel had another reason", func() *outward {
				o := wired()
				o.path.Request.End.Drop = record("IP_CSUM", "ip_rcv_core", 5)
				return o
			}, want{Code: diagnose.KernelDrop, NetNS: "cnt01", Interface: "eth0", Confidence: report.Observed},
		}, {
			"no XDP", func() *outward {
				o := wired()
				o.veth0().XDP = nil
				return o
			}, want{Code: diagnose.KernelDrop, NetNS: "cnt01", Interface: "eth0", Confidence: report.Reconstructed},
		}, {
			"XDP where packets were not watched", func() *outward {
				o := wired()
				o.input.Sensors.Captured = map[string]bool{"cnt01": true}
				return o
			}, want{Code: diagnose.Inconclusive, NetNS: "cnt01", Interface: "eth0", Confidence: report.Assumed},
		}, {
			"tc by its counter, coming in", func() *outward {
				o := at(nil)
				o.filters("docker0", 1, in)
				return o
			}, want{diagnose.IngressFiltered, topology.HostName, "docker0", "tc filter del dev docker0 ingress pref 9", report.Reconstructed},
		}, {
			"tc by its counter, going out", func() *outward {
				o := at(nil)
				o.filters("eth0", 1, out)
				return o
			}, want{diagnose.IngressFiltered, topology.HostName, "eth0", "tc filter del dev eth0 egress pref 8", report.Reconstructed},
		}, {
			"filters that dropped nothing", func() *outward {
				o := at(nil)
				o.filters("docker0", 0, in)
				return o
			}, want{Code: diagnose.KernelDrop, NetNS: topology.HostName, Interface: "docker0", Confidence: report.Reconstructed},
		}, {
			"a filter that dropped something while forwarding is off", func() *outward {
				o := at(nil)
				o.filters("docker0", 1, in)
				for _, snapshot := range []*topology.Snapshot{o.input.Topology, o.input.After} {
					snapshot.Namespace(topology.HostName).Link("docker0").Settings.ForwardIPv4 = false
				}
				return o
			}, want{diagnose.ForwardingOff, topology.HostName, "docker0", "sysctl -w net.ipv4.conf.docker0.forwarding=1", report.Reconstructed},
		}, {
			"a filter that dropped something after the packet was past it", func() *outward {
				o := at(nil)
				o.filters("docker0", 1, in)
				hops := o.path.Request.Hops
				hops[len(hops)-1].Steps = []report.Step{{Kind: "policy", Hook: "forward", Confidence: report.Observed}}
				return o
			}, want{Code: diagnose.KernelDrop, NetNS: topology.HostName, Interface: "docker0", Confidence: report.Reconstructed},
		}, {
			"a filter in another direction", func() *outward {
				o := at(nil)
				o.filters("eth0", 1, in)
				return o
			}, want{Code: diagnose.KernelDrop, NetNS: topology.HostName, Interface: "docker0", Confidence: report.Reconstructed},
		}, {
			"several filters", func() *outward {
				o := at(record("TC_INGRESS", "sch_handle_ingress", 3))
				o.filters("docker0", 0, in, topology.Filter{Preference: 10, Text: "bpf"})
				return o
			}, want{diagnose.IngressFiltered, topology.HostName, "docker0", "", report.Observed},
		}, {
			"a chain at the device that was not traced", func() *outward {
				o := at(record(skbdrop.NetfilterDrop, "nft_do_chain", 3))
				o.input.Chains = map[string][]ruletrace.BaseChain{topology.HostName: device}
				return o
			}, want{diagnose.IngressFiltered, topology.HostName, "docker0", "", report.Reconstructed},
		}, {
			"a chain at the device, and the packet was past it", func() *outward {
				o := at(record(skbdrop.NetfilterDrop, "nft_do_chain", 3))
				o.input.Chains = map[string][]ruletrace.BaseChain{topology.HostName: device}
				hops := o.path.Request.Hops
				hops[len(hops)-1].Steps = []report.Step{{Kind: "policy", Hook: "prerouting"}}
				return o
			}, want{Code: diagnose.KernelDrop, NetNS: topology.HostName, Interface: "docker0", Confidence: report.Observed},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := diagnose.Diagnose(tt.make().input)
			v := d.Verdict
			got := want{Code: v.Code, NetNS: v.NetNS, Interface: v.Interface, Confidence: v.Confidence}
			for _, f := range d.Findings {
				if f.Severity == "error" { // what is ahead is not what this is about
					got.Fix += strings.Join(f.Fix, "; ")
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, v.Summary)
			}
		})
	}
}
