//go:build linux

package accuracy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

const (
	// patience is how long an answer is waited for; nothing that is proven takes
	// half as long.
	patience = 10 * time.Second
	// impatience is for probes that are known to stay unanswered.
	impatience = time.Second
	// packets is how many are on their way beside the probe.
	packets = 200
	// connectPort is where dns.google accepts connections.
	connectPort = 53
	// discardPort is where it reads what is sent, and sendBytes how much is.
	discardPort = 9
	sendBytes   = 100_000
)

// Answer is why a probe ended, in short.
type Answer struct {
	Outcome, Code, Leg string
	// NetNS, Interface and Hook are where.
	NetNS, Interface, Hook string
	Rule                   string
}

// Result is what came of a case.
type Result struct {
	Case Case
	// Sent are the arguments of pathtrace that send the probe.
	Sent string
	// Family is that of the probe: IPv4 or IPv6.
	Family    string
	Want, Got Answer
	// Wrong are the fields in which they differ.
	Wrong []string
	// Alarms are the errors that were found where nothing is wrong.
	Alarms []string
	// Other says of a second fault whether the report speaks of it.
	Other Mention
	// Doubt says in what the kernel does not agree with the truth.
	Doubt error
	// Report is the whole report.
	Report *report.Report
}

// Mention says whether a report speaks of a fault that did not decide.
type Mention int

// A fault may not be there; it may be a rule that the packet never met, or one
// that can be seen in the state of the system.
const (
	NoOther Mention = iota
	Unmet
	Missed
	Mentioned
)

// Run builds the network of a case, sends its probe and compares.
func Run(ctx context.Context, c Case) (result Result, err error) {
	n, err := lab.Build(ctx, c.Scenario, c.Options)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		// A proxy may have closed a connection itself.
		if closed := n.Close(); !errors.Is(closed, net.ErrClosed) {
			err = errors.Join(err, closed)
		}
	}()
	truth := n.Truth()
	before, err := readCounters(n)
	if err != nil {
		return Result{}, err
	}
	probe, err := c.probe(ctx, n)
	if err != nil {
		return Result{}, err
	}
	stop := c.startTraffic(ctx, n)
	r, err := live.Run(ctx, configure(n, probe, truth))
	if err = errors.Join(err, stop()); err != nil {
		return Result{}, err
	}
	result = Result{Case: c, Sent: strings.Join(probe.Args(), " "), Family: "IPv4", Want: wanted(truth), Got: got(r), Report: r}
	if probe.Target.Is6() {
		result.Family = "IPv6"
	}
	if result.Want.Rule != "" {
		place, err := placeOf(ctx, n, truth)
		if err != nil {
			return Result{}, err
		}
		result.Want.Rule += place
	} else {
		result.Got.Rule = "" // of others the lab does not say it
	}
	result.compare(n, truth)
	result.Doubt = doubt(ctx, n, c, truth, before)
	return result, nil
}

// startTraffic sends other flows beside the probe if the case has them. What
// it returns ends that.
func (c Case) startTraffic(ctx context.Context, n *lab.Network) (stop func() error) {
	if !c.Traffic {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- n.Traffic(ctx, packets) }()
	return func() error {
		cancel()
		return <-done
	}
}

// probe is what is sent.
func (c Case) probe(ctx context.Context, n *lab.Network) (*lab.Probe, error) {
	p := n.Scenario.ProbeOf(c.Options.Break)
	switch c.Probe {
	case Own:
	case Connection:
		p.Kind, p.Port = "tcp", connectPort
	case Data:
		p.Kind, p.Port, p.SendBytes = "tcp", discardPort, sendBytes
	case Walk:
		return walk(ctx, n, c.Options.Seed)
	}
	return p, nil
}

// configure is a live run that sends a probe.
func configure(n *lab.Network, p *lab.Probe, truth lab.Truth) live.Config {
	cfg := live.Config{
		Kind: p.Kind, Port: p.Port, Size: p.Size, DontFragment: p.DF, SendBytes: p.SendBytes,
		Source: &container.Source{Kind: container.KindNetNS, Name: p.Source, NetNS: n.NetNS(p.Source)},
		Host:   n.Host, Candidates: []topology.Candidate{},
		Target: p.Target.String(), Resolved: resolve.Result{Address: p.Target},
		Timeout: patience, Version: "accuracy",
	}
	if p.Source == lab.HostName {
		cfg.Source.Kind = container.KindHost
	}
	for _, name := range n.Named {
		cfg.Candidates = append(cfg.Candidates, topology.Candidate{Name: name, NetNS: n.NetNS(name)})
	}
	switch {
	case p.Kind == "dns":
		said := resolve.Said{Server: p.Target, Question: "dns.google", Answer: p.Said}
		cfg.Kind, cfg.Target = "ping", "dns.google"
		cfg.Unresolved = &resolve.Error{Kind: resolve.NoAnswer, Name: "dns.google", Source: p.Source, Said: []resolve.Said{said}}
	case p.Port != 0:
		cfg.Target = netip.AddrPortFrom(p.Target, p.Port).String()
	}
	if i := slices.Index(p.Flags, "--source-port"); i >= 0 {
		port, _ := strconv.ParseUint(p.Flags[i+1], 10, 16)
		cfg.SourcePort = uint16(port)
	}
	if i := slices.Index(p.Flags, "--timeout"); i >= 0 {
		cfg.Timeout, _ = time.ParseDuration(p.Flags[i+1])
	} else if truth.Outcome == string(report.Lost) {
		cfg.Timeout = impatience
	}
	return cfg
}

func wanted(truth lab.Truth) Answer {
	a := Answer{Outcome: truth.Outcome, Code: truth.Code, Leg: truth.Leg, NetNS: truth.NetNS, Hook: truth.Hook}
	if r := truth.Rule; r.Text != "" {
		a.Rule = fmt.Sprintf("%s %s %s %s %s", r.Backend, r.Family, r.Table, r.Chain, r.Text)
	}
	return a
}

func got(r *report.Report) Answer {
	v := r.Verdict
	a := Answer{Outcome: string(v.Outcome), Code: v.Code, Leg: v.Leg, NetNS: v.NetNS, Interface: v.Interface, Hook: v.Hook}
	if rule := v.Rule; rule != nil {
		a.Rule = fmt.Sprintf("%s %s %s %s %s", rule.Backend, rule.Family, rule.Table, rule.Chain, rule.Text)
		switch {
		case strings.HasPrefix(rule.Text, ":"), strings.HasPrefix(rule.Text, "policy"):
		case rule.Backend == string(lab.NFT):
			a.Rule += fmt.Sprintf(" # handle %d", rule.Handle)
		default:
			a.Rule += fmt.Sprintf(" # rule %d", rule.Number)
		}
	}
	return a
}

// compare finds the fields that are wrong. Where an answered probe ended is
// not compared.
func (r *Result) compare(n *lab.Network, truth lab.Truth) {
	want, got := &r.Want, &r.Got
	answered := want.Outcome == string(report.Replied)
	if answered {
		want.NetNS, want.Interface = got.NetNS, got.Interface
	}
	for _, f := range []struct{ name, want, got string }{
		{"outcome", want.Outcome, got.Outcome},
		{"code", want.Code, got.Code},
		{"leg", want.Leg, got.Leg},
		{"netns", want.NetNS, got.NetNS},
		{"hook", want.Hook, got.Hook},
		{"rule", want.Rule, got.Rule},
	} {
		// What is behind the host is nobody's namespace.
		unknown := f.name == "netns" && f.want == "" && want.Outcome == string(report.Lost)
		if f.want != f.got && !unknown {
			r.Wrong = append(r.Wrong, f.name)
		}
	}
	if want.Interface = truth.Interface; want.Interface != "" && got.Interface != want.Interface {
		r.Wrong = append(r.Wrong, "interface")
	}
	if interfaces := onTheWay(n, truth); truth.Interface == "" && truth.Rule.Text != "" && got.Interface != "" && len(interfaces) > 0 && !slices.Contains(interfaces, got.Interface) {
		want.Interface = strings.Join(interfaces, " or ")
		r.Wrong = append(r.Wrong, "interface")
	}
	if answered {
		for _, finding := range r.Report.Findings {
			if finding.Severity == "error" {
				r.Alarms = append(r.Alarms, finding.Code)
			}
		}
	}
	broken := n.Scenario.Broken(n.Options.Break)
	if len(broken) == 1 && want.Code != "DNS_FAILED" { // that has the finding of its query
		for _, finding := range r.Report.Findings {
			if finding.Severity != "error" && finding.Code != want.Code && finding.Code != "SUBNET_OVERLAP" { // a twin of what is asked for
				r.Alarms = append(r.Alarms, finding.Code)
			}
		}
	}
	if len(broken) > 1 {
		r.Other = mention(n, &broken[1], r.Report)
	}
}

// onTheWay are the interfaces of the truth's namespace that a packet of the
// scenario's own passes; none where it does not come there.
func onTheWay(n *lab.Network, truth lab.Truth) []string {
	var all []string
	for _, point := range slices.Concat(n.Scenario.Request, n.Scenario.Reply) {
		place, _, _ := strings.Cut(point, " ")
		if netns, iface, _ := strings.Cut(place, "/"); netns == truth.NetNS {
			all = append(all, iface)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// stateful are the causes that the state of links, addresses and routes tells by
// itself.
var stateful = []string{
	"LINK_DOWN", "FORWARDING_OFF", "NO_ROUTE", "NO_DEFAULT_ROUTE", "ROUTE_BLACKHOLE", "SUBNET_OVERLAP", "BRIDGE_PORT_BLOCKED",
}

// mention looks in a report for a fault that did not decide.
func mention(n *lab.Network, fault *lab.Fault, r *report.Report) Mention {
	code := n.Scenario.Truth(lab.Options{Break: fault.Name, Backend: n.Options.Backend}).Code
	if fault.ByRule() || !slices.Contains(stateful, code) {
		return Unmet
	}
	if code == "NO_DEFAULT_ROUTE" { // beyond the source it is a route as any
		code = "NO_ROUTE"
	}
	if code == r.Verdict.Code {
		return Unmet // one word for both
	}
	if slices.ContainsFunc(r.Findings, func(f report.Finding) bool { return f.Code == code }) {
		return Mentioned
	}
	return Missed
}
