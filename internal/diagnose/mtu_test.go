package diagnose_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// segment is a full-size segment that left the host three times, and was
// followed by a small one that arrived.
func segment() *outward {
	o := newOutward("172.17.0.2", "198.51.100.7")
	h := packet.Header{Version: 4, Tuple: o.input.Probe.Tuple, DontFragment: true, PayloadLength: 1480, DataLength: 1448}
	at := func(netns, name string) *capture.Sighting {
		return &capture.Sighting{Point: capture.Point{NetNS: netns, Interface: name}, Header: h}
	}
	o.path.Request.First, o.path.Request.Last = at("cnt01", "eth0"), at(topology.HostName, "eth0")
	o.path.Sending = &path.Sending{Times: 3, Passed: 68, Evidence: []string{"sighting-8"}}
	o.input.Probe.Segment = &path.Segment{Length: 1448}
	o.input.Data, o.input.Waited = &diagnose.Data{Bytes: 20_000, Sent: 1464}, 5*time.Second
	for i := range o.host().Links {
		o.host().Links[i].MTU = 1500
	}
	o.input.After = copyOf(o.input.Topology)
	return o
}

// copyOf is a snapshot whose namespaces can be changed.
func copyOf(s *topology.Snapshot) *topology.Snapshot {
	after := *s
	after.Namespaces = slices.Clone(s.Namespaces)
	return &after
}

// stopped lets the segment end on the host, whose uplink has an MTU.
func (o *outward) stopped(mtu int, drop *skbdrop.Drop, grew uint64) {
	o.path.Request.Hops = o.path.Request.Hops[:2]
	o.path.Request.Last.Point.Interface = "docker0"
	end := &o.path.Request.End
	end.Kind, end.Interface, end.Next, end.Parked, end.Drop = path.Vanished, "docker0", "an outgoing interface of host", true, drop
	now := o.input.After.Namespace(topology.HostName)
	now.Links = slices.Clone(now.Links)
	now.Links[1].MTU = mtu
	now.Counters = map[string]uint64{"IpFragFails": 4 + grew}
	o.host().Counters = map[string]uint64{"IpFragFails": 4}
}

// Size is why only where the sensors prove it.
func TestMTUBlackhole(t *testing.T) {
	t.Parallel()
	tooBig := &skbdrop.Drop{NetNS: topology.HostName, Reason: "PKT_TOO_BIG", Function: "ip_forward"}
	other := &skbdrop.Drop{NetNS: topology.HostName, Reason: "IP_CSUM"}
	for _, tt := range []struct {
		name       string
		change     func(*outward)
		code       string
		confidence report.Confidence
	}{
		{"out there", func(*outward) {}, diagnose.MTUBlackhole, report.Reconstructed},
		{"sent twice", func(o *outward) { o.path.Sending.Times = 2 }, diagnose.NoReply, report.Observed},
		{"nothing smaller arrived", func(o *outward) { o.path.Sending.Passed = 0 }, diagnose.NoReply, report.Observed},
		{"packets of that size arrived before", func(o *outward) { o.input.Data.Full, o.input.Data.Acked = true, 1464 }, diagnose.NoReply, report.Observed},
		{"more is under way", func(o *outward) { o.input.Data.Acked, o.path.Sending.Times = 1464, 1 }, diagnose.Inconclusive, report.Assumed},
		{"no larger than what every link carries", func(o *outward) { o.path.Request.Last.Header.PayloadLength = 1200 }, diagnose.NoReply, report.Observed},
		{"an error of another kind came", func(o *outward) {
			o.path.Answer = path.Answer{Kind: path.Error}
			o.path.Reply = path.Leg{End: path.End{Kind: path.Left, NetNS: topology.HostName}}
		}, diagnose.ReplyLostHere, report.Observed},
		{"the kernel says so", func(o *outward) { o.stopped(1400, tooBig, 0) }, diagnose.MTUBlackhole, report.Observed},
		{"the kernel says so, for a reason that is not looked at", func(o *outward) { o.stopped(1500, tooBig, 0) }, diagnose.MTUBlackhole, report.Observed},
		{"its counter says so", func(o *outward) { o.stopped(1400, nil, 1) }, diagnose.MTUBlackhole, report.Reconstructed},
		{"a counter, and the kernel gives no reason", func(o *outward) {
			o.stopped(1400, &skbdrop.Drop{NetNS: topology.HostName, Reason: skbdrop.NotSpecified}, 1)
		}, diagnose.MTUBlackhole, report.Reconstructed},
		{"a small MTU alone", func(o *outward) { o.stopped(1400, nil, 0) }, diagnose.KernelDrop, report.Reconstructed},
		{"a counter alone", func(o *outward) { o.stopped(1500, nil, 1) }, diagnose.KernelDrop, report.Reconstructed},
		{"the kernel has another reason", func(o *outward) { o.stopped(1400, other, 1) }, diagnose.KernelDrop, report.Observed},
		{"it could have been fragmented", func(o *outward) {
			o.stopped(1400, nil, 1)
			o.path.Request.Last.Header.DontFragment = false
		}, diagnose.KernelDrop, report.Reconstructed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := segment()
			tt.change(o)
			v := diagnose.Diagnose(o.input).Verdict
			if v.Code != tt.code || v.Confidence != tt.confidence {
				t.Errorf("%s, %s; want %s, %s\n%s", v.Code, v.Confidence, tt.code, tt.confidence, v.Summary)
			}
			want := fmt.Sprintf("The connection was made, and then %d of 20000 bytes were acknowledged. ", o.input.Data.Acked)
			if !strings.HasPrefix(v.Summary, want) || !slices.Contains(v.Evidence, "sighting-8") {
				t.Errorf("the connection is not spoken of: %s %q", v.Summary, v.Evidence)
			}
		})
	}
}

// A packet that its own kernel refused is too big only if it is.
func TestRefusedByTheSender(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		length int
		tooBig bool
		code   string
	}{
		{"too big", 1501, true, diagnose.MTUExceeded},
		{"it fits", 1500, true, diagnose.NotSeen},
		{"refused for another reason", 1501, false, diagnose.NotSeen},
	} {
		o := newOutward("172.17.0.2", "198.51.100.7")
		source := o.input.Topology.Namespace("cnt01")
		source.Links[0].Up, source.Links[0].Carrier = true, true
		source.Links[0].MTU, source.Policy, source.Routes = 1500, lookup(), routes("eth0", "0.0.0.0/0")
		o.path.Request = path.Leg{End: path.End{Kind: path.Unseen}}
		o.input.Probe.Length, o.input.SendError = tt.length, errors.New("refused")
		o.input.SendTooBig = tt.tooBig
		if v := diagnose.Diagnose(o.input).Verdict; v.Code != tt.code || v.Outcome != report.Unsent {
			t.Errorf("%s: %s %s, want unsent %s: %s", tt.name, v.Outcome, v.Code, tt.code, v.Summary)
		}
	}
}
