package answer

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// Owner is the process that a flow's socket belongs to.
type Owner struct {
	// Name is its name and pid, "curl (pid 812)"; empty where it is not known.
	Name string
	// Other says that it is not of the command that is traced.
	Other bool
}

// The bounds of a traced report.
const (
	// maxExplained is how many flows that failed are kept in full, maxListed how
	// many are listed at all.
	maxExplained = 16
	maxListed    = 1000
)

// Judged are the flows of a traced source that were judged, in the order in which
// that was done.
type Judged struct {
	rows      []report.Flow
	explained map[int]*report.Report // of those that failed, by number
	well      explained              // the first that did not
	silent    explained              // the first that did not, and fell silent
	flows     map[int]bool
	failed    map[int]bool
	silences  []silence
	// Unfollowed is how many more there were than could be followed.
	Unfollowed int
	// Changes of the network meanwhile, in words.
	Changes []string
	// Command is what ran meanwhile; nil when nothing did.
	Command *report.Command
}

// explained is the report about a flow; report is nil where there is none.
type explained struct {
	number int
	report *report.Report
}

// first takes the report of a flow that began before the one that is there.
func (e *explained) first(number int, r *report.Report) {
	if e.report == nil || number <= e.number {
		e.number, e.report = number, r
	}
}

// silence is how long nothing came on a connection before the source closed it, and
// the length of the longest packet with data that had come.
type silence struct {
	number  int
	from    string
	silent  time.Duration
	largest int
}

// longSilence is how long a silence is that may be why a command failed.
const longSilence = 2 * time.Second

// Add adds a flow with its report, in place of what it was judged before, and
// returns its line.
func (j *Judged) Add(f *traffic.Flow, r *report.Report, by *evidence.Judgement, host string) report.Flow {
	if j.flows == nil {
		j.explained, j.flows, j.failed = make(map[int]*report.Report), make(map[int]bool), make(map[int]bool)
	}
	j.flows[f.Number], j.failed[f.Number] = true, failed(r)
	row := row(f, r, by)
	row.Host = host
	delete(j.explained, f.Number)
	if at := slices.IndexFunc(j.rows, func(known report.Flow) bool { return known.Number == f.Number }); at >= 0 {
		j.rows[at] = row
	} else if len(j.rows) < maxListed {
		j.rows = append(j.rows, row)
	}
	switch {
	case failed(r) && len(j.explained) < maxExplained:
		j.explained[f.Number] = r
	case !failed(r) && !by.Other:
		j.well.first(f.Number, r)
		if silent, largest := f.Silence(); silent >= longSilence && len(j.silences) < maxListed {
			j.silences = append(j.silences, silence{f.Number, ends(&row), silent, largest})
			j.silent.first(f.Number, r)
		}
	}
	return row
}

// failed reports whether a flow did not get its answer, or got one that a program
// can do nothing with.
func failed(r *report.Report) bool {
	v := &r.Verdict
	return v.Outcome != report.Replied && v.Outcome != report.Delivered || v.Code == diagnose.DNSFailed
}

// Flow explains one flow by what is known of it and by what the run knows of its
// surroundings: sensors, snapshots, chains, discovery. complete says that nothing
// that may be the flow's was let go.
func Flow(run *evidence.Run, f *traffic.Flow, complete, interrupted bool) *report.Report {
	own := *run
	e := f.Evidence()
	own.Sightings, own.Events, own.Hits, own.Drops = e.Sightings, e.Events, e.Hits, e.Drops
	own.Topology, own.After = towards(run.Topology, f.Tuple.Dst), towards(run.After, f.Tuple.Dst)
	own.Stations = since(run.Stations, f.Began, complete)
	own.Request.Target, own.Request.Address = f.Tuple.Destination(), f.Tuple.Dst.String()
	if f.Inbound {
		own.Request.Sender = f.Tuple.Source()
	}
	own.Started = f.Began
	own.Waited = run.Finished.Sub(f.Began).Round(time.Millisecond)
	stall := f.Stalled(run.Finished)
	if stall != nil && stall.Incoming && stall.Seen != nil && !f.Existing {
		if r := onItsWay(&own, f, stall); failed(r) {
			return r
		}
	}
	for _, p := range f.Probes(run.Topology.Source) {
		t := evidence.Try{Probe: p, Interrupted: interrupted && !f.Answered()}
		if stall != nil && !stall.Incoming && stall.Length > 0 && stall.Sent > 0 {
			t.Probe.Segment = &path.Segment{Seq: stall.Seq, Length: stall.Length}
			if stall.Seen != nil {
				own.Forget(t.Probe.Segment, stall.Seen.Time)
			}
			t.Data = &diagnose.Data{Bytes: stall.Sent, Sent: stall.Sent, Acked: stall.Acked, Full: stall.Acked >= stall.Length}
		}
		if stall != nil && stall.Incoming {
			t.Missing = &diagnose.Missing{Bytes: stall.Length, MSS: int(f.First.MSS), Largest: stall.Largest, Since: stall.Since}
		}
		own.Tries = append(own.Tries, t)
	}
	var r *report.Report
	switch {
	case f.Existing:
		r = witnessed(&own, f)
	case f.Inbound:
		r = opened(&own, f)
	default:
		r = Report(&own)
	}
	r.Tries = nil
	if stall != nil && r.Verdict.Code == diagnose.NoReply {
		swallowed(r, f)
	}
	if stall != nil && stall.Incoming && f.Existing && !failed(r) {
		starved(r, f)
	}
	if unusable(f.Answer) && r.Verdict.Outcome == report.Replied {
		r.Verdict.Code = diagnose.DNSFailed
		r.Verdict.Summary = fmt.Sprintf("The query for %s was answered by %s, and the answer is that it cannot: %s.", f.Question, f.Tuple.Destination(), dnsErrors[f.Answer])
	}
	return r
}

// onItsWay explains data of the far end that was seen on its way and does not get
// to the source: the segment is followed from where it was first seen.
func onItsWay(run *evidence.Run, f *traffic.Flow, stall *traffic.Stall) *report.Report {
	own, seen := *run, stall.Seen
	h := &seen.Header
	segment := path.Segment{Seq: h.Seq, Length: h.DataLength}
	own.Forget(&segment, seen.Time)
	own.Topology, own.After = towards(run.Topology, h.Tuple.Dst), towards(run.After, h.Tuple.Dst)
	own.Tries = []evidence.Try{{
		Probe: path.Probe{NetNS: seen.Point.NetNS, Tuple: h.Tuple, Segment: &segment},
		Data: &diagnose.Data{
			From: f.Tuple.Destination(), Bytes: stall.Sent, Sent: stall.Sent, Acked: stall.Acked, Full: stall.Largest >= path.Length(h),
		},
	}}
	r := Report(&own)
	turn(r)
	return r
}

// opened explains a flow that others opened to the source, from where its first packet
// was seen first.
func opened(run *evidence.Run, f *traffic.Flow) *report.Report {
	own, probe := *run, run.Tries[0].Probe
	tuple := probe.Tuple
	own.Topology, own.After = towards(run.Topology, tuple.Dst), towards(run.After, tuple.Dst)
	r := Report(&own)
	v := &r.Verdict
	if sent := sentTo(&own, &probe); sent != "" {
		v.Summary = strings.TrimSpace(strings.TrimSpace(strings.Replace(v.Summary, diagnose.Untranslated, "", 1)) + " " + sent)
	}
	if v.Outcome != report.Replied {
		return r
	}
	where := v.NetNS
	if probe.Outside {
		where = fmt.Sprintf("%s/%s, behind which nothing is visible", v.NetNS, v.Interface)
	}
	if !f.Answered() {
		v.Outcome, v.Code, v.Elapsed = report.Inconclusive, diagnose.Inconclusive, 0
		v.Summary = fmt.Sprintf("%s opened the connection, %s answered, and the answer went to %s. No acknowledgement of it was seen.", tuple.Source(), run.Topology.Source, where)
		return r
	}
	v.Summary = strings.TrimSpace(fmt.Sprintf("%s opened the flow, and the answer went to %s. %s", tuple.Source(), where, v.Summary))
	return r
}

// sentTo says where a packet was sent to that left its sender with another destination:
// conntrack there knows, and no rule or packet shows it. It is empty for any other.
func sentTo(run *evidence.Run, probe *path.Probe) string {
	for i := range run.Events {
		f := &run.Events[i].Flow
		if !probe.Outside && f.NetNS == probe.NetNS && f.Reply.Inverse() == probe.Tuple && f.Original.Destination() != probe.Tuple.Destination() {
			return fmt.Sprintf("It was sent to %s and translated before it left (DNAT; the rule was not seen).", f.Original.Destination())
		}
	}
	return ""
}

// turn makes the report about a packet of the far end's one about the reply. What
// was said about it, an ICMP error, is no leg of the source's.
func turn(r *report.Report) {
	r.Legs = report.Legs{Request: []report.Hop{}, Reply: r.Legs.Request}
	legs := map[string]string{"request": "reply", "reply": "request"}
	r.Verdict.Leg = legs[r.Verdict.Leg]
	for i := range r.Translations {
		r.Translations[i].Leg = legs[r.Translations[i].Leg]
	}
	words := strings.NewReplacer("The request", "The segment", "the request", "the segment")
	r.Verdict.Summary = words.Replace(r.Verdict.Summary)
	for i := range r.Findings {
		r.Findings[i].Summary = words.Replace(r.Findings[i].Summary)
	}
	for i := range r.Notes {
		r.Notes[i] = words.Replace(r.Notes[i])
	}
}

// swallowed says what data that is not acknowledged beyond what is visible may mean,
// and how to find out.
func swallowed(r *report.Report, f *traffic.Flow) {
	r.Findings = append(r.Findings, report.Finding{
		Code: diagnose.MTUBlackhole, Severity: "note", Evidence: r.Verdict.Evidence,
		Summary: fmt.Sprintf("The small packets of the handshake passed, and the data did not. An MTU on the way that is too small, whose ICMP errors are lost, looks like this; so does a far end that does not read. A connection that also sends a small segment tells the two apart: pathtrace tcp %s --send-bytes 20000.", f.Tuple.Destination()),
		Fix:     []string{},
	})
}

// dnsErrors are the errors of name servers in words (RFC 1035, section 4.1.1).
var dnsErrors = map[string]string{
	"FormatError": "format error", "ServerFailure": "server failure (SERVFAIL)", "NameError": "no such name (NXDOMAIN)",
	"NotImplemented": "not implemented", "Refused": "refused",
}

// unusable reports whether a name server's error ends the search for a name. That
// there is no such name is often the answer to one of several queries.
func unusable(dnsError string) bool { return dnsError == "ServerFailure" || dnsError == "Refused" }

// Parked reports whether a flow's first packet, or that of the flow which carries it
// on, may yet be waiting in the kernel for the hardware address of its next hop:
// what became of it is not known then.
func Parked(run *evidence.Run, f *traffic.Flow) bool {
	passed := f.Answered() && slices.ContainsFunc(relays(run.Owners), func(r traffic.Relay) bool { return r.Takes(f) })
	if f.Answered() && !passed || !f.Talk.Refused.IsZero() || f.Existing || f.Inbound {
		return false
	}
	own := *run
	e := f.Evidence()
	own.Sightings, own.Events, own.Hits, own.Drops = e.Sightings, e.Events, e.Hits, e.Drops
	p := join(&own, f.Probes(run.Topology.Source)[0], nil)
	if passed {
		if p.Relay == nil || p.Relay.Kind != path.Proxy {
			return false
		}
		if len(p.Relay.Flows) == 0 {
			return true
		}
		if p = join(&own, p.Relay.Flows[0].Probe, nil); p.Request.End.Kind == path.Unseen {
			return true // its sensors are behind
		}
	}
	return p.Answer.Kind == path.None && p.Request.End.Parked && p.Request.End.Drop == nil
}

// towards is a snapshot for a packet to a target.
func towards(s *topology.Snapshot, target netip.Addr) *topology.Snapshot {
	if s == nil {
		return nil
	}
	own := *s
	own.Target, own.Steps = target, nil
	return &own
}

// since are the stations as far as their sensors were there when a flow began:
// of the others nothing can be concluded from what they did not see.
func since(all []evidence.Station, began time.Time, complete bool) []evidence.Station {
	own := slices.Clone(all)
	for i := range own {
		late := own[i].Since.After(began)
		own[i].Captured, own[i].Traced = own[i].Captured && complete && !late, own[i].Traced && complete && !late
		own[i].Inside = own[i].Inside && !late
	}
	return own
}

// witnessed is the report about a flow whose first packet was not seen, or came
// from outside: that it goes on is all that can be said.
func witnessed(run *evidence.Run, f *traffic.Flow) *report.Report {
	t := &f.Talk
	v := report.Verdict{Outcome: report.Inconclusive, Leg: "request", Code: diagnose.Inconclusive, Confidence: report.Observed, NetNS: run.Topology.Source, Evidence: []string{}}
	began := "The flow was there before it was watched"
	if f.Inbound && !f.Existing {
		began = fmt.Sprintf("%s opened the flow", f.Tuple.Source())
	}
	near, far := run.Topology.Source, f.Tuple.Destination()
	if f.Inbound {
		far = f.Tuple.Source()
	}
	switch {
	case t.Sent.IsZero() && t.Heard.IsZero():
		v.Summary = began + ", and nothing of it was seen meanwhile."
	case t.ResetBy == traffic.Far:
		v.Outcome, v.Code, v.Summary = report.Rejected, diagnose.ConnectionReset, fmt.Sprintf("%s, and %s reset it.", began, far)
	case !t.Sent.IsZero() && !t.Heard.IsZero():
		v.Outcome, v.Code, v.Summary = report.Replied, diagnose.OK, fmt.Sprintf("%s; packets of both directions were seen at %s.", began, near)
	case t.Heard.IsZero():
		v.Summary = fmt.Sprintf("%s; %s sent, and nothing came back meanwhile.", began, near)
	default:
		v.Summary = fmt.Sprintf("%s; packets came to %s, and it sent none back meanwhile.", began, near)
	}
	out := &report.Report{
		Schema: report.Schema, Tool: report.Tool{Version: run.Version}, Started: run.Started, Finished: run.Finished,
		Request: run.Request, Verdict: v, Findings: []report.Finding{}, Translations: []report.Translation{},
		Legs: report.Legs{Request: []report.Hop{}, Reply: []report.Hop{}}, Evidence: []report.Evidence{},
	}
	out.Sensors = Sensors(run)
	return out
}

// Sensors are all those of a trace.
func Sensors(run *evidence.Run) []report.Sensor {
	var all []report.Sensor
	for _, s := range run.Stations {
		all = append(all, s.Sensors...)
	}
	all = append(all, run.KernelDrops)
	if run.Attempts != (report.Sensor{}) {
		all = append(all, run.Attempts)
	}
	return all
}

// starved turns the report about a connection that was there before into one about
// the data of the far end that does not come.
func starved(r *report.Report, f *traffic.Flow) {
	r.Verdict.Outcome, r.Verdict.Leg, r.Verdict.Code, r.Verdict.Confidence = report.Lost, "reply", diagnose.DataLost, report.Observed
	r.Verdict.Elapsed = 0
	r.Verdict.Summary = fmt.Sprintf("The connection was there before it was watched, and data of %s does not come: what stands behind it in the stream arrived, and %s acknowledged no more than what is before it.",
		f.Tuple.Destination(), r.Request.Source.NetNS)
}

// row is a flow's line.
func row(f *traffic.Flow, r *report.Report, by *evidence.Judgement) report.Flow {
	row := report.Flow{
		Number: f.Number, Tuple: path.ReportTuple(f.Tuple), Points: []report.FlowPoint{}, Translations: r.Translations,
		Outcome: r.Verdict.Outcome, Leg: r.Verdict.Leg, Code: r.Verdict.Code, Summary: r.Verdict.Summary,
		Owner: by.Owner, Other: by.Other, Asked: by.Asked, Said: by.Said, Started: f.Began,
	}
	if last := lastOf(f); last.After(f.Began) {
		row.Elapsed = last.Sub(f.Began)
	}
	for _, c := range f.Counts() {
		leg := "request"
		if c.Reply {
			leg = "reply"
		}
		tuple := path.ReportTuple(c.Tuple)
		row.Points = append(row.Points, report.FlowPoint{
			Place: report.Place{NetNS: c.Point.NetNS, Interface: c.Point.Interface, Direction: c.Direction.String()},
			Leg:   leg, Tuple: &tuple, Packets: c.Packets, Bytes: c.Bytes,
		})
		if leg == "request" && tuple != row.Tuple && c.Tuple.Proto == f.Tuple.Proto {
			row.Translated = &tuple
		}
	}
	return row
}

func lastOf(f *traffic.Flow) time.Time {
	if f.Talk.Heard.After(f.Talk.Sent) {
		return f.Talk.Heard
	}
	return f.Talk.Sent
}

// asked is what a flow is for, where that is worth a word and no secret: a name
// that is looked up, or the place that a proxy is to connect to.
func asked(f *traffic.Flow) string {
	if f.Question != "" {
		return f.Question
	}
	line, _, _ := strings.Cut(string(f.Talk.Asked), "\r\n")
	if words := strings.Fields(line); len(words) > 1 && words[0] == "CONNECT" && f.Tuple.Proto == packet.TCP {
		return words[0] + " " + words[1]
	}
	return ""
}

const tlsAlert = "TLS alert"

// said is what the far end answered, where that is worth a word: the status of
// an HTTP server or proxy, that TLS was refused, or a name server's error.
func said(f *traffic.Flow) string {
	if f.Answer != "" {
		return dnsErrors[f.Answer]
	}
	first := f.Talk.Said
	if f.Tuple.Proto != packet.TCP || len(first) < 2 {
		return ""
	}
	const alert, handshake = 21, 22 // RFC 8446, section 5.1
	switch {
	case strings.HasPrefix(string(first), "HTTP/"):
		line, _, _ := strings.Cut(string(first), "\r\n")
		return line
	case first[0] == alert && first[1] == 3:
		return tlsAlert
	case first[0] == handshake && first[1] == 3:
		return "TLS"
	}
	return ""
}

// Trace is the report about all flows: the explanation is that of the first that
// failed, or else of the first.
func Trace(run *evidence.Run, j *Judged) *report.Report {
	slices.SortStableFunc(j.rows, func(a, b report.Flow) int {
		if a.Other != b.Other {
			return map[bool]int{true: 1, false: -1}[a.Other]
		}
		return a.Started.Compare(b.Started)
	})
	traced := &report.Traced{Unfollowed: j.Unfollowed, Flows: len(j.flows), Outcomes: make(map[report.Outcome]int), Command: j.Command}
	for i := range j.rows {
		row := &j.rows[i]
		if row.Other {
			traced.Others++
			continue
		}
		traced.Outcomes[row.Outcome]++
		if traced.Explained == 0 && j.explained[row.Number] != nil {
			traced.Explained = row.Number
		}
	}
	out := j.explained[traced.Explained]
	if out == nil {
		some := j.well
		if j.unsuccessful() && j.silent.report != nil {
			some = j.silent
			v := &some.report.Verdict
			v.Outcome, v.Code, v.Elapsed = report.Inconclusive, diagnose.Inconclusive, 0
		}
		out, traced.Explained = some.report, some.number
	}
	if out == nil {
		out = nothing(run, j)
	}
	out.Request, out.Started, out.Finished, out.Sensors = run.Request, run.Started, run.Finished, Sensors(run)
	out.Traced, out.Flows = traced, j.rows
	if out.Flows == nil {
		out.Flows = []report.Flow{}
	}
	for _, change := range j.Changes {
		if !slices.Contains(out.Notes, change) {
			out.Notes = append(out.Notes, change)
		}
	}
	out.Notes = append(out.Notes, run.Notes...)
	out.Verdict.Summary = overall(j, traced) + out.Verdict.Summary
	return out
}

// overall says how many flows there were, and which one is explained.
func overall(j *Judged, t *report.Traced) string {
	n, bad, name := 0, 0, ""
	for i := range j.rows {
		row := &j.rows[i]
		if row.Number == t.Explained {
			name = purpose(row)
		}
		if row.Other {
			continue
		}
		n++
		if j.failed[row.Number] {
			bad++
		}
	}
	silent := j.fellSilent()
	order := "The network is in order: "
	if silent != "" {
		order = "No packet was seen to be lost: "
	}
	switch {
	case n == 0:
		return ""
	case bad == 0 && n == 1:
		return fmt.Sprintf("%s%s was answered. %s%s", order, name, j.complaints(), silent)
	case bad == 0:
		all := fmt.Sprintf("all %d", n)
		if n == 2 {
			all = "both"
		}
		return fmt.Sprintf("%s%s flows were answered. %s%sFlow %d, %s: ", order, all, j.complaints(), silent, t.Explained, name)
	case n == 1:
		return fmt.Sprintf("%s failed. ", capital(name))
	case bad == 1:
		return fmt.Sprintf("1 of %d flows failed, %s (flow %d). ", n, name, t.Explained)
	}
	return fmt.Sprintf("%d of %d flows failed, first %s (flow %d). ", bad, n, name, t.Explained)
}

// purpose says in words what a flow is for.
func purpose(row *report.Flow) string {
	to := ends(row)
	switch {
	case row.Asked != "" && row.Tuple.Protocol == "udp":
		return fmt.Sprintf("the query of %s for %s", to, row.Asked)
	case row.Tuple.Protocol == "tcp":
		return "the connection to " + to
	case row.Tuple.ICMPType != nil:
		return "the ping of " + to
	}
	return fmt.Sprintf("what was sent to %s (%s)", to, row.Tuple.Protocol)
}

// ends is the far end of a flow, with its name where that was looked up.
func ends(row *report.Flow) string {
	if row.Host == "" {
		return row.Tuple.Destination
	}
	return fmt.Sprintf("%s (%s)", row.Tuple.Destination, row.Host)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// unsuccessful reports whether a command ran, and did not end well as far as known.
func (j *Judged) unsuccessful() bool {
	return j.Command != nil && (j.Command.Status != 0 || j.Command.Unknown != "")
}

// complaints are what far ends said that is no success: an HTTP status from 400
// on, or a TLS alert; where the command failed, that there is no such name, too,
// which is often the answer to one of several queries.
func (j *Judged) complaints() string {
	var said remarks
	for i := range j.rows {
		row := &j.rows[i]
		var status int
		_, _ = fmt.Sscanf(row.Said, "HTTP/1.%1d %3d", new(int), &status)
		switch {
		case row.Other:
		case status >= 400 || row.Said == tlsAlert:
			said.add(fmt.Sprintf("%s answered %q", ends(row), row.Said), row.Number)
		case row.Said == dnsErrors["NameError"] && j.unsuccessful():
			said.add(fmt.Sprintf("%s answered the query for %s: %s", ends(row), row.Asked, row.Said), row.Number)
		}
	}
	return said.String()
}

// fellSilent says from whom nothing more came before the source closed the
// connection, where the command failed: whether something was lost is not known.
func (j *Judged) fellSilent() string {
	if !j.unsuccessful() {
		return ""
	}
	var said remarks
	longest := make(map[string]silence)
	for _, s := range j.silences {
		of := longest[s.from]
		longest[s.from] = silence{silent: max(of.silent, s.silent), largest: max(of.largest, s.largest)}
	}
	for _, s := range j.silences {
		came, of := "no data came", longest[s.from]
		if of.largest > 0 {
			came = fmt.Sprintf("data came in packets of up to %d bytes, and then nothing more", of.largest)
		}
		said.add(fmt.Sprintf("From %s %s until the connection was closed, %s later: it is slow, or its larger packets are lost beyond what is visible (MTU)",
			s.from, came, of.silent.Round(time.Second)), s.number)
	}
	return said.String()
}

// remarks are sentences, each with the flows that it is true of.
type remarks struct {
	texts   []string
	numbers map[string][]string
}

// maxRemarks is how many sentences are said, and of how many flows.
const maxRemarks = 4

func (r *remarks) add(text string, number int) {
	if r.numbers == nil {
		r.numbers = make(map[string][]string)
	}
	if r.numbers[text] == nil {
		r.texts = append(r.texts, text)
	}
	r.numbers[text] = append(r.numbers[text], strconv.Itoa(number))
}

func (r *remarks) String() string {
	var b strings.Builder
	for _, text := range r.texts[:min(len(r.texts), maxRemarks)] {
		of, word := r.numbers[text], "flow"
		if len(of) > 1 {
			word = "flows"
		}
		if more := len(of) - maxRemarks; more > 0 {
			of = append(of[:maxRemarks:maxRemarks], fmt.Sprintf("%d more", more))
		}
		fmt.Fprintf(&b, "%s (%s %s). ", text, word, strings.Join(of, ", "))
	}
	return b.String()
}

// nothing is the report about a source from which no packet was seen. That is well
// where a command ended well without; where packets may have been missed, nobody
// knows.
func nothing(run *evidence.Run, j *Judged) *report.Report {
	v := report.Verdict{
		Outcome: report.Unsent, Leg: "request", Code: diagnose.NotSeen, Confidence: report.Observed, NetNS: run.Topology.Source, Evidence: []string{},
		Summary: fmt.Sprintf("No packet of a new flow left %s.", run.Topology.Source),
	}
	missed := slices.ContainsFunc(run.Stations, func(s evidence.Station) bool { return s.NetNS == run.Topology.Source && !s.Captured })
	switch {
	case missed:
		v.Outcome, v.Code, v.Confidence = report.Inconclusive, diagnose.Inconclusive, report.Assumed
		v.Summary = fmt.Sprintf("No packet of a new flow was seen to leave %s, of whose packets some were missed.", run.Topology.Source)
	case j.Command != nil && !j.unsuccessful():
		v.Code = diagnose.OK
	}
	return &report.Report{
		Schema: report.Schema, Tool: report.Tool{Version: run.Version}, Findings: []report.Finding{}, Translations: []report.Translation{},
		Legs: report.Legs{Request: []report.Hop{}, Reply: []report.Hop{}}, Evidence: []report.Evidence{}, Verdict: v,
	}
}
