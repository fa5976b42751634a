package offline

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/textlog"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// Logs are what other programs wrote down about the packets of captures, on the
// host that translates and filters them.
type Logs struct {
	// Events are conntrack's. Hits are what a trace of rules says, resolved as far
	// as Rules tell, with times of Clock.
	Events []nat.Event
	Hits   []ruletrace.Hit
	Clock  ruletrace.Clock
	// Rules is nil where none were saved.
	Rules    *ruletrace.Rules
	Networks []engine.Network
	// Notes say what of the logs was not understood.
	Notes []string
	// trace names the files that Hits are from; alone says that they are taken for a
	// capture.
	trace string
	alone bool
}

// LogFile is a log that is to be read.
type LogFile struct {
	Name string
	Open func() (io.ReadCloser, error)
}

// LogFiles are logs by what they are.
type LogFiles struct {
	// Conntrack is output of conntrack(8), Trace a trace of rules, Rules rulesets
	// and what docker network inspect prints.
	Conntrack, Trace, Rules []LogFile
}

// ReadLogs reads logs. The error is about files of which nothing could be used.
func ReadLogs(files LogFiles) (Logs, error) {
	var l Logs
	var errs []error
	read := func(all []LogFile, parse func(name string, r io.Reader) error) {
		for _, f := range all {
			errs = append(errs, l.read(f, parse))
		}
	}
	l.trace = namesOf(files.Trace)
	read(files.Conntrack, l.readConntrack)
	read(files.Trace, l.readTrace)
	read(files.Rules, l.readRules)
	l.resolve()
	return l, errors.Join(errs...)
}

func namesOf(files []LogFile) string {
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// resolve fills in what the rules say of the hits.
func (l *Logs) resolve() {
	if l.Rules == nil {
		return
	}
	unresolved, nft := 0, false
	var first error
	for i := range l.Hits {
		if err := l.Rules.Resolve(&l.Hits[i]); err != nil {
			unresolved, nft, first = unresolved+1, nft || !l.Hits[i].Legacy, cmp.Or(first, err)
		}
	}
	if unresolved == 0 {
		return
	}
	l.note("The saved rules do not have %d of %d rules of the trace; the first is: %v.", unresolved, len(l.Hits), first)
	if nft {
		l.note("Rules that nft traces are found in what \"nft -a list ruleset\" prints, also those of iptables-nft.")
	}
}

// read reads one log. An empty one is of a time when nothing happened.
func (l *Logs) read(f LogFile, parse func(name string, r io.Reader) error) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	b := bufio.NewReader(r)
	if _, err := b.Peek(1); errors.Is(err, io.EOF) {
		l.note("%s is empty.", f.Name)
		return r.Close()
	}
	return errors.Join(parse(f.Name, b), r.Close())
}

// AddRun adds what a saved run saw of conntrack and of rules. machine is the name
// of the machine that it was made on, where there are several.
func (l *Logs) AddRun(machine string, run *evidence.Run) {
	netns := func(name string) string {
		if machine == "" {
			return name
		}
		return machine + ": " + name
	}
	for _, e := range run.Events {
		e.Flow.NetNS = netns(e.Flow.NetNS)
		l.Events = append(l.Events, e)
	}
	for _, h := range run.Hits {
		h.NetNS = netns(h.NetNS)
		l.Hits = append(l.Hits, h)
	}
}

// maxNotes bounds what is said about logs.
const maxNotes = 10

func (l *Logs) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(l.Notes) < maxNotes && !slices.Contains(l.Notes, text) {
		l.Notes = append(l.Notes, text)
	}
}

// trouble says what of a log was not understood.
func (l *Logs) trouble(name string, skipped, excess int, problems textlog.Problems) {
	if excess > 0 {
		l.note("%s has more entries than are kept; left out: %d.", name, excess)
	}
	if len(problems) > 0 {
		n := max(skipped, 1)
		l.note("%s: %s %s not understood, the first is %s", name, plural(uint64(n), "line"), was(n), problems[0])
	}
}

func (l *Logs) readConntrack(name string, r io.Reader) error {
	log, err := nat.ReadLog(name, r)
	if err != nil {
		return err
	}
	l.Events = append(l.Events, log.Events...)
	l.trouble(name, log.Skipped, log.Excess, log.Problems)
	return nil
}

func (l *Logs) readTrace(name string, r io.Reader) error {
	log, err := ruletrace.ReadTrace(name, r)
	if err != nil {
		return err
	}
	if len(l.Hits) > 0 {
		l.note("%s: of several traces only the times of the first are used.", name)
		log.Clock = l.Clock
	}
	l.Clock = log.Clock
	l.Hits = append(l.Hits, log.Hits...)
	l.trouble(name, log.Skipped, log.Excess, log.Problems)
	return nil
}

// readRules reads a ruleset or, where the file is JSON, networks.
func (l *Logs) readRules(name string, r io.Reader) error {
	b := bufio.NewReader(r)
	if head, _ := b.Peek(1); len(head) > 0 && head[0] == '[' {
		networks, err := container.ReadNetworks(name, b)
		l.Networks = append(l.Networks, networks...)
		return err
	}
	rules, err := ruletrace.ReadRules(name, b)
	if err != nil {
		return err
	}
	if l.Rules == nil {
		l.Rules = rules
	} else {
		l.Rules.Add(rules)
	}
	l.trouble(name, len(rules.Problems), 0, rules.Problems)
	return nil
}

// owner names the container that has an address, and its network; empty where no
// network tells.
func (l *Logs) owner(a netip.Addr) string {
	for i := range l.Networks {
		n := &l.Networks[i]
		for k := range n.Members {
			if slices.Contains(n.Members[k].Addresses, a) {
				return fmt.Sprintf("container %s, network %s (%s)", n.Members[k].Name, n.Name, n.Bridge)
			}
		}
		if slices.Contains(n.Gateways, a) {
			return fmt.Sprintf("the gateway of network %s (%s)", n.Name, n.Bridge)
		}
	}
	return ""
}
