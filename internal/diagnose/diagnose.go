// Package diagnose says why: from the path of a probe it derives the verdict
// with its stable code, the findings with fixes that can be pasted, and the
// limits of what could be seen. It is pure.
package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// The codes that this package gives. They are a promise to scripts.
const (
	OK               = "OK"
	FilterDrop       = "FILTER_DROP"
	FilterPolicyDrop = "FILTER_POLICY_DROP"
	FilterRejected   = "FILTER_REJECTED"
	ShadowedAccept   = "SHADOWED_ACCEPT"
	ConntrackFull    = "CONNTRACK_FULL"
	ConntrackInvalid = "CONNTRACK_INVALID"
	ConntrackStale   = "CONNTRACK_STALE"
	ConntrackRace    = "CONNTRACK_RACE"
	BridgeFiltered   = "BRIDGE_FILTERED"
	IngressFiltered  = "INGRESS_FILTERED"
	Queued           = "QUEUED"
	NoDefaultRoute   = "NO_DEFAULT_ROUTE"
	NoRoute          = "NO_ROUTE"
	ForwardingOff    = "FORWARDING_OFF"
	RouteBlackhole   = "ROUTE_BLACKHOLE"
	RPFilter         = "RP_FILTER"
	Martian          = "MARTIAN"
	LinkDown         = "LINK_DOWN"
	AddressTentative = "ADDRESS_TENTATIVE"
	AddressOnPort    = "ADDRESS_ON_BRIDGE_PORT"
	PortBlocked      = "BRIDGE_PORT_BLOCKED"
	XDPDrop          = "XDP_DROP"
	SubnetOverlap    = "SUBNET_OVERLAP"
	VPNTakesTraffic  = "VPN_TAKES_TRAFFIC"
	Neighbour        = "NEIGHBOUR_UNREACHABLE"
	NeighbourStale   = "NEIGHBOUR_STALE"
	MacvlanIsolated  = "MACVLAN_ISOLATED"
	WrongPort        = "BRIDGE_WRONG_PORT"
	MTUExceeded      = "MTU_EXCEEDED"
	MTUBlackhole     = "MTU_BLACKHOLE"
	TTLExpired       = "TTL_EXPIRED"
	RoutingLoop      = "ROUTING_LOOP"
	NATMissing       = "NAT_MISSING"
	NATWrongAddress  = "NAT_WRONG_ADDRESS"
	PrefixMismatch   = "NAT_PREFIX_MISMATCH"
	HairpinMissing   = "HAIRPIN_MISSING"
	DNATNoTarget     = "DNAT_NO_TARGET"
	AnsweredFrom     = "ANSWER_FROM_ELSEWHERE"
	NoListener       = "NO_LISTENER"
	TunnelMismatch   = "TUNNEL_MISMATCH"
	TunnelNoRemote   = "TUNNEL_NO_REMOTE"
	NoReply          = "NO_REPLY"
	ProxyAnswers     = "PUBLISHED_BY_PROXY"
	DNSFailed        = "DNS_FAILED"
	ReplyLostHere    = "REPLY_LOST_HERE"
	KernelDrop       = "KERNEL_DROP"
	NotSeen          = "NOT_SEEN"
	ConnectionReset  = "CONNECTION_RESET"
	DataLost         = "DATA_LOST"
	Inconclusive     = "INCONCLUSIVE"
)

// Untranslated is said of a packet that kept its addresses on all of its way.
const Untranslated = "No address was translated on the way."

// neighbourPatience is a little more than the time for which the kernel keeps a
// packet whose next hop does not answer: three solicitations, a second apart
// (net.*.neigh.default.mcast_solicit and retrans_time_ms).
const neighbourPatience = 3200 * time.Millisecond

// Input is what the verdict is based on.
type Input struct {
	Path     *path.Path
	Topology *topology.Snapshot
	// After is the same snapshot taken once more when the outcome was known;
	// nil when there was no need.
	After *topology.Snapshot
	Probe path.Probe
	// Waited is how long the answer was waited for.
	Waited  time.Duration
	Sensors Sensors
	// Chains are the base chains of each namespace, read when the outcome was
	// known; nil when there was no need.
	Chains map[string][]ruletrace.BaseChain
	// NAT are the addresses that rules translate to today, in the namespaces of
	// Path.Older.
	NAT map[string]ruletrace.NATAddresses
	// Redirects are the rules that would translate the destination of the request,
	// if its flow were new, in those namespaces; absent where none would, or that
	// is not certain.
	Redirects map[string]ruletrace.Rule
	// Discovery is what was seen of ARP and neighbour discovery, whoever asked.
	// It need not be complete.
	Discovery []capture.Sighting
	// Data is what was sent on a TCP connection after its handshake; nil when
	// nothing was. Where it was not all acknowledged the path is that of the
	// first segment that was not.
	Data *Data
	// Missing is data of the far end that does not come although the path is that of
	// a connection that was made; nil when none is.
	Missing *Missing
	// SendError is what the kernel told the prober's socket when it sent. It is
	// never the verdict, only a hint at why nothing was seen.
	SendError error
	// SendTooBig says that this was that it is too big (EMSGSIZE).
	SendTooBig bool
	// Name is set when what was traced is the DNS query for the target's name,
	// which has no address.
	Name *Name
	// Facts are the evidence of earlier diagnoses of the same run: the ids of this
	// one's go on behind them.
	Facts []report.Evidence
	// OneWay says that nobody knows whether the request, a datagram, is to be
	// answered.
	OneWay bool
	// Interrupted says that the run was ended before an outcome was known.
	Interrupted bool
	// Enter is what has to stand before a command so that it runs in a
	// namespace ("ip netns exec cnt01"); no entry for the host.
	Enter map[string]string
	// Engines are what container engines say of themselves, and SourceID the
	// source's id at its engine, empty for no container.
	Engines  []engine.View
	SourceID string
}

// Data says how far the data got that was sent on a TCP connection.
type Data struct {
	// From is who sent it, when that is not who opened the connection: the path is
	// then that of the answer's data, and its request leg leads to who did.
	From string
	// Bytes were to be sent, Sent of them were handed to the kernel, Acked
	// acknowledged.
	Bytes, Sent, Acked int
	// Full says that a full-size segment is among what was acknowledged.
	Full bool
	// Ended says that the far end ended the connection before it had
	// acknowledged everything.
	Ended bool
}

// Sensors says what was looked at, by namespace.
type Sensors struct {
	// Captured and Traced say that packets, and rules, were watched there and
	// that nothing was lost. A namespace that is missing was not.
	Captured, Traced map[string]bool
}

// Diagnosis is the answer.
type Diagnosis struct {
	Verdict  report.Verdict
	Findings []report.Finding
	Notes    []string
	// Evidence is what the cause rests on beside the path's evidence, behind
	// Input.Facts.
	Evidence []report.Evidence
}

// Diagnose judges a path.
func Diagnose(in Input) Diagnosis {
	d := Diagnosis{Verdict: judge(&in), Findings: []report.Finding{}, Evidence: in.Facts}
	if d.Verdict.Evidence == nil {
		d.Verdict.Evidence = []string{}
	}
	d.explain(&in)
	if in.Probe.Segment != nil {
		d.ofSegment(&in)
	}
	if in.Missing != nil && d.Verdict.Outcome == report.Replied {
		d.starved(&in)
	}
	if in.Name != nil {
		unresolved(&in, &d.Verdict)
	}
	if in.OneWay {
		unanswered(&d.Verdict)
	}
	if f, ok := filterFinding(&in, &d.Verdict); ok {
		d.Findings = append(d.Findings, f)
	}
	order := []string{"error", "warning", "note"}
	slices.SortStableFunc(d.Findings, func(a, b report.Finding) int {
		return cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity))
	})
	if note := beyond(&in, d.Verdict.Outcome); note != "" {
		d.Notes = append(d.Notes, note)
	}
	return d
}

// ofSegment says first how far the data got of which a segment is explained.
func (d *Diagnosis) ofSegment(in *Input) {
	v := &d.Verdict
	from := ""
	if in.Data.From != "" {
		from = " from " + in.Data.From
	}
	v.Summary = fmt.Sprintf("The connection was made, and then %d of %d bytes%s were acknowledged. %s", in.Data.Acked, in.Data.Bytes, from, v.Summary)
	for _, id := range in.Path.Sending.Evidence {
		if !slices.Contains(v.Evidence, id) {
			v.Evidence = append(slices.Clone(v.Evidence), id)
		}
	}
}

// judge finds the verdict: what came back decides first, then where the reply
// ended, then where the request ended.
func judge(in *Input) report.Verdict {
	p := in.Path
	returned := p.Answer.Kind != path.None && in.arrived(&p.Reply.End)
	switch {
	case returned && p.Answer.Unexpected:
		return unexpected(in)
	case returned && p.Answer.Kind == path.Reply && in.unfinished():
		return report.Verdict{
			Outcome: report.Inconclusive, Leg: "request", Code: Inconclusive, Confidence: report.Observed,
			NetNS: p.Reply.End.NetNS, Interface: p.Reply.End.Interface, Evidence: p.Reply.End.Evidence,
			Summary: fmt.Sprintf("The connection was made. What became of the %d bytes that were then sent is not known: the run was ended before.", in.Data.Bytes),
		}
	case returned && p.Answer.Kind == path.Reply:
		return replied(in)
	case p.Request.End.Kind == path.Dropped:
		return filtered(in, "request", &p.Request)
	case returned:
		return refused(in)
	case p.Answer.Kind != path.None:
		return replyEnded(in)
	}
	return requestEnded(in)
}

// arrived reports whether what came back ended where it was to go: at the sender,
// or where the request came in from outside.
func (in *Input) arrived(end *path.End) bool {
	if end.NetNS != in.Probe.NetNS {
		return false
	}
	first := in.Path.Request.First
	return end.Kind == path.Delivered || in.Probe.Outside && end.Kind == path.Left && first != nil && first.Point.Interface == end.Interface
}

// unfinished reports whether data was to follow of which nothing is known.
func (in *Input) unfinished() bool {
	return in.Interrupted && in.Data != nil && in.Data.Sent == 0 && in.SendError == nil
}

func replied(in *Input) report.Verdict {
	p := in.Path
	v := report.Verdict{
		Outcome: report.Replied, Leg: "reply", Code: OK, Confidence: report.Observed,
		NetNS: p.Reply.End.NetNS, Interface: p.Reply.End.Interface, Evidence: p.Reply.End.Evidence,
		Summary: translationWords(p.Translations),
	}
	if p.Request.First != nil && p.Reply.Last != nil {
		v.Elapsed = p.Reply.Last.Time.Sub(p.Request.First.Time)
	}
	if p.Request.End.Kind == path.Left && p.Request.End.NetNS == topology.HostName {
		v.Summary = departure(in) + "; " + horizon(in) + "; the answer came back."
	}
	if in.Data != nil {
		v.Summary += dataWords(in)
	}
	return v
}

// dataWords says how far data got whose way is not to be explained.
func dataWords(in *Input) string {
	d := in.Data
	switch {
	case d.Acked == d.Bytes:
	case in.SendError != nil && d.Sent == 0:
		return fmt.Sprintf(" No data could be sent then: %s.", in.SendError)
	default:
		return fmt.Sprintf(" The far end acknowledged %d of %d bytes and then ended the connection.", d.Acked, d.Bytes)
	}
	return fmt.Sprintf(" All %d bytes that were then sent were acknowledged.", d.Bytes)
}

// departure says with which translations the request left what is visible:
// there may be more beyond.
func departure(in *Input) string {
	left := "The request left " + exit(&in.Path.Request.End)
	if end := &in.Path.Request.End; end.Carried {
		return fmt.Sprintf("%s, inside of a VXLAN packet to %s", left, end.Tuple.Dst)
	}
	for _, t := range in.Path.Translations {
		if t.Leg != "reply" {
			return translationWords(in.Path.Translations) + " " + left
		}
	}
	return left + " with its addresses unchanged"
}

// horizon says what is known of what the request left for.
func horizon(in *Input) string {
	end := &in.Path.Request.End
	link := in.Topology.Namespace(end.NetNS).Link(end.Interface)
	if link != nil && link.Peer != nil && link.Peer.NetNS != "" && in.Topology.Namespace(link.Peer.NetNS) == nil {
		return link.Peer.NetNS + ", which is behind it, was not looked into"
	}
	return notVisible
}

const notVisible = "what lies beyond is not visible"

// exit says where a packet left what is visible.
func exit(end *path.End) string {
	text := fmt.Sprintf("%s at %s", the(end.NetNS), end.Interface)
	if end.Gateway.IsValid() {
		text += " towards " + end.Gateway.String()
	}
	return text
}

// taken says where a frame was last seen whose receiver is not visible.
func taken(end *path.End) string {
	return fmt.Sprintf("at %s/%s, in a frame for %s, which no interface there has that is visible", end.NetNS, end.Interface, end.FrameFor)
}

// the names a namespace in a sentence.
func the(netns string) string {
	if netns == topology.HostName {
		return "the host"
	}
	return netns
}

// subject names a namespace at the beginning of a sentence. A name keeps its
// spelling.
func subject(netns string) string {
	if netns == topology.HostName {
		return capital(the(netns))
	}
	return netns
}

// translationWords says in a sentence what happened to the addresses.
func translationWords(all []report.Translation) string {
	words := make(map[string][]string) // by field
	for _, t := range all {
		if t.Leg == "reply" {
			continue
		}
		place := fmt.Sprintf("at %s %s", t.NetNS, t.Interface)
		switch {
		case t.Interface == "":
			place = where(t.NetNS)
		case t.NetNS == topology.HostName:
			place = "on the host at " + t.Interface
		}
		words[t.Field] = append(words[t.Field], translatedWord(t)+" "+place)
	}
	var parts []string
	for _, field := range []string{"destination", "source"} {
		if len(words[field]) > 0 {
			parts = append(parts, fmt.Sprintf("the %s was %s", field, list(words[field])))
		}
	}
	if len(parts) == 0 {
		return Untranslated
	}
	return capital(strings.Join(parts, "; ")) + "."
}

// list joins words as a sentence does.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

func translatedWord(t report.Translation) string {
	word := map[string]string{
		"masquerade": "masqueraded", "snat": "translated (SNAT)", "dnat": "translated (DNAT)", "redirect": "redirected",
		"netmap": "mapped (NETMAP)", "nptv6": "prefix-translated (NPTv6)", "stateless": "set (stateless)",
	}[t.Kind]
	if word == "" {
		word = "translated"
	}
	if t.Kind == "snat" && t.Rule == nil {
		word = "translated (masquerade or SNAT)"
	}
	return word
}

// refused judges an exchange that an ICMP error or a reset ended, and that no
// rule in a visible namespace rejected.
func refused(in *Input) report.Verdict {
	p := in.Path
	v := report.Verdict{
		Outcome: report.Rejected, Leg: "request", Confidence: report.Observed, Evidence: p.Reply.End.Evidence,
		NetNS: p.Request.End.NetNS, Interface: p.Request.End.Interface, Mechanism: p.Answer.Text,
	}
	if p.Request.First != nil && p.Reply.Last != nil {
		v.Elapsed = p.Reply.Last.Time.Sub(p.Request.First.Time)
	}
	maker := fmt.Sprintf("%s, beyond what is visible,", p.Answer.By)
	if p.Answer.NetNS != "" {
		v.NetNS = p.Answer.NetNS
		maker = fmt.Sprintf("%s (%s)", subject(p.Answer.NetNS), p.Answer.By)
	}
	if d := p.Request.End.Drop; d != nil {
		v.Mechanism = d.Mechanism() + ", answered with: " + p.Answer.Text
	}
	if in.Probe.Segment != nil && p.Answer.Kind == path.Reset {
		v.Outcome, v.Code = report.Inconclusive, Inconclusive
		v.Summary = fmt.Sprintf("%s reset it. Whether packets of this size get there is not known.", p.Answer.By)
		return v
	}
	v.Code = refusalCode(in)
	v.Summary = fmt.Sprintf("%s answered: %s.", maker, p.Answer.Text)
	return v
}

// refusalCode reads an ICMP error or reset.
func refusalCode(in *Input) string {
	if in.Path.Answer.Kind == path.Reset {
		return NoListener
	}
	t := in.Path.Reply.First.Header.Tuple
	return cmp.Or(ErrorCode(t.Proto, t.ICMPType, t.ICMPCode), KernelDrop)
}

// replyEnded judges an answer that came back and did not reach the source.
func replyEnded(in *Input) report.Verdict {
	end := &in.Path.Reply.End
	what := "The answer"
	if in.Path.Answer.Kind != path.Reply {
		what = fmt.Sprintf("The answer (%s from %s)", in.Path.Answer.Text, in.Path.Answer.By)
	}
	switch end.Kind {
	case path.Dropped:
		return filtered(in, "reply", &in.Path.Reply)
	case path.Vanished:
		v := vanished(in, "reply", what, end)
		if v.Code == KernelDrop {
			v.Code = ReplyLostHere
		}
		return v
	}
	v := report.Verdict{
		Outcome: report.Lost, Leg: "reply", Code: ReplyLostHere, Confidence: report.Observed,
		NetNS: end.NetNS, Interface: end.Interface, Evidence: end.Evidence,
		Summary: fmt.Sprintf("%s came back but left %s instead of reaching %s.", what, exit(end), the(in.Probe.NetNS)),
	}
	if end.FrameFor != "" {
		v.Summary = fmt.Sprintf("%s came back but was last seen %s.", what, taken(end))
	}
	if end.Kind == path.Delivered {
		v.Outcome = report.Dropped
		v.Summary = fmt.Sprintf("%s came back and was taken by %s itself instead of being passed on to %s.", what, the(end.NetNS), the(in.Probe.NetNS))
	}
	return v
}

// requestEnded judges a request to which nothing came back.
func requestEnded(in *Input) report.Verdict {
	end := &in.Path.Request.End
	v := report.Verdict{Leg: "request", NetNS: end.NetNS, Interface: end.Interface, Evidence: end.Evidence, Confidence: report.Observed}
	if underWay(in) {
		v.Outcome, v.Code, v.Confidence = report.Inconclusive, Inconclusive, report.Assumed
		v.Summary = fmt.Sprintf("The time was up, %s, when more was under way: nothing was seen to be lost.", in.Waited)
		return v
	}
	if in.Interrupted && end.Kind != path.Vanished {
		v.Outcome, v.Code = report.Inconclusive, Inconclusive
		v.Summary = "Interrupted before an outcome was known."
		if end.Kind == path.Unseen {
			v.Confidence = report.Assumed
		} else {
			v.Summary += fmt.Sprintf(" The request was last seen in %s at %s.", the(end.NetNS), end.Interface)
		}
		return v
	}
	switch end.Kind {
	case path.Unseen:
		return unseen(in)
	case path.Vanished:
		return vanished(in, "request", "The request", end)
	case path.Delivered:
		if d := end.Drop; d != nil {
			v.Outcome, v.Code, v.Mechanism = report.Dropped, NoListener, d.Mechanism()
			v.Summary = fmt.Sprintf("The request was delivered to %s, where nobody listens; no error message was seen to come back.", the(end.NetNS))
			return v
		}
		v.Outcome, v.Code, v.Confidence = report.Lost, NoReply, report.Reconstructed
		v.Summary = fmt.Sprintf("The request reached %s at %s, and no answer left it within %s.", the(end.NetNS), end.Interface, in.Waited)
		if in.OneWay {
			delivered(in, &v)
		}
	default:
		v.Outcome, v.Code = report.Lost, NoReply
		v.Summary = fmt.Sprintf("%s and no answer came back within %s; %s.", departure(in), in.Waited, horizon(in))
		if end.FrameFor != "" {
			v.Summary = fmt.Sprintf("The request was last seen %s and no answer came back within %s.", taken(end), in.Waited)
		}
		if first := in.Path.Request.First; first != nil && first.Header.IsFragment() {
			v.Summary += " It went in fragments, and only when all of them get there it is answered."
		}
	}
	if end.CopyDropped != nil {
		v.Summary += fmt.Sprintf(" Before, a rule of chain %s dropped it or a copy of it.", chainOf(end.CopyDropped))
	}
	if blind := blindSpots(in); blind != "" {
		v.Outcome, v.Code, v.Confidence = report.Inconclusive, Inconclusive, report.Assumed
		v.Summary += " An answer may have been missed: " + blind + "."
	}
	return v
}

// underWay reports whether data was still being acknowledged when the time was
// up: what is missing was not repeated, and nothing says that it was dropped.
func underWay(in *Input) bool {
	end := &in.Path.Request.End
	return in.Probe.Segment != nil && in.Data.Acked > 0 && in.Path.Sending.Times < 2 && end.Kind != path.Dropped && end.Drop == nil
}

// unseen judges a probe that no sensor saw. No evidence speaks for that.
func unseen(in *Input) report.Verdict {
	v := report.Verdict{Outcome: report.Unsent, Leg: "request", Code: NotSeen, NetNS: in.Probe.NetNS, Confidence: report.Assumed}
	source := in.Topology.Namespace(in.Probe.NetNS)
	way := source.Lookup(topology.Query{Source: in.Probe.Tuple.Src, Target: in.Topology.Target, Egress: in.Topology.Zone})
	switch {
	case !in.Sensors.Captured[in.Probe.NetNS]:
		v.Outcome, v.Code, v.Confidence = report.Inconclusive, Inconclusive, report.Assumed
		v.Summary = fmt.Sprintf("Nothing is known: packets could not be watched in %s.", the(in.Probe.NetNS))
	case source != nil && way.Route == nil && way.Policy == nil && !way.Undetermined:
		v.Code = NoDefaultRoute
		v.Summary = fmt.Sprintf("Nothing was sent: %s has no route to %s.", the(in.Probe.NetNS), in.Topology.Target)
	default:
		v.Summary = fmt.Sprintf("The request never left %s: no sensor saw it.", the(in.Probe.NetNS))
	}
	if in.SendError != nil {
		v.Mechanism = "the kernel refused to send it: " + in.SendError.Error()
	}
	return v
}

// vanished judges a packet that was seen at one place and not at the next.
func vanished(in *Input, leg, what string, end *path.End) report.Verdict {
	if end.Carried {
		what = "The VXLAN packet that carried " + strings.ToLower(what[:1]) + what[1:]
	}
	last := fmt.Sprintf("%s/%s", end.NetNS, end.Interface)
	if end.Interface == "" {
		last = the(end.NetNS)
	}
	v := report.Verdict{
		Outcome: report.Dropped, Leg: leg, Code: KernelDrop, Confidence: report.Reconstructed,
		NetNS: end.NetNS, Interface: end.Interface, Evidence: end.Evidence,
		Mechanism: fmt.Sprintf("vanished between %s and %s", last, end.Next),
		Summary:   fmt.Sprintf("%s vanished between %s and %s. No rule was seen to drop it; the reason is not yet known.", what, last, end.Next),
	}
	if end.Drop != nil {
		v.Confidence, v.Mechanism = report.Observed, end.Drop.Mechanism()
		v.Summary = dropSummary(in, what, last, end)
	}
	if end.WayBack != "" && (end.Drop == nil || end.Drop.Reason == "IP_RPFILTER") {
		v.Code = RPFilter
		v.Summary = fmt.Sprintf("%s came to %s and went no further: rp_filter is on there, and the way back to its source is by another interface (%s).", what, last, end.WayBack)
	}
	if end.Verdict == ruletrace.Queue {
		v.Code, v.Hook, v.Rule = Queued, string(end.Hook), end.Rule
		v.Summary = fmt.Sprintf("%s was handed to a program, through a queue, %s%s by a rule of chain %s, and was not seen again.",
			what, where(end.NetNS), hooked(end), chainOf(end.Rule))
		if end.Drop != nil && end.Drop.Function == "nf_queue" { // what a program drops ends elsewhere
			v.Summary += " No program reads that queue, or it is full."
		}
	}
	blind := end.NetNS
	if end.NextNetNS != "" && in.Sensors.Captured[blind] && end.Drop == nil {
		blind = end.NextNetNS
	}
	switch {
	case !in.Sensors.Captured[blind]:
		v.Outcome, v.Code, v.Confidence = report.Inconclusive, Inconclusive, report.Assumed
		v.Summary = fmt.Sprintf("%s was last seen at %s, but the capture in %s did not run or lost packets, so where it ended is not known.", what, last, the(blind))
	case !in.Sensors.Traced[end.NetNS] && end.Drop == nil:
		v.Outcome, v.Code, v.Confidence = report.Inconclusive, Inconclusive, report.Assumed
		v.Summary = fmt.Sprintf("%s vanished between %s and %s. Rules could not be traced there, so the reason is not known.", what, last, end.Next)
	case end.Parked && end.Drop == nil && (in.Interrupted || in.Waited < neighbourPatience):
		v.Outcome, v.Code, v.Confidence = report.Inconclusive, Inconclusive, report.Assumed
		v.Summary = fmt.Sprintf("%s was last seen at %s and then not at %s. It was waited for less than %s, as long as the kernel may keep a packet for a neighbour that does not answer, so whether it was dropped is not known. Try again with a longer --timeout.", what, last, end.Next, neighbourPatience)
	}
	return v
}

// blindSpots names, in words, the namespaces on the way in which packets may
// have been missed.
func blindSpots(in *Input) string {
	var blind []string
	for i := range in.Topology.Namespaces {
		if name := in.Topology.Namespaces[i].Name; !in.Sensors.Captured[name] {
			blind = append(blind, the(name))
		}
	}
	if len(blind) == 0 {
		return ""
	}
	return "the capture lost packets, or did not run, in " + strings.Join(blind, ", ")
}

// beyond says where visibility ends, unless the summary does.
func beyond(in *Input, outcome report.Outcome) string {
	end := &in.Path.Request.End
	if end.Kind != path.Left || outcome == report.Lost || outcome == report.Replied && end.NetNS == topology.HostName {
		return ""
	}
	if end.FrameFor != "" {
		return fmt.Sprintf("The request was last seen %s.", taken(end))
	}
	words := horizon(in)
	if words == notVisible {
		words += " from here"
	}
	return fmt.Sprintf("The request left %s; %s.", exit(end), words)
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// addressFamily is nft's word for an address: ip or ip6.
func addressFamily(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}
