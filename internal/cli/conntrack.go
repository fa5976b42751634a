//go:build linux

package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// conntrackFlags are those of the command conntrack.
type conntrackFlags struct {
	source          sourceFlags
	output          choice
	follow, natOnly bool
	protocol        protocol
}

func newConntrackCommand(env *environment) *cobra.Command {
	flags := conntrackFlags{output: choice{value: "text", valid: []string{"text", "json"}}}
	cmd := &cobra.Command{
		Use:   "conntrack",
		Short: "Show the flows that the kernel tracks, and what NAT does to them",
		Long: `Show the flows that the kernel tracks, one line each, and what NAT does to them.
With --follow, show the flows that are there and then each one that begins (NEW),
changes (UPDATE) or ends (DESTROY), until interrupted. What the kernel could not
deliver is told on standard error; then the table is read again, and what
changed meanwhile is shown as found after lost events.

A flow that began while nobody was listening may end without an event.

Conntrack knows what was translated and not by which rule: masquerade and SNAT
look the same.

With -o json each line is an object with the fields
  time         when the event happened if the kernel tells (time_source "kernel",
               with net.netfilter.nf_conntrack_timestamp=1), otherwise when it
               was read ("read")
  event        NEW, UPDATE, DESTROY, or EXISTING: found in the table
  resync       true when the table told it after events were lost
  netns, id, zone, mark
  original     tuple of the first packet: protocol, source, destination, and
               icmp_type, icmp_code, icmp_id for ICMP
  reply        tuple that an answer is expected to have
  translations list of kind (snat or dnat), field (source or destination), from, to
  state        of TCP
  seen_reply, assured
  timeout      seconds that the entry has left
  started      when the flow began, if the kernel tells`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd.Context(), env)
		},
	}
	flags.source.register(cmd)
	f := cmd.Flags()
	f.BoolVarP(&flags.follow, "follow", "f", false, "go on with events, until interrupted")
	f.VarP(&flags.protocol, "protocol", "p", "only this protocol: "+strings.Join(protocolNames(), ", ")+" or a number")
	f.BoolVar(&flags.natOnly, "nat", false, "only flows that are translated")
	f.VarP(&flags.output, "output", "o", "form of the output: text or json")
	for name, values := range map[string][]string{"output": flags.output.valid, "protocol": protocolNames()} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flag does not exist: a mistake in this file
		}
	}
	return cmd
}

func (f *conntrackFlags) run(ctx context.Context, env *environment) error {
	source, err := f.source.open(ctx)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // a read-only descriptor
	if f.follow {
		err = f.events(ctx, env, source)
	} else {
		err = f.table(ctx, env, source)
	}
	if errors.Is(err, os.ErrPermission) {
		return errors.New("reading conntrack events needs CAP_NET_ADMIN: run with sudo")
	}
	return err
}

// table prints the flows that are there.
func (f *conntrackFlags) table(ctx context.Context, env *environment, source *container.Source) error {
	flows, err := nat.Dump(ctx, source.NetNS, source.Name, nat.Filter{Proto: f.protocol.value})
	if partial, ok := errors.AsType[*nat.PartialError](err); ok {
		fmt.Fprintf(env.err, "pathtrace: %v\n", partial) //nolint:errcheck // nowhere left to tell
	} else if err != nil {
		if ctx.Err() != nil {
			return nil // stopped
		}
		return err
	}
	now := time.Now()
	out := bufio.NewWriter(env.out)
	for _, flow := range flows {
		if err := f.print(out, nat.Event{Kind: nat.Existing, Flow: flow, Received: now}); err != nil {
			return err
		}
	}
	return out.Flush()
}

// events prints the flows that are there and what happens to flows, until ctx
// is done.
func (f *conntrackFlags) events(ctx context.Context, env *environment, source *container.Source) error {
	watcher, err := nat.Watch(nat.Config{
		NetNS:    source.NetNS,
		Name:     source.Name,
		Existing: true,
		Filter:   nat.Filter{Proto: f.protocol.value},
		Overrun: func() {
			fmt.Fprintln(env.err, "pathtrace: the kernel lost conntrack events; reading the table again") //nolint:errcheck // nowhere left to tell
		},
	})
	if err != nil {
		return err
	}
	defer watcher.Close() //nolint:errcheck // nothing is written
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var printErr error
	err = watcher.Run(ctx, func(event nat.Event) {
		if printErr != nil {
			return
		}
		if printErr = f.print(env.out, event); printErr != nil {
			cancel()
		}
	})
	stats := watcher.Stats()
	if stats.Overruns > 0 {
		fmt.Fprintf(env.err, "pathtrace: the kernel lost conntrack events %d times\n", stats.Overruns) //nolint:errcheck // nowhere left to tell
	}
	if stats.Undecodable > 0 {
		fmt.Fprintf(env.err, "pathtrace: %d conntrack messages were not understood\n", stats.Undecodable) //nolint:errcheck // nowhere left to tell
	}
	return errors.Join(printErr, err)
}

// print prints an event, unless its flow is not to be shown.
func (f *conntrackFlags) print(w io.Writer, event nat.Event) error {
	translations := event.Flow.Translations()
	if f.natOnly && len(translations) == 0 {
		return nil
	}
	if f.output.value == "json" {
		return json.NewEncoder(w).Encode(conntrackRecordOf(event, translations))
	}
	arrow := asciiDrawing.arrow
	if localeIsUTF8() {
		arrow = boxDrawing.arrow
	}
	_, err := fmt.Fprintln(w, conntrackLine(event, translations, arrow))
	return err
}

// conntrackLine returns an event as a line of text. All of it comes from
// numbers and addresses.
func conntrackLine(event nat.Event, translations []nat.Translation, arrow string) string {
	flow := &event.Flow
	at := event.Time
	if at.IsZero() {
		at = event.Received
	}
	original := flow.Original.Source() + " " + arrow + " " + flow.Original.Destination()
	if t := flow.Original; t.Proto.IsICMP() {
		if t.ICMPType != packet.EchoRequest && t.ICMPType != packet.EchoRequestV6 {
			original += fmt.Sprintf(" type %d", t.ICMPType)
		}
		original += fmt.Sprintf(" id %d", t.ICMPID)
	}
	var changes []string
	for _, t := range translations {
		how := "masquerade or SNAT"
		if t.Field == nat.Destination {
			how = "DNAT"
		}
		changes = append(changes, fmt.Sprintf("%s %s %s %s (%s)", t.Field, t.From, arrow, t.To, how))
	}
	if len(changes) == 0 {
		changes = []string{"not translated"}
	}
	var state []string
	if flow.TCPState != "" {
		state = append(state, flow.TCPState)
	}
	switch {
	case !flow.Status.Has(nat.StatusSeenReply):
		state = append(state, "no reply yet")
	case flow.TCPState == "":
		state = append(state, "replied")
	}
	words := []string{
		fmt.Sprintf("%s %-8s %-6s %s", at.Format("15:04:05.000000"), event.Kind, flow.Original.Proto, original),
		strings.Join(changes, ", "),
		strings.Join(state, ", "),
		fmt.Sprintf("flow %d", flow.ID),
	}
	if flow.Zone != 0 {
		words = append(words, fmt.Sprintf("zone %d", flow.Zone))
	}
	if event.Resync {
		words = append(words, "found after lost events")
	}
	return strings.Join(words, "  ")
}

// conntrackRecord is an event in JSON. Fields may be added; those that are
// there keep their names and meaning.
type conntrackRecord struct {
	Time         time.Time              `json:"time"`
	TimeSource   string                 `json:"time_source"`
	Event        string                 `json:"event"`
	Resync       bool                   `json:"resync,omitempty"`
	NetNS        string                 `json:"netns"`
	ID           uint32                 `json:"id"`
	Zone         uint16                 `json:"zone"`
	Mark         uint32                 `json:"mark"`
	Original     report.Tuple           `json:"original"`
	Reply        report.Tuple           `json:"reply"`
	Translations []conntrackTranslation `json:"translations"`
	State        string                 `json:"state,omitempty"`
	SeenReply    bool                   `json:"seen_reply"`
	Assured      bool                   `json:"assured"`
	Timeout      int64                  `json:"timeout"`
	Started      time.Time              `json:"started,omitzero"`
}

type conntrackTranslation struct {
	Kind  string    `json:"kind"`
	Field nat.Field `json:"field"`
	From  string    `json:"from"`
	To    string    `json:"to"`
}

func conntrackRecordOf(event nat.Event, translations []nat.Translation) conntrackRecord {
	flow := &event.Flow
	record := conntrackRecord{
		Time:         event.Time,
		TimeSource:   "kernel",
		Event:        event.Kind.String(),
		Resync:       event.Resync,
		NetNS:        flow.NetNS,
		ID:           flow.ID,
		Zone:         flow.Zone,
		Mark:         flow.Mark,
		Original:     conntrackTuple(flow.Original),
		Reply:        conntrackTuple(flow.Reply),
		Translations: make([]conntrackTranslation, 0, len(translations)),
		State:        flow.TCPState,
		SeenReply:    flow.Status.Has(nat.StatusSeenReply),
		Assured:      flow.Status.Has(nat.StatusAssured),
		Timeout:      int64(flow.Timeout / time.Second),
		Started:      flow.Started,
	}
	if event.Time.IsZero() {
		record.Time, record.TimeSource = event.Received, "read"
	}
	for _, t := range translations {
		kind := "snat"
		if t.Field == nat.Destination {
			kind = "dnat"
		}
		record.Translations = append(record.Translations, conntrackTranslation{kind, t.Field, t.From, t.To})
	}
	return record
}

func conntrackTuple(t packet.Tuple) report.Tuple {
	tuple := report.Tuple{Protocol: t.Proto.String(), Source: t.Source(), Destination: t.Destination()}
	if t.Proto.IsICMP() {
		tuple.ICMPType, tuple.ICMPCode, tuple.ICMPID = new(int(t.ICMPType)), new(int(t.ICMPCode)), new(int(t.ICMPID))
	}
	return tuple
}

// protocols are those that have a name; the others have a number.
var protocols = []packet.Proto{packet.ICMP, packet.ICMPv6, packet.TCP, packet.UDP, packet.SCTP}

func protocolNames() (names []string) {
	for _, p := range protocols {
		names = append(names, p.String())
	}
	return names
}

// protocol is a flag that takes an IP protocol by name or number; 0 is none.
type protocol struct{ value packet.Proto }

func (p *protocol) String() string {
	if p.value == 0 {
		return ""
	}
	return p.value.String()
}

func (p *protocol) Set(text string) error {
	for _, known := range protocols {
		if strings.EqualFold(text, known.String()) {
			p.value = known
			return nil
		}
	}
	number, err := strconv.ParseUint(text, 10, 8)
	if err != nil || number == 0 {
		return fmt.Errorf("must be %s or a number from 1 to 255", strings.Join(protocolNames(), ", "))
	}
	p.value = packet.Proto(number)
	return nil
}

func (p *protocol) Type() string { return "PROTO" }
