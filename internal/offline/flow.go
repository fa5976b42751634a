package offline

import (
	"fmt"
	"slices"
	"time"

	"github.com/pathtrace/pathtrace/internal/flows"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// flow puts a flow into the report's form.
func (in *Input) flow(f *flows.Flow) report.Flow {
	end := in.ending(f)
	r := report.Flow{
		Number: f.Number, Tuple: tupleOf(f.Request), Outcome: end.outcome, Leg: end.leg, Code: end.code,
		Unanswered: f.Unanswered, Ambiguous: f.Ambiguous,
	}
	if f.Short != "" && end.hit == nil {
		r.Ambiguous = append(slices.Clone(r.Ambiguous), f.Short)
	}
	if u := f.Unacknowledged; u != nil {
		r.Unacknowledged = legName(u.Reply)
	}
	if !in.Logs.timeless() {
		r.Started, r.Elapsed = timeOf(f.Started), time.Duration(f.Elapsed)
	}
	if f.Translated != f.Request {
		t := tupleOf(f.Translated)
		r.Translated = &t
	}
	for i := range f.Out {
		r.Points = append(r.Points, in.point(&f.Out[i], "request", i == 0))
	}
	for _, place := range f.Missing {
		r.Points = append(r.Points, report.FlowPoint{Place: in.place(place), Leg: "request"})
	}
	back := len(r.Points)
	for i := range f.Back {
		r.Points = append(r.Points, in.point(&f.Back[i], "reply", i == 0))
	}
	if f.Fall != nil {
		r.Fall = &report.Fall{Leg: "request", From: f.Fall.From, To: f.Fall.To, Packets: f.Fall.Packets, Bytes: f.Fall.Bytes, Least: f.Fall.Least}
		if f.Fall.Reply {
			r.Fall.Leg, r.Fall.From, r.Fall.To = "reply", f.Fall.From+back, f.Fall.To+back
		}
	}
	for i := range f.Translations {
		r.Translations = append(r.Translations, in.translations(f, &f.Translations[i])...)
	}
	for i := range f.Errors {
		e := &f.Errors[i]
		t := e.Key.Tuple()
		t.ICMPCode = e.Code
		r.Errors = append(r.Errors, report.FlowError{
			Place: in.place(e.Place), Tuple: tupleOf(e.Key), Text: path.ErrorText(t), About: tupleOf(e.About), TTL: int(e.TTL), Packets: e.Packets,
		})
		code := int(e.Code)
		r.Errors[i].Tuple.ICMPCode = &code
	}
	return r
}

func (in *Input) point(s *flows.Stop, leg string, first bool) report.FlowPoint {
	t := tupleOf(s.Key)
	p := report.FlowPoint{
		Place: in.place(s.Place), Leg: leg, Tuple: &t, TTL: int(s.TTL),
		Packets: s.Packets, Bytes: s.Bytes, Copies: s.Copies, Repeated: s.Repeated, Joined: s.Joined,
	}
	if !first {
		p.Delay = &report.Delay{Low: time.Duration(s.DelayLow), High: time.Duration(s.DelayHigh)}
	}
	return p
}

// place puts a place of the result into the report's form.
func (in *Input) place(index int) report.Place {
	p := &in.Result.Places[index]
	c := &in.Captures[p.Capture]
	r := report.Place{Capture: c.Name, Machine: c.Machine, NetNS: p.Point.NetNS, Interface: p.Point.Interface}
	for _, id := range p.VLANs {
		r.VLANs = append(r.VLANs, int(id))
	}
	for i := range p.Tunnels {
		r.Tunnels = append(r.Tunnels, tunnelText(&p.Tunnels[i]))
	}
	return r
}

func tunnelText(l *packet.Layer) string {
	name := map[packet.TunnelKind]string{
		packet.VXLAN: "VXLAN", packet.Geneve: "Geneve", packet.GRE: "GRE", packet.IPIP: "IPIP", packet.MPLS: "MPLS",
		packet.PPPoE: "PPPoE", packet.ERSPAN: "ERSPAN",
	}[l.Kind]
	if l.ID == 0 {
		return name
	}
	return fmt.Sprintf("%s %d", name, l.ID)
}

// translations are what changed between two stops, a field each.
func (in *Input) translations(f *flows.Flow, t *flows.Translation) []report.Translation {
	stops, leg := f.Out, "request"
	if t.Reply {
		stops, leg = f.Back, "reply"
	}
	before, after := t.Before.Tuple(), t.After.Tuple()
	from, to := in.place(stops[t.From].Place), in.place(stops[t.To].Place)
	var all []report.Translation
	add := func(kind, field, a, b string) {
		if a == b {
			return
		}
		r := report.Translation{Kind: kind, Field: field, From: a, To: b, Leg: leg, Confidence: report.Reconstructed}
		if from.Machine == to.Machine && from.NetNS == to.NetNS && to.NetNS != "" { // it was done there
			r.NetNS, r.Interface = to.NetNS, to.Interface
		}
		all = append(all, r)
	}
	kind := func(usual string) string {
		if t.Neutral && before.SrcPort == after.SrcPort && before.DstPort == after.DstPort && before.Src.Is6() {
			return "nptv6"
		}
		return usual
	}
	add(kind("snat"), "source", before.Source(), after.Source())
	add(kind("dnat"), "destination", before.Destination(), after.Destination())
	return all
}

// tupleOf puts a tuple into the report's form.
func tupleOf(k packet.Key) report.Tuple {
	t := k.Tuple()
	r := report.Tuple{Protocol: t.Proto.String(), Source: t.Source(), Destination: t.Destination()}
	if t.Proto.IsICMP() {
		kind := int(t.ICMPType)
		r.ICMPType = &kind
		if path.IsEcho(t) {
			id := int(t.ICMPID)
			r.ICMPID = &id
		}
	}
	return r
}

// timeOf is a time of the join; zero for none.
func timeOf(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds).UTC()
}
