package live_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/report"
)

// answer is what a report says, in a form that the truth of the lab has too.
type answer struct {
	Outcome    report.Outcome
	Leg, Code  string
	Confidence report.Confidence
	// NetNS, Interface and Hook are where it ended.
	NetNS, Interface, Hook string
	Rule                   *report.Rule
	Translations           []report.Translation // without evidence
	// Undone are the answers' translations that take back the request's.
	Undone []string
	// Request and Reply are the hops with the addresses that they saw.
	Request, Reply []string
}

// said is the answer of a report.
func said(r *report.Report) answer {
	a := answer{
		Outcome: r.Verdict.Outcome, Leg: r.Verdict.Leg, Code: r.Verdict.Code, Confidence: r.Verdict.Confidence,
		NetNS: r.Verdict.NetNS, Interface: r.Verdict.Interface, Hook: r.Verdict.Hook, Rule: r.Verdict.Rule,
		Request: seen(r.Legs.Request), Reply: seen(r.Legs.Reply),
	}
	for _, t := range r.Translations {
		t.Evidence = nil
		a.Translations = append(a.Translations, t)
	}
	for _, hop := range r.Legs.Reply {
		for _, step := range hop.Steps {
			if step.Kind == "nat" && step.Rule == nil {
				a.Undone = append(a.Undone, fmt.Sprintf("%s %s %s %s", step.Confidence, hop.NetNS, step.Hook, step.Text))
			}
		}
	}
	return a
}

// seen are the points that saw a packet, with its addresses there.
func seen(leg []report.Hop) []string {
	var all []string
	for _, hop := range points(leg) {
		if strings.HasSuffix(hop.Tuple.Destination, ":4789") {
			all = append(all, place(hop)+": carried")
			continue
		}
		all = append(all, fmt.Sprintf("%s: %s → %s", place(hop), hop.Tuple.Source, hop.Tuple.Destination))
	}
	return all
}

// points are the hops at interfaces, and the namespace in which a packet ended
// when no interface saw it there. Where a packet is made, the rules of the
// output hook, if there are any, are a hop of their own.
func points(leg []report.Hop) []report.Hop {
	var all []report.Hop
	for i, hop := range leg {
		if hop.Interface != "" || i+1 == len(leg) || len(hop.Steps) == 0 {
			all = append(all, hop)
		}
	}
	return all
}

// expected is what the report about a network of the lab has to say.
func expected(t *testing.T, n *lab.Network) answer {
	t.Helper()
	truth := n.Truth()
	// What conntrack takes back is a step of the answer's and no translation.
	truth.Translations = slices.DeleteFunc(truth.Translations, func(t lab.Translation) bool { return t.Rule.Chain == "" })
	w := findWay(t, n, truth)
	a := answer{
		Outcome: report.Outcome(truth.Outcome), Leg: truth.Leg, Code: truth.Code, Confidence: report.Observed,
		Hook: truth.Hook, Request: w.request, Reply: w.reply, Undone: w.undone,
	}
	if truth.Rule.Text != "" {
		a.Rule = ruleOf(t, n, truth.NetNS, truth.Rule)
	}
	for _, translation := range truth.Translations {
		a.Translations = append(a.Translations, report.Translation{
			Kind: translation.Kind, NetNS: translation.NetNS, Hook: translation.Hook, Leg: translation.Leg, Field: translation.Field,
			Interface: w.at[translation.NetNS+" "+translation.Leg+" "+translation.Field],
			From:      translation.From.String(), To: translation.To.String(), Rule: ruleOf(t, n, translation.NetNS, translation.Rule),
			Confidence: report.Observed,
		})
	}
	// It ended at the last point that it was seen at.
	a.NetNS, a.Interface, _ = point(w.last)
	return a
}

// point takes "namespace/interface direction" apart.
func point(text string) (netns, iface, direction string) {
	netns, rest, _ := strings.Cut(text, "/")
	iface, direction, _ = strings.Cut(rest, " ")
	return netns, iface, direction
}

// way is what a packet and its answer meet, as far as the truth says that they
// come.
type way struct {
	// request and reply are the points with the packet's addresses there, last
	// is the last point of the leg on which it ended.
	request, reply []string
	last           string
	// at are the interfaces at which a "namespace leg field" is translated.
	at map[string]string
	// carried are the points at which it is in a tunnel.
	carried []string
	// undone are the translations of the request that conntrack takes back.
	undone []string
}

func findWay(t *testing.T, n *lab.Network, truth lab.Truth) *way {
	t.Helper()
	s := &n.Scenario
	visible := func(points []string) []string {
		return slices.DeleteFunc(slices.Clone(points), func(text string) bool {
			netns, _, _ := point(text)
			return netns != lab.HostName && !slices.Contains(n.Named, netns)
		})
	}
	there, back := visible(s.Request), visible(s.Reply)
	source, _ := route(t, n.NetNS(s.Source), s.Target)
	w := &way{at: make(map[string]string), carried: s.Carried}
	if truth.Leg == "request" {
		there = until(there, truth)
		w.last = there[len(there)-1]
		w.request, _ = w.walk(there, "request", truth.Translations, source, s.Target)
		if truth.Outcome == "rejected" {
			// The error is made where the request ended, and goes back from there.
			back = back[slices.IndexFunc(back, func(text string) bool {
				netns, _, direction := point(text)
				return netns == truth.NetNS && direction == "egress"
			}):]
			maker, _ := route(t, n.NetNS(truth.NetNS), source)
			w.reply, _ = w.walk(back, "reply", nil, maker, source)
		}
		return w
	}
	var translated netip.Addr
	w.request, translated = w.walk(there, "request", truth.Translations, source, s.Target)
	back = until(back, truth)
	w.last = back[len(back)-1]
	w.reply, _ = w.walk(back, "reply", truth.Translations, s.Target, translated)
	return w
}

// until cuts a leg where the truth says that the packet ended.
func until(points []string, truth lab.Truth) []string {
	switch truth.Hook {
	case "output":
		// No interface has seen it; the hop is the namespace itself.
		return append(points[:slices.IndexFunc(points, func(text string) bool {
			netns, _, _ := point(text)
			return netns == truth.NetNS
		})], truth.NetNS+"/ egress")
	case "forward":
		return points[:slices.Index(points, forwarded(points, truth.Leg, truth.NetNS))]
	}
	return points
}

// forwarded is the point by which a packet leaves a namespace that routes it: of
// a host whose bridges connect its containers, which has it several times, the
// one that is nearest to the target.
func forwarded(points []string, leg, namespace string) (found string) {
	for _, text := range points {
		if netns, _, direction := point(text); netns == namespace && direction == "egress" && (found == "" || leg == "request") {
			found = text
		}
	}
	return found
}

// walk adds to each point the addresses that a packet has there. What changes
// the source does it where the packet leaves the namespace, what changes the
// destination has done it where it comes in, and shows at the next point. walk
// returns the source that the packet has at the end, where the answer is sent
// to.
func (w *way) walk(points []string, leg string, translations []lab.Translation, from, to netip.Addr) (all []string, source netip.Addr) {
	entered, undone := make(map[string]bool), make(map[string]bool)
	next := to
	for _, text := range points {
		netns, iface, direction := point(text)
		if direction == "egress" {
			to = next
		}
		for _, translation := range translations {
			if translation.NetNS != netns {
				continue
			}
			switch direction {
			case "egress":
				if translation.Leg == leg && translation.Field == "source" && text == forwarded(points, leg, netns) {
					from = translation.To
					w.at[netns+" "+leg+" source"] = iface
				}
			case "ingress":
				if entered[netns] {
					continue // from the port to its bridge
				}
				if translation.Leg == leg && translation.Field == "destination" {
					next = translation.To
					w.at[netns+" "+leg+" destination"] = iface
				}
				if stateful := translation.Kind != "nptv6"; leg == "reply" && stateful && translation.Leg == "request" && !undone[netns] {
					undone[netns] = true
					w.undone = append(w.undone, fmt.Sprintf("%s %s prerouting destination %s → %s (%s undone)",
						report.Observed, netns, to, translation.From, translation.Kind))
					next = translation.From
				}
			}
		}
		entered[netns] = direction == "ingress"
		if slices.Contains(w.carried, text) {
			all = append(all, text+": carried")
			continue
		}
		all = append(all, fmt.Sprintf("%s: %s → %s", text, from, to))
	}
	return all, from
}

// ruleOf completes a rule of the truth with what its tool says of its place.
func ruleOf(t *testing.T, n *lab.Network, netns string, rule lab.Rule) *report.Rule {
	t.Helper()
	place := find(t, rules(t, n.NetNS(netns), string(rule.Backend), rule.Family, rule.Table, rule.Chain), rule.Text)
	return &report.Rule{
		Backend: string(rule.Backend), Family: rule.Family, Table: rule.Table, Chain: rule.Chain,
		Number: place.number, Handle: place.handle, Text: rule.Text, Comment: rule.Comment, Owner: ownerOf(rule),
	}
}

// dockerOwners are the owners of the lab's rules in Docker's chains.
var dockerOwners = map[string]report.Owner{
	"-A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP":                                   {Tool: "docker", Bridge: "br-5f1c3a9d2b7e", Purpose: "ISOLATION"},
	"-A DOCKER ! -i docker0 -o docker0 -j DROP":                                                {Tool: "docker", Bridge: "docker0", Purpose: "UNPUBLISHED PORT DROP"},
	"-A DOCKER-FORWARD -i docker0 -o docker0 -j DROP":                                          {Tool: "docker", Bridge: "docker0", Purpose: "ICC"},
	"-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80": {Tool: "docker", Bridge: "docker0", Purpose: "DNAT"},
}

// ownerOf is the owner of a rule of the lab's where no engine is asked.
func ownerOf(rule lab.Rule) report.Owner {
	switch {
	case strings.Contains(rule.Chain, "FWDI_docker"):
		return report.Owner{Tool: "firewalld", Zone: "docker"}
	case strings.Contains(rule.Chain, "POST_public"):
		return report.Owner{Tool: "firewalld", Zone: "public"}
	case strings.HasPrefix(rule.Chain, "DOCKER") && rule.Chain != "DOCKER-USER":
		return dockerOwners[rule.Text]
	case strings.HasPrefix(rule.Chain, "KUBE-"):
		o := report.Owner{Tool: "kube-proxy"}
		for _, service := range []string{"default/web:http", "default/empty:http"} {
			if strings.Contains(rule.Text, service) {
				o.Service = service
			}
		}
		return o
	case rule.Table == "firewalld":
		return report.Owner{Tool: "firewalld"}
	}
	return report.Owner{}
}

// TestTruth breaks every network in every way that it can be broken, writes its
// rules with each tool, and compares what a run says with what the lab knows.
func TestTruth(t *testing.T) {
	t.Parallel()
	for _, scenario := range lab.Scenarios() {
		for i, options := range variants(scenario) {
			t.Run(name(scenario, options), func(t *testing.T) {
				t.Parallel()
				third(t, i)
				truthful(t, scenario.Name, options)
			})
		}
	}
}

// variants are the forms of a scenario: each fault by a rule with each tool, seen
// and unseen; and each once more where bridged packets do not pass the IP hooks.
func variants(scenario lab.Scenario) []lab.Options {
	breaks := []string{""}
	for _, fault := range scenario.Faults {
		if fault.ByRule() {
			breaks = append(breaks, fault.Name)
		}
	}
	var all []lab.Options
	for _, broken := range breaks {
		for _, backend := range scenario.Backends {
			all = append(all, lab.Options{Backend: backend, Break: broken})
			if scenario.Opaque {
				all = append(all, lab.Options{Backend: backend, Break: broken, Opaque: true})
			}
		}
		all = append(all, lab.Options{Backend: scenario.Backends[0], Break: broken, NoBridgeNF: true})
	}
	return all
}

// name names a network in the tests' output.
func name(scenario lab.Scenario, options lab.Options) string {
	words := []string{scenario.Name, string(options.Backend)}
	if options.Break != "" {
		words = append(words, options.Break)
	}
	if options.Opaque {
		words = append(words, "opaque")
	}
	if options.NoBridgeNF {
		words = append(words, "no-bridge-nf")
	}
	return strings.Join(words, " ")
}

func truthful(t *testing.T, scenario string, options lab.Options) {
	n := build(t, scenario, options)
	want := expected(t, n)
	cfg := probe(n)
	cfg.Timeout = time.Minute // what is proven ends a run before, on the busiest machine
	if want.Outcome == report.Lost {
		cfg.Timeout = impatient
	}
	started := time.Now()
	r := trace(t, n, cfg)
	elapsed := time.Since(started)
	tell(t, want, said(r))
	if want.Outcome != report.Lost && elapsed > cfg.Timeout {
		t.Errorf("what was proven at once was waited for: %s", elapsed)
	}
	if want.Outcome == report.Replied {
		for _, problem := range healthy(r) {
			t.Error(problem)
		}
	}
}
