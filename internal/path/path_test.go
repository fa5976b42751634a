package path_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

const (
	containerAddr = "fd5a:ceb9:ed8d:1::2"
	hostAddr      = "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5"
	publicAddr    = "2001:db8:ff66:1:77e4:61d8:20eb:aba5"
	targetAddr    = "2001:4860:4860::8888"
	bridgeMAC     = "02:00:00:00:00:b0"
	containerMAC  = "02:00:00:00:00:c1"
)

var (
	nonce = []byte("sixteen  random!")
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// bed is a container behind a bridge of the host, and a gateway.
type bed struct {
	in    path.Input
	ticks int
	rings map[string]uint64
	seq   uint64
}

func newBed() *bed {
	veth := func(index int, name, bridge, mac, peerNS, peer string, role capture.Role) topology.Link {
		l := topology.Link{Index: index, Name: name, Kind: "veth", Bridge: bridge, MAC: mac, Role: role, Up: true, Carrier: true}
		if peer != "" {
			l.Peer = &topology.Peer{NetNS: peerNS, Interface: peer}
		}
		return l
	}
	b := &bed{rings: make(map[string]uint64)}
	container := veth(2, "eth0", "", containerMAC, "host", "veth0", capture.RoleContainer)
	container.Addresses = []netip.Prefix{netip.MustParsePrefix(containerAddr + "/64")}
	uplink := veth(5, "ens192", "", "02:00:00:00:00:05", "gateway", "zTrust", capture.RoleUplink)
	uplink.Addresses = []netip.Prefix{netip.MustParsePrefix(hostAddr + "/64")}
	outside := veth(3, "zUntrust", "", "02:00:00:00:00:07", "", "", capture.RoleRouter)
	outside.Peer = &topology.Peer{} // a peer that cannot be entered
	b.in = path.Input{
		Probe: path.Probe{NetNS: "cnt01", ICMPSeq: 1, Nonce: nonce, Tuple: echo(containerAddr, targetAddr, false)},
		Topology: &topology.Snapshot{Source: "cnt01", Target: netip.MustParseAddr(targetAddr), Namespaces: []topology.Namespace{
			{Name: "cnt01", Links: []topology.Link{container}},
			{Name: "host", BridgeNF: topology.BridgeNF{IPv4: true, IPv6: true}, Links: []topology.Link{
				veth(3, "veth0", "br0", "02:00:00:00:00:03", "cnt01", "eth0", capture.RoleVeth),
				veth(6, "veth1", "br0", "02:00:00:00:00:06", "cnt02", "eth0", capture.RoleVeth),
				{Index: 4, Name: "br0", Kind: "bridge", MAC: bridgeMAC, Role: capture.RoleBridge},
				uplink,
			}},
			{Name: "gateway", Links: []topology.Link{veth(2, "zTrust", "", "02:00:00:00:00:06", "host", "ens192", capture.RoleRouter), outside}},
			{Name: "cnt02", Links: []topology.Link{veth(2, "eth0", "", "02:00:00:00:00:c2", "host", "veth1", capture.RoleContainer)}},
		}},
		Inside: map[string]bool{"cnt01": true, "host": true, "gateway": true, "cnt02": true},
	}
	return b
}

func echo(from, to string, reply bool) packet.Tuple {
	t := packet.Tuple{Proto: packet.ICMPv6, Src: netip.MustParseAddr(from), Dst: netip.MustParseAddr(to), ICMPType: packet.EchoRequestV6, ICMPID: 38}
	if reply {
		t.ICMPType = packet.EchoReplyV6
	}
	return t
}

func header(t packet.Tuple) packet.Header {
	return packet.Header{
		Version: 6, Tuple: t, TTL: 64, PayloadLength: 64, ICMPSeq: 1, Checksum: 0x1234,
		Payload: append(bytes.Clone(nonce), "0123456789abcdef0123456789abcdef01234567"...),
	}
}

// see adds a sighting, a microsecond after the one before; to is the frame's
// destination where that matters.
func (b *bed) see(point string, direction capture.Direction, h packet.Header, to ...string) {
	netns, iface, _ := strings.Cut(point, "/")
	b.ticks++
	b.rings[netns]++
	link := b.in.Topology.Namespace(netns).Link(iface)
	if len(to) > 0 {
		for i := range 6 {
			fmt.Sscanf(to[0][3*i:], "%02x", &h.EtherDst[i]) //nolint:errcheck // a constant of this file
		}
	}
	b.in.Sightings = append(b.in.Sightings, capture.Sighting{
		Point: capture.Point{NetNS: netns, Interface: iface, Index: link.Index, Role: link.Role},
		Time:  start.Add(time.Duration(b.ticks) * time.Microsecond), Number: b.rings[netns], Direction: direction, Length: 118, Header: h,
	})
}

// hit adds a rule hit of nftables, with as much of the payload as the kernel
// gives.
func (b *bed) hit(netns string, hook ruletrace.Hook, priority int, chainType string, verdict ruletrace.Verdict, t packet.Tuple, text string) {
	b.seq++
	h := header(t)
	h.Payload, h.PayloadCut = h.Payload[:12], true
	kind := ruletrace.HitRule
	if strings.HasPrefix(text, "policy") {
		kind = ruletrace.HitPolicy
	}
	b.in.Hits = append(b.in.Hits, ruletrace.Hit{
		NetNS: netns, Seq: b.seq, Kind: kind, Verdict: verdict, Hook: hook, Priority: priority, ChainType: chainType, Header: h,
		Rule: ruletrace.Rule{Backend: ruletrace.NFT, Family: "ip6", Table: "t", Chain: "c", Handle: 7, Text: text},
	})
}

func (b *bed) event(netns string, kind nat.EventKind, original, reply packet.Tuple) {
	b.seq++
	b.in.Events = append(b.in.Events, nat.Event{Kind: kind, Seq: b.seq, Flow: nat.Flow{
		NetNS: netns, ID: 99, Original: original, Reply: reply, Status: nat.StatusConfirmed | nat.StatusSrcNAT,
	}})
}

// sendOut is the request on its way from the container to the uplink.
func (b *bed) sendOut() {
	request := echo(containerAddr, targetAddr, false)
	b.see("cnt01/eth0", capture.Egress, header(request))
	b.see("host/veth0", capture.Ingress, header(request), bridgeMAC)
	b.see("host/br0", capture.Ingress, header(request), bridgeMAC)
}

func (b *bed) masquerade() {
	request := echo(containerAddr, targetAddr, false)
	b.hit("host", ruletrace.Postrouting, 100, "nat", ruletrace.Accept, request, `oifname != "lo" masquerade`)
	b.event("host", nat.New, request, echo(targetAddr, hostAddr, true))
	b.see("host/ens192", capture.Egress, header(echo(hostAddr, targetAddr, false)))
}

// describe puts a leg into lines that a test can compare: places, and the
// steps that are not dull.
func describe(l path.Leg) []string {
	var lines []string
	for _, h := range l.Hops {
		lines = append(lines, fmt.Sprintf("%s/%s %s %s", h.NetNS, h.Interface, h.Direction, h.Tuple.Source))
		for _, s := range h.Steps {
			if !s.Dull {
				lines = append(lines, fmt.Sprintf("  %s: %s [%s]", s.Kind, s.Text, s.Confidence))
			}
		}
	}
	return append(lines, "end: "+string(l.End.Kind))
}

func TestJoinFollowsTranslations(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.masquerade()
	b.see("gateway/zTrust", capture.Ingress, header(echo(hostAddr, targetAddr, false)))
	b.see("gateway/zUntrust", capture.Egress, header(echo(publicAddr, targetAddr, false)))
	b.see("gateway/zUntrust", capture.Ingress, header(echo(targetAddr, publicAddr, true)))
	b.see("gateway/zTrust", capture.Egress, header(echo(targetAddr, hostAddr, true)))
	b.see("host/ens192", capture.Ingress, header(echo(targetAddr, hostAddr, true)))
	b.see("host/br0", capture.Egress, header(echo(targetAddr, containerAddr, true)))
	b.see("host/veth0", capture.Egress, header(echo(targetAddr, containerAddr, true)))
	b.see("cnt01/eth0", capture.Ingress, header(echo(targetAddr, containerAddr, true)), containerMAC)
	got := path.Join(b.in)

	if !packet.ChecksumNeutral(netip.MustParseAddr(hostAddr), netip.MustParseAddr(publicAddr)) {
		t.Fatal("the test's own addresses are not those of an RFC 6296 translation")
	}
	want := []string{
		"cnt01/eth0 egress " + containerAddr,
		"host/veth0 ingress " + containerAddr,
		"host/br0 ingress " + containerAddr,
		"  route: not determined by the tables; it left by ens192 [assumed]",
		"  nat: source " + containerAddr + " → " + hostAddr + " [observed]",
		"  conntrack: NEW [observed]",
		"host/ens192 egress " + hostAddr,
		"gateway/zTrust ingress " + hostAddr,
		"  route: not determined by the tables; it left by zUntrust [assumed]",
		"  nat: source " + hostAddr + " → " + publicAddr + " (NPTv6: the checksum stayed; the rule was not seen) [reconstructed]",
		"gateway/zUntrust egress " + publicAddr,
		"end: left",
	}
	if diff := cmp.Diff(want, describe(got.Request)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	want = []string{
		"gateway/zUntrust ingress " + targetAddr,
		"  nat: destination " + publicAddr + " → " + hostAddr + " (NPTv6: the checksum stayed; the rule was not seen) [reconstructed]",
		"  route: not determined by the tables; it left by zTrust [assumed]",
		"gateway/zTrust egress " + targetAddr,
		"host/ens192 ingress " + targetAddr,
		"  nat: destination " + hostAddr + " → " + containerAddr + " (masquerade undone) [observed]",
		"  route: not determined by the tables; it left by br0 [assumed]",
		"host/br0 egress " + targetAddr,
		"host/veth0 egress " + targetAddr,
		"cnt01/eth0 ingress " + targetAddr,
		"end: delivered",
	}
	if diff := cmp.Diff(want, describe(got.Reply)); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
	var kinds []string
	for _, tr := range got.Translations {
		kinds = append(kinds, fmt.Sprintf("%s %s %s %s %s", tr.Kind, tr.NetNS, tr.Leg, tr.Field, tr.Confidence))
	}
	if diff := cmp.Diff([]string{
		"masquerade host request source observed", "nptv6 gateway request source reconstructed", "nptv6 gateway reply destination reconstructed",
	}, kinds); diff != "" {
		t.Errorf("translations (-want +got):\n%s", diff)
	}
}

func TestChangeThatIsNotNeutralIsNotNPTv6(t *testing.T) {
	b := newBed()
	b.see("gateway/zTrust", capture.Ingress, header(echo(hostAddr, targetAddr, false)))
	b.see("gateway/zUntrust", capture.Egress, header(echo("2001:db8:ff66:1::77", targetAddr, false)))
	got := path.Join(b.in)
	if len(got.Translations) != 1 || got.Translations[0].Kind != "unknown" {
		t.Errorf("got %+v, want one translation of unknown kind", got.Translations)
	}
}

func TestDropEndsTheLeg(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, b.in.Probe.Tuple, "policy drop")
	got := path.Join(b.in).Request.End
	if got.Kind != path.Dropped || !got.Policy || got.NetNS != "host" || got.Interface != "br0" || got.Hook != ruletrace.Forward {
		t.Errorf("got end %+v, want the policy's drop on the host behind br0", got)
	}
}

func TestDropOfACopyIsNoEnd(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	b.masquerade()
	if got := path.Join(b.in).Request.End.Kind; got == path.Dropped {
		t.Errorf("the packet was seen behind the drop, and still it is called %s", got)
	}
}

func TestDropBeforeAnyInterface(t *testing.T) {
	b := newBed()
	b.hit("cnt01", ruletrace.Output, 0, "filter", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	got := path.Join(b.in).Request
	want := []string{"cnt01/ egress " + containerAddr, "  drop: drop [observed]", "end: dropped"}
	if diff := cmp.Diff(want, describe(got)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// drop adds a record of the kernel's, a microsecond after what was before.
func (b *bed) drop(netns, reason, function string, index int, t packet.Tuple) {
	b.ticks++
	b.in.Drops = append(b.in.Drops, skbdrop.Drop{
		NetNS: netns, Time: start.Add(time.Duration(b.ticks) * time.Microsecond), Interface: index,
		Reason: reason, Function: function, Header: header(t),
	})
}

func TestKernelDropExplainsTheEnd(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.drop("host", "IP_INADDRERRORS", "ip6_forward", 4, echo(containerAddr, targetAddr, false))
	p := path.Join(b.in)
	end := p.Request.End
	if end.Kind != path.Vanished || end.NetNS != "host" || end.Drop == nil || end.Drop.Mechanism() != "IP_INADDRERRORS@ip6_forward" {
		t.Fatalf("end %+v", end)
	}
	last := p.Request.Hops[len(p.Request.Hops)-1]
	step := last.Steps[len(last.Steps)-1]
	want := report.Step{Kind: "drop", Text: "by the kernel: IP_INADDRERRORS at ip6_forward", Confidence: report.Observed, Evidence: []string{"drop-1"}}
	if diff := cmp.Diff(want, step); diff != "" {
		t.Errorf("step (-want +got):\n%s", diff)
	}
	i := slices.IndexFunc(p.Evidence, func(e report.Evidence) bool { return e.ID == "drop-1" })
	if i < 0 || !strings.HasPrefix(p.Evidence[i].Text, "IP_INADDRERRORS@ip6_forward at br0: ") {
		t.Errorf("evidence %+v", p.Evidence)
	}
}

// TestKernelDropOfSomethingElse has drops that are not the packet's end: of a
// copy, before it was seen again; of another packet; a benign one; one in a
// namespace that is not on the way.
func TestKernelDropOfSomethingElse(t *testing.T) {
	ours := echo(containerAddr, targetAddr, false)
	for name, drop := range map[string]func(*bed){
		"copy": func(b *bed) {
			b.ticks -= 2 // behind the port's tap, long before that of the bridge
			b.drop("host", "NOMEM", "br_flood", 3, ours)
			b.ticks += 100
			b.see("host/br0", capture.Ingress, header(ours))
		},
		"other packet": func(b *bed) {
			b.drop("host", "IP_INADDRERRORS", "ip6_forward", 4, ours)
			b.in.Drops[0].Header.ICMPSeq++
		},
		"benign":    func(b *bed) { b.drop("host", "OTHERHOST", "ip6_rcv_core", 4, ours) },
		"elsewhere": func(b *bed) { b.drop("", "IP_INADDRERRORS", "ip6_forward", 4, ours) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed()
			b.sendOut()
			drop(b)
			if end := path.Join(b.in).Request.End; end.Drop != nil || end.Kind != path.Vanished {
				t.Errorf("end %+v", end)
			}
		})
	}
}

func TestKernelDropBeforeAnyInterface(t *testing.T) {
	b := newBed()
	b.drop("cnt01", "NOT_SPECIFIED", "dst_discard_out", 2, echo(containerAddr, targetAddr, false))
	p := path.Join(b.in)
	if p.Request.End.Kind != path.Vanished || p.Request.End.Drop == nil || p.Request.Packet == "" {
		t.Fatalf("end %+v of %q", p.Request.End, p.Request.Packet)
	}
	if len(p.Request.Hops) != 1 || p.Request.Hops[0].NetNS != "cnt01" || p.Request.Hops[0].Interface != "eth0" {
		t.Errorf("hops %+v", p.Request.Hops)
	}
}

func TestVanishedBetweenTwoPoints(t *testing.T) {
	b := newBed()
	b.sendOut()
	got := path.Join(b.in).Request.End
	if got.Kind != path.Vanished || got.Interface != "br0" || got.Next != "an outgoing interface of host" {
		t.Errorf("got %+v, want vanished behind br0", got)
	}
}

func TestTopologyBreaksTies(t *testing.T) {
	b := newBed()
	b.sendOut()
	for i := range b.in.Sightings {
		b.in.Sightings[i].Time = start
	}
	// What arrives first says nothing.
	b.in.Sightings[0], b.in.Sightings[2] = b.in.Sightings[2], b.in.Sightings[0]
	var got []string
	for _, h := range path.Join(b.in).Request.Hops {
		got = append(got, h.Interface)
	}
	if diff := cmp.Diff([]string{"eth0", "veth0", "br0"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestFloodedCopyIsNoHop(t *testing.T) {
	b := newBed()
	b.in.Probe.Tuple = echo(targetAddr, containerAddr, false) // from outside to the container
	b.in.Probe.NetNS = "host"
	h := header(b.in.Probe.Tuple)
	b.see("host/br0", capture.Egress, h, containerMAC)
	b.see("host/veth0", capture.Egress, h, containerMAC)
	b.see("host/veth1", capture.Egress, h, containerMAC)
	b.see("cnt02/eth0", capture.Ingress, h, containerMAC)
	b.see("cnt01/eth0", capture.Ingress, h, containerMAC)
	got := path.Join(b.in).Request
	want := []string{
		"host/br0 egress " + targetAddr, "host/veth0 egress " + targetAddr, "cnt01/eth0 ingress " + targetAddr,
		"  deliver: delivered to cnt01 [assumed]", "end: delivered",
	}
	if diff := cmp.Diff(want, describe(got)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestRetransmissionIsAnotherPacket(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.sendOut() // the same content once more, as IPv6 retransmissions have
	got := path.Join(b.in).Request
	if len(got.Hops) != 3 || got.End.Kind != path.Vanished {
		t.Errorf("got %v, want the first packet only, which vanished", describe(got))
	}
}

func TestLaterPacketOfAFlow(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.masquerade()
	first := len(b.in.Sightings)
	second := func(t packet.Tuple) packet.Header {
		h := header(t)
		h.ICMPSeq = 2
		return h
	}
	request := b.in.Probe.Tuple
	b.see("cnt01/eth0", capture.Egress, second(request))
	b.see("host/veth0", capture.Ingress, second(request), bridgeMAC)
	b.see("host/br0", capture.Ingress, second(request), bridgeMAC)
	b.see("host/ens192", capture.Egress, second(echo(hostAddr, targetAddr, false)))
	b.in.Probe.ICMPSeq = 2
	got := path.Join(b.in)
	if len(got.Request.Hops) != len(b.in.Sightings)-first {
		t.Fatalf("got %v", describe(got.Request))
	}
	tr := got.Translations
	if len(tr) != 1 || tr[0].Kind != "masquerade" || tr[0].Confidence != report.Reconstructed || tr[0].Rule == nil {
		t.Errorf("got %+v, want the rule of the flow's first packet, reconstructed", tr)
	}
}

func TestBridgeNFOrder(t *testing.T) {
	for _, on := range []bool{true, false} {
		b := newBed()
		b.in.Topology.Namespace("host").BridgeNF.IPv6 = on
		b.sendOut()
		b.hit("host", ruletrace.Prerouting, -300, "filter", ruletrace.Accept, b.in.Probe.Tuple, "counter accept")
		var got []string
		for _, h := range path.Join(b.in).Request.Hops[1:] {
			got = append(got, fmt.Sprintf("%s %d", h.Interface, len(h.Steps)))
		}
		want := []string{"veth0 1", "br0 1"} // prerouting, then the bridge's tap; the route last
		if !on {
			want = []string{"veth0 0", "br0 2"}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("br_netfilter %v (-want +got):\n%s", on, diff)
		}
	}
}

func TestICMPErrorIsJoinedByItsQuote(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.masquerade()
	failure := func(to, quotedSource string) packet.Header {
		quoted := header(echo(quotedSource, targetAddr, false))
		return packet.Header{
			Version: 6, PayloadLength: 112, Quoted: &quoted, TTL: 64,
			Tuple: packet.Tuple{Proto: packet.ICMPv6, Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr(to), ICMPType: 1, ICMPCode: 3},
		}
	}
	b.see("host/ens192", capture.Ingress, failure(hostAddr, hostAddr))
	b.see("host/br0", capture.Egress, failure(containerAddr, containerAddr))
	b.see("host/veth0", capture.Egress, failure(containerAddr, containerAddr))
	b.see("cnt01/eth0", capture.Ingress, failure(containerAddr, containerAddr), containerMAC)
	got := path.Join(b.in)
	if got.Answer.Kind != path.Error || got.Answer.By.String() != "2001:db8::1" || got.Answer.Text != "address unreachable (type 1 code 3)" {
		t.Errorf("got answer %+v", got.Answer)
	}
	if got.Reply.End.Kind != path.Delivered || len(got.Reply.Hops) != 4 {
		t.Errorf("got %v", describe(got.Reply))
	}
}

func TestStrangersHitIsNotOurs(t *testing.T) {
	b := newBed()
	b.sendOut()
	stranger := echo("fd00::99", "fd00::1", false)
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, stranger, "drop")
	b.in.Hits[0].Header.Payload = []byte("a stranger's")
	if got := path.Join(b.in).Request.End.Kind; got != path.Vanished {
		t.Errorf("a stranger's drop ended the leg: %s", got)
	}
}

func TestBridgedFrameIsNotRouted(t *testing.T) {
	b := newBed()
	b.see("cnt01/eth0", capture.Egress, header(b.in.Probe.Tuple))
	b.see("host/veth0", capture.Ingress, header(b.in.Probe.Tuple), "02:00:00:00:00:c2")
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, b.in.Probe.Tuple, "policy drop")
	b.in.Hits[0].Egress = "br0"
	got := path.Join(b.in).Request
	want := []string{
		"cnt01/eth0 egress " + containerAddr, "host/veth0 ingress " + containerAddr, "  drop: policy drop [observed]", "end: dropped",
	}
	if diff := cmp.Diff(want, describe(got)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if !got.End.Bridged {
		t.Error("the frame went from port to port, and is not called bridged")
	}
}

func TestDroppedBeforeRoutingIsNotRouted(t *testing.T) {
	b := newBed()
	b.in.Topology.Namespace("host").BridgeNF.IPv6 = false
	b.sendOut()
	b.hit("host", ruletrace.Prerouting, -300, "filter", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	want := []string{
		"cnt01/eth0 egress " + containerAddr, "host/veth0 ingress " + containerAddr, "host/br0 ingress " + containerAddr,
		"  drop: drop [observed]", "end: dropped",
	}
	if diff := cmp.Diff(want, describe(path.Join(b.in).Request)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// What is for this namespace has to be seen at the bridge, not only at a port.
func TestPortAloneIsNoDelivery(t *testing.T) {
	b := newBed()
	b.in.Probe.Tuple = echo(containerAddr, hostAddr, false)
	h := header(b.in.Probe.Tuple)
	b.see("cnt01/eth0", capture.Egress, h)
	b.see("host/veth0", capture.Ingress, h, bridgeMAC)
	got := path.Join(b.in).Request
	if got.End.Kind != path.Vanished || got.End.Next != "host/br0" {
		t.Errorf("got end %+v, want vanished between the port and the bridge", got.End)
	}
	b.hit("host", ruletrace.Prerouting, -100, "nat", ruletrace.Accept, b.in.Probe.Tuple, "dnat to fd00::1")
	got = path.Join(b.in).Request
	if got.End.Kind != path.Vanished || got.End.Next != "br0 or another port of it" {
		t.Errorf("got end %+v, want vanished behind the translation", got.End)
	}
	want := []string{
		"cnt01/eth0 egress " + containerAddr, "host/veth0 ingress " + containerAddr, "  rule: dnat to fd00::1 [observed]", "end: vanished",
	}
	if diff := cmp.Diff(want, describe(got)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// A packet whose new destination was not seen is not delivered to its old one.
func TestUnseenTranslationIsNoDelivery(t *testing.T) {
	b := newBed()
	b.in.Probe.Tuple = echo("fd00::1", hostAddr, false)
	b.in.Probe.NetNS = "gateway"
	b.see("gateway/zTrust", capture.Egress, header(b.in.Probe.Tuple))
	b.see("host/ens192", capture.Ingress, header(b.in.Probe.Tuple))
	if got := path.Join(b.in).Request.End; got.Kind != path.Delivered {
		t.Errorf("without a translation: got end %+v, want delivered", got)
	}
	b.hit("host", ruletrace.Prerouting, -100, "nat", ruletrace.Accept, b.in.Probe.Tuple, "dnat to fd00::2")
	if got := path.Join(b.in).Request.End; got.Kind != path.Vanished || got.Next != "an outgoing interface of host" {
		t.Errorf("got end %+v, want vanished on the host", got)
	}
}

func TestRedirectedPacketIsNotRouted(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.in.Topology.Namespace("host").BridgeNF.IPv6 = false
	b.hit("host", ruletrace.Prerouting, -100, "nat", ruletrace.Accept, b.in.Probe.Tuple, "redirect")
	b.event("host", nat.New, b.in.Probe.Tuple, echo(hostAddr, containerAddr, true))
	want := []string{
		"cnt01/eth0 egress " + containerAddr, "host/veth0 ingress " + containerAddr, "host/br0 ingress " + containerAddr,
		"  nat: destination " + targetAddr + " → " + hostAddr + " [observed]", "  conntrack: NEW [observed]",
		"  deliver: delivered to host [reconstructed]", "end: delivered",
	}
	if diff := cmp.Diff(want, describe(path.Join(b.in).Request)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestAnswerDroppedBeforeAnyInterface(t *testing.T) {
	b := newBed()
	b.in.Probe.Tuple = echo(containerAddr, hostAddr, false)
	b.see("cnt01/eth0", capture.Egress, header(b.in.Probe.Tuple))
	b.see("host/veth0", capture.Ingress, header(b.in.Probe.Tuple), bridgeMAC)
	b.see("host/br0", capture.Ingress, header(b.in.Probe.Tuple), bridgeMAC)
	b.hit("host", ruletrace.Output, 0, "filter", ruletrace.Drop, echo(hostAddr, containerAddr, true), "drop")
	got := path.Join(b.in)
	if got.Answer.Kind != path.Reply || got.Answer.NetNS != "host" {
		t.Errorf("got answer %+v, want the host's reply", got.Answer)
	}
	want := []string{"host/ egress " + hostAddr, "  drop: drop [observed]", "end: dropped"}
	if diff := cmp.Diff(want, describe(got.Reply)); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
}

// Of a probe that was dropped before any interface there are only rule hits;
// those of the one before have the same tuple.
func TestDropOfALaterProbeBeforeAnyInterface(t *testing.T) {
	b := newBed()
	b.hit("cnt01", ruletrace.Output, 0, "filter", ruletrace.Accept, b.in.Probe.Tuple, "accept")
	b.sendOut()
	b.hit("cnt01", ruletrace.Output, 0, "filter", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	b.in.Hits[1].Header.ICMPSeq = 2
	b.in.Probe.ICMPSeq = 2
	want := []string{"cnt01/ egress " + containerAddr, "  drop: drop [observed]", "end: dropped"}
	if diff := cmp.Diff(want, describe(path.Join(b.in).Request)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// Behind a drop there is no translation, also where conntrack has one for the
// flow: neither for the flow's next request nor for its answer.
func TestNoTranslationBehindADrop(t *testing.T) {
	request := echo(containerAddr, targetAddr, false)
	second := func(t packet.Tuple) packet.Header {
		h := header(t)
		h.ICMPSeq = 2
		return h
	}
	t.Run("request", func(t *testing.T) {
		b := newBed()
		b.sendOut()
		b.masquerade()
		b.see("cnt01/eth0", capture.Egress, second(request))
		b.see("host/br0", capture.Ingress, second(request))
		b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, request, "drop")
		b.in.Hits[1].Header.ICMPSeq = 2
		b.in.Probe.ICMPSeq = 2
		got := path.Join(b.in)
		want := []string{
			"cnt01/eth0 egress " + containerAddr, "host/br0 ingress " + containerAddr,
			"  route: not determined [assumed]", "  drop: drop [observed]", "end: dropped",
		}
		if diff := cmp.Diff(want, describe(got.Request)); diff != "" || len(got.Translations) > 0 {
			t.Errorf("translations %v, request (-want +got):\n%s", got.Translations, diff)
		}
	})
	for _, tt := range []struct {
		name     string
		priority int
		want     []string
	}{
		{"before conntrack", -300, []string{"  drop: drop [observed]"}},
		{"before NAT", -150, []string{"  drop: drop [observed]"}},
		{"behind NAT", 0, []string{"  nat: destination " + hostAddr + " → " + containerAddr + " (masquerade undone) [reconstructed]", "  drop: drop [observed]"}},
	} {
		t.Run("answer, "+tt.name, func(t *testing.T) {
			b := newBed()
			b.sendOut()
			b.masquerade()
			answer := echo(targetAddr, hostAddr, true)
			b.see("host/ens192", capture.Ingress, header(answer))
			b.hit("host", ruletrace.Prerouting, tt.priority, "filter", ruletrace.Drop, answer, "drop")
			want := append(append([]string{"host/ens192 ingress " + targetAddr}, tt.want...), "end: dropped")
			if diff := cmp.Diff(want, describe(path.Join(b.in).Reply)); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("DNAT undone in postrouting only", func(t *testing.T) {
		b := newBed()
		b.in.Probe.Tuple = echo("fd00::1", hostAddr, false)
		b.in.Probe.NetNS = "gateway"
		b.event("host", nat.New, b.in.Probe.Tuple, echo(containerAddr, "fd00::1", true))
		answer := echo(containerAddr, "fd00::1", true)
		b.see("cnt01/eth0", capture.Egress, header(answer))
		b.see("host/veth0", capture.Ingress, header(answer), bridgeMAC)
		b.see("host/br0", capture.Ingress, header(answer), bridgeMAC)
		b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, answer, "drop")
		want := []string{
			"cnt01/eth0 egress " + containerAddr, "host/veth0 ingress " + containerAddr, "host/br0 ingress " + containerAddr,
			"  route: not determined [assumed]", "  drop: drop [observed]", "end: dropped",
		}
		if diff := cmp.Diff(want, describe(path.Join(b.in).Reply)); diff != "" {
			t.Errorf("reply (-want +got):\n%s", diff)
		}
	})
}

// What made an answer sent it with its own address; NAT put the one that was
// asked in its place before the first interface.
func TestAnswerIsTranslatedWhereItIsMade(t *testing.T) {
	b := newBed()
	b.in.Topology.Namespace("host").BridgeNF.IPv6 = false
	b.sendOut()
	b.hit("host", ruletrace.Prerouting, -100, "nat", ruletrace.Accept, b.in.Probe.Tuple, "redirect")
	b.event("host", nat.New, b.in.Probe.Tuple, echo(hostAddr, containerAddr, true))
	b.see("host/br0", capture.Egress, header(echo(targetAddr, containerAddr, true)))
	want := []string{
		"host/ egress " + hostAddr, "  nat: source " + hostAddr + " → " + targetAddr + " (redirect undone) [reconstructed]",
		"host/br0 egress " + targetAddr, "end: vanished",
	}
	if diff := cmp.Diff(want, describe(path.Join(b.in).Reply)); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
}

// Conntrack's NEW belongs to the packet that opened the flow, once.
func TestNewIsToldOnce(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.masquerade()
	translated := header(echo(hostAddr, targetAddr, false))
	b.see("gateway/zTrust", capture.Ingress, translated)
	b.see("gateway/zTrust", capture.Egress, translated)
	b.see("host/ens192", capture.Ingress, translated)
	b.see("host/ens192", capture.Egress, translated)
	if n := strings.Count(strings.Join(describe(path.Join(b.in).Request), "\n"), "conntrack: NEW"); n != 1 {
		t.Errorf("NEW is told %d times, want once", n)
	}
}

// A rule that duplicates a packet, as TEE does, makes a copy that goes another
// way; both have the same content.
func TestDuplicateIsNoHop(t *testing.T) {
	b := newBed()
	b.sendOut()
	request := header(b.in.Probe.Tuple)
	b.see("host/br0", capture.Egress, request)
	b.see("host/veth1", capture.Egress, request)
	b.see("host/ens192", capture.Egress, request)
	b.see("cnt02/eth0", capture.Ingress, request, "02:00:00:00:00:c2")
	b.see("gateway/zTrust", capture.Ingress, request)
	var got []string
	for _, h := range path.Join(b.in).Request.Hops {
		got = append(got, h.NetNS+"/"+h.Interface)
	}
	if diff := cmp.Diff([]string{"cnt01/eth0", "host/veth0", "host/br0", "host/ens192", "gateway/zTrust"}, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// What a ring missed does not end the way.
func TestMissedSightingIsNoEnd(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.see("gateway/zTrust", capture.Ingress, header(b.in.Probe.Tuple))
	got := path.Join(b.in).Request
	if n := len(got.Hops); n != 4 || got.Hops[3].NetNS != "gateway" {
		t.Errorf("got %v, want the way up to the gateway", describe(got))
	}
}

// A frame that a bridge floods since nobody has its address was not lost at the
// port that it came in by.
func TestFrameThatNobodyTakes(t *testing.T) {
	b := newBed()
	request, to := header(b.in.Probe.Tuple), "02:00:00:00:00:77"
	b.see("cnt01/eth0", capture.Egress, request)
	b.see("host/veth0", capture.Ingress, request, to)
	b.see("host/veth1", capture.Egress, request, to)
	b.see("cnt02/eth0", capture.Ingress, request, to)
	got := path.Join(b.in).Request
	if got.End.Kind != path.Left || got.End.NetNS != "cnt02" || got.End.FrameFor != to || len(got.Hops) != 4 {
		t.Errorf("got end %+v of %v, want the last one that it was offered to", got.End, describe(got))
	}
	// A rule that dropped the other copies says more.
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	b.in.Hits[0].Rule.Family = "bridge"
	if got := path.Join(b.in).Request.End; got.Kind != path.Dropped {
		t.Errorf("got end %+v, want dropped", got)
	}
}

// macvlan puts a link with an address of its own above the host's, beside the
// host's routing.
func macvlan() *bed {
	b := newBed()
	topo := b.in.Topology
	topo.Namespaces = slices.Insert(topo.Namespaces, 0, topology.Namespace{Name: "mv", Links: []topology.Link{{
		Index: 2, Name: "eth0", Kind: "macvlan", MAC: "02:00:00:00:00:aa", Role: capture.RoleContainer,
		Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::aa/64")}, Lower: &topology.Peer{NetNS: "host", Interface: "ens192"},
	}}})
	b.in.Inside["mv"] = true
	b.in.Probe.NetNS, b.in.Probe.Tuple = "mv", echo("fd00::aa", targetAddr, false)
	b.see("mv/eth0", capture.Egress, header(b.in.Probe.Tuple))
	return b
}

func TestMacvlan(t *testing.T) {
	b := macvlan()
	if got := path.Join(b.in).Request.End; got.Kind != path.Vanished || got.Next != "host/ens192" {
		t.Errorf("got end %+v, want vanished before the link below", got)
	}
	b.hit("host", ruletrace.EgressHook, 0, "early", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	want := []string{"mv/eth0 egress fd00::aa", "host/ egress fd00::aa", "  drop: drop [observed]", "end: dropped"}
	if diff := cmp.Diff(want, describe(path.Join(b.in).Request)); diff != "" {
		t.Errorf("dropped below, where nothing is routed (-want +got):\n%s", diff)
	}
	b.in.Hits = nil
	b.see("host/ens192", capture.Egress, header(b.in.Probe.Tuple))
	b.see("gateway/zTrust", capture.Ingress, header(b.in.Probe.Tuple))
	answer := header(echo(targetAddr, "fd00::aa", true))
	b.see("gateway/zTrust", capture.Egress, answer)
	b.see("host/ens192", capture.Ingress, answer, "02:00:00:00:00:aa")
	got := path.Join(b.in)
	want = []string{
		"mv/eth0 egress fd00::aa", "host/ens192 egress fd00::aa", "gateway/zTrust ingress fd00::aa",
		"  route: not determined [assumed]", "end: vanished",
	}
	if diff := cmp.Diff(want, describe(got.Request)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if end := got.Reply.End; end.Kind != path.Vanished || end.Next != "the link above it" {
		t.Errorf("got end %+v, want vanished below the macvlan", end)
	}
	b.in.Inside["mv"] = false
	if end := path.Join(b.in).Reply.End; end.Kind != path.Left || end.FrameFor != "02:00:00:00:00:aa" || end.Parked {
		t.Errorf("got end %+v, want left for a macvlan in which nobody looked", end)
	}
	b.in.Inside["mv"] = true
	b.see("mv/eth0", capture.Ingress, answer, "02:00:00:00:00:aa")
	want = []string{
		"gateway/zTrust egress " + targetAddr, "host/ens192 ingress " + targetAddr, "mv/eth0 ingress " + targetAddr, "end: delivered",
	}
	if diff := cmp.Diff(want, describe(path.Join(b.in).Reply)); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
}

func TestQueue(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Queue, b.in.Probe.Tuple, "queue to 3")
	got := path.Join(b.in).Request.End
	if got.Kind != path.Vanished || got.Verdict != ruletrace.Queue || got.Rule == nil || got.Hook != ruletrace.Forward {
		t.Errorf("got end %+v, want the packet left in the queue", got)
	}
	// The program gave it back, and the next chain dropped it.
	b.hit("host", ruletrace.Forward, 10, "filter", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	if got := path.Join(b.in).Request.End; got.Kind != path.Dropped {
		t.Errorf("got end %+v, want dropped behind the queue", got)
	}
}

func TestDropOfACopyIsTold(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Drop, b.in.Probe.Tuple, "drop")
	b.see("host/br0", capture.Egress, header(b.in.Probe.Tuple))
	if got := path.Join(b.in).Request.End; got.Kind != path.Vanished || got.CopyDropped == nil {
		t.Errorf("got end %+v, want vanished with the rule that dropped a copy", got)
	}
}

// strict is the container with strict reverse path filtering and a route to
// the target by a link of its own choice.
func strict(by string) *bed {
	b := newBed()
	ns := b.in.Topology.Namespace("cnt01")
	ns.All.RPFilter = 1
	ns.Policy = []topology.Policy{{Action: "lookup", Table: 254, SuppressPrefix: -1, SuppressGroup: -1}}
	ns.Routes = []topology.Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Interface: by, Table: 254, Type: "unicast", Text: "default dev " + by}}
	ns.Links[0].Addresses = []netip.Prefix{netip.MustParsePrefix("172.17.0.2/16")}
	there := packet.Tuple{Proto: packet.ICMP, Src: netip.MustParseAddr("172.17.0.2"), Dst: netip.MustParseAddr("8.8.8.8"), ICMPType: packet.EchoRequest, ICMPID: 38}
	b.in.Probe.Tuple = there
	for _, t := range []packet.Tuple{there, there.Inverse()} {
		h := header(t)
		h.Version = 4
		if t == there {
			b.see("cnt01/eth0", capture.Egress, h)
		} else {
			b.see("cnt01/eth0", capture.Ingress, h, containerMAC)
		}
	}
	return b
}

func TestReversePathFilter(t *testing.T) {
	if got := path.Join(strict("eth0").in).Reply.End; got.Kind != path.Delivered {
		t.Errorf("the way back is the same: got end %+v, want delivered", got)
	}
	b := strict("eth1")
	if got := path.Join(b.in).Reply.End; got.Kind != path.Vanished || got.WayBack != "default dev eth1" {
		t.Errorf("the way back is another: got end %+v, want vanished", got)
	}
	b.hit("cnt01", ruletrace.Input, 0, "filter", ruletrace.Accept, b.in.Probe.Tuple.Inverse(), "accept")
	b.in.Hits[0].Header.Version = 4
	if got := path.Join(b.in).Reply.End; got.Kind != path.Delivered {
		t.Errorf("a rule in input saw it: got end %+v, want delivered", got)
	}
	for name, change := range map[string]func(*topology.Namespace){
		"loose": func(ns *topology.Namespace) { ns.All.RPFilter, ns.Links[0].Settings.RPFilter = 1, 2 },
		"off":   func(ns *topology.Namespace) { ns.All.RPFilter = 0 },
		"a rule asks for the mark": func(ns *topology.Namespace) {
			ns.Policy = append(ns.Policy, topology.Policy{Action: "lookup", Table: 7, Mark: 7, MarkMask: 7, SuppressPrefix: -1, SuppressGroup: -1})
		},
	} {
		b := strict("eth1")
		change(b.in.Topology.Namespace("cnt01"))
		if got := path.Join(b.in).Reply.End; got.Kind != path.Delivered {
			t.Errorf("%s: got end %+v, want delivered", name, got)
		}
	}
}

// What a rule's own words call the interface is the bridge.
func TestTranslationIsPlacedAtTheBridge(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.hit("host", ruletrace.Prerouting, -100, "nat", ruletrace.Accept, b.in.Probe.Tuple, "dnat to fd00::1")
	b.see("host/ens192", capture.Egress, header(echo(containerAddr, "fd00::1", false)))
	if got := path.Join(b.in).Translations; len(got) != 1 || got[0].Interface != "br0" {
		t.Errorf("got %+v, want one translation at br0", got)
	}
}

// A SYN that the source's ring missed is known by its tuple up to the first NAT.
func TestSYNIsFoundBehindTheSource(t *testing.T) {
	b := newBed()
	b.in.Probe = path.Probe{NetNS: "cnt01", Tuple: packet.Tuple{
		Proto: packet.TCP, Src: netip.MustParseAddr(containerAddr), Dst: netip.MustParseAddr(targetAddr), SrcPort: 40000, DstPort: 80,
	}}
	syn := packet.Header{Version: 6, Tuple: b.in.Probe.Tuple, TTL: 64, PayloadLength: 40, Seq: 7, Flags: packet.SYN}
	other := syn
	other.Tuple.SrcPort, other.Seq = 40001, 8
	b.see("host/veth0", capture.Ingress, other, bridgeMAC)
	b.see("host/veth0", capture.Ingress, syn, bridgeMAC)
	if got := path.Join(b.in).Request; len(got.Hops) != 1 || got.First.Header.Seq != 7 {
		t.Errorf("got %v, want the probe's SYN", describe(got))
	}
}

// The source's kernel gives up on a neighbour and tells itself, on its loopback;
// the request was not seen at all.
func TestErrorAboutAnUnseenRequest(t *testing.T) {
	b := newBed()
	ns := b.in.Topology.Namespace("cnt01")
	ns.Links = append(ns.Links, topology.Link{Index: 1, Name: "lo", Kind: "loopback", Role: capture.RoleLoopback})
	failure := func(nonce string) packet.Header {
		quoted := header(b.in.Probe.Tuple)
		quoted.Payload = []byte(nonce)
		return packet.Header{
			Version: 6, PayloadLength: 112, Quoted: &quoted, TTL: 64,
			Tuple: packet.Tuple{Proto: packet.ICMPv6, Src: netip.MustParseAddr(containerAddr), Dst: netip.MustParseAddr(containerAddr), ICMPType: 1, ICMPCode: 3},
		}
	}
	b.see("cnt01/lo", capture.Egress, failure("somebody else's "))
	b.see("cnt01/lo", capture.Ingress, failure("somebody else's "))
	if got := path.Join(b.in).Answer; got.Kind != path.None {
		t.Errorf("got answer %+v to somebody else", got)
	}
	b.see("cnt01/lo", capture.Egress, failure(string(nonce)))
	b.see("cnt01/lo", capture.Ingress, failure(string(nonce)))
	got := path.Join(b.in)
	if got.Request.End.Kind != path.Unseen || got.Answer.Kind != path.Error || got.Answer.NetNS != "cnt01" || got.Reply.End.Kind != path.Delivered {
		t.Errorf("got answer %+v, request %v, reply %v", got.Answer, describe(got.Request), describe(got.Reply))
	}
}

// What br_netfilter translates to go back to its own bridge leaves by the
// bridge before its source is translated.
func TestHairpinOrder(t *testing.T) {
	b := newBed()
	translated := echo(containerAddr, "fd00::2", false)
	b.see("cnt01/eth0", capture.Egress, header(b.in.Probe.Tuple))
	b.see("host/veth0", capture.Ingress, header(b.in.Probe.Tuple), bridgeMAC)
	b.hit("host", ruletrace.Prerouting, -100, "nat", ruletrace.Accept, b.in.Probe.Tuple, "dnat to fd00::2")
	b.see("host/br0", capture.Egress, header(translated))
	b.hit("host", ruletrace.Postrouting, 100, "nat", ruletrace.Accept, translated, "masquerade")
	b.see("host/veth1", capture.Egress, header(echo(hostAddr, "fd00::2", false)))
	b.event("host", nat.New, b.in.Probe.Tuple, echo("fd00::2", hostAddr, true))
	want := []string{
		"cnt01/eth0 egress " + containerAddr, "host/veth0 ingress " + containerAddr,
		"  nat: destination " + targetAddr + " → fd00::2 [observed]",
		"  route: not determined by the tables; it left by br0 [assumed]",
		"host/br0 egress " + containerAddr,
		"  nat: source " + containerAddr + " → " + hostAddr + " [observed]", "  conntrack: NEW [observed]",
		"host/veth1 egress " + hostAddr, "end: vanished",
	}
	if diff := cmp.Diff(want, describe(path.Join(b.in).Request)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// A host whose bridges connect containers that are routers has the packet
// several times, and its rules and conntrack have it once.
func TestBridgesBetweenRouters(t *testing.T) {
	b := newBed()
	host := b.in.Topology.Namespace("host")
	host.BridgeNF = topology.BridgeNF{}
	for _, port := range []string{"br0b", "br1a", "br1b", "br2a"} {
		host.Links = append(host.Links, topology.Link{Index: 10 + len(host.Links), Name: port, Kind: "veth", Bridge: port[:3], Role: capture.RoleVeth})
	}
	host.Links = append(host.Links, topology.Link{Index: 30, Name: "br2", Kind: "bridge", Role: capture.RoleBridge})
	request := b.in.Probe.Tuple
	b.see("cnt01/eth0", capture.Egress, header(request))
	b.see("host/veth0", capture.Ingress, header(request))
	b.see("host/br0b", capture.Egress, header(request))
	b.see("host/br1a", capture.Ingress, header(request))
	b.see("host/br1b", capture.Egress, header(request))
	b.see("host/br2a", capture.Ingress, header(request))
	b.see("host/br2", capture.Ingress, header(request))
	b.hit("host", ruletrace.Forward, 0, "filter", ruletrace.Accept, request, "accept")
	b.in.Hits[0].Ingress, b.in.Hits[0].Egress = "br2", "ens192"
	b.masquerade()
	var got []string
	for _, h := range path.Join(b.in).Request.Hops[1:] {
		got = append(got, h.Interface)
		for _, s := range h.Steps {
			if s.Kind != "route" {
				got = append(got, fmt.Sprintf("  %s %s %s", s.Kind, s.Text, s.Confidence))
			}
		}
	}
	want := []string{
		"veth0", "br0b", "br1a", "br1b", "br2a", "br2", "  rule accept observed",
		"  nat source " + containerAddr + " → " + hostAddr + " observed", "  conntrack NEW observed", "ens192",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// The addresses of a translation are addresses, also where the id changed.
func TestRewrittenID(t *testing.T) {
	b := newBed()
	b.sendOut()
	b.hit("host", ruletrace.Postrouting, 100, "nat", ruletrace.Accept, b.in.Probe.Tuple, "masquerade fully-random")
	after := echo(hostAddr, targetAddr, false)
	after.ICMPID = 39
	b.see("host/ens192", capture.Egress, header(after))
	got := path.Join(b.in)
	if tr := got.Translations; len(tr) != 1 || tr[0].From != containerAddr || tr[0].To != hostAddr {
		t.Errorf("got %+v, want addresses without an id", tr)
	}
	if want, lines := "source "+containerAddr+" id 38 → "+hostAddr+" id 39", strings.Join(describe(got.Request), "\n"); !strings.Contains(lines, want) {
		t.Errorf("the step does not say %q:\n%s", want, lines)
	}
}

// TestRedirected names the rule that translates such packets today, where none was
// seen to, if it is to what this packet's destination was translated to.
func TestRedirected(t *testing.T) {
	for target, named := range map[string]bool{"fd00:1::2": true, "fd00:1::22": false, "fd00:1::3": false} {
		b := newBed()
		b.in.Probe = path.Probe{NetNS: "host", Outside: true, Tuple: packet.Tuple{
			Proto: packet.TCP, Src: netip.MustParseAddr("2001:db8::9"), Dst: netip.MustParseAddr("2001:db8::1"), SrcPort: 5000, DstPort: 8080,
		}}
		before, after := header(b.in.Probe.Tuple), header(b.in.Probe.Tuple)
		before.Flags, before.Seq = packet.SYN, 77
		after.Flags, after.Seq, after.Tuple.Dst, after.Tuple.DstPort = packet.SYN, 77, netip.MustParseAddr("fd00:1::2"), 80
		b.see("host/ens192", capture.Ingress, before)
		b.see("host/br0", capture.Egress, after)
		b.in.Redirects = map[string]ruletrace.Rule{"host": {Backend: "nft", Family: "ip6", Table: "nat", Chain: "pre", Text: "tcp dport 8080 dnat to [" + target + "]:80"}}
		got := path.Join(b.in).Translations
		if len(got) != 1 || (got[0].Rule != nil) != named || named && (got[0].Kind != "dnat" || got[0].Confidence != report.Reconstructed) {
			t.Errorf("dnat to %s: translations %+v", target, got)
		}
	}
}
