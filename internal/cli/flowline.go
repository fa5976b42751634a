package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// printFlow prints an event of conntrack as text or JSON, on one line.
func printFlow(w io.Writer, event nat.Event, output string) error {
	translations := event.Flow.Translations()
	if output == "json" {
		return json.NewEncoder(w).Encode(conntrackRecordOf(event, translations))
	}
	arrow := asciiDrawing.arrow
	if localeIsUTF8() {
		arrow = boxDrawing.arrow
	}
	_, err := fmt.Fprintln(w, report.Escape(conntrackLine(event, translations, arrow)))
	return err
}

// conntrackLine returns an event as a line of text.
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
