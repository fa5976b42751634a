package nat

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// beginsEntry and endsEntry find an entry in XML. The tool writes each into one
// line; an editor may have broken it.
func beginsEntry(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "<flow") }
func endsEntry(line string) bool   { return strings.Contains(line, "</flow>") }

// xmlFlow is what is read of an entry (libnetfilter_conntrack,
// src/conntrack/snprintf_xml.c).
type xmlFlow struct {
	Type string    `xml:"type,attr"`
	Meta []xmlMeta `xml:"meta"`
}

// xmlMeta is one direction of it, or what belongs to none.
type xmlMeta struct {
	Direction string `xml:"direction,attr"`
	Layer3    struct {
		Src string `xml:"src"`
		Dst string `xml:"dst"`
	} `xml:"layer3"`
	Layer4 struct {
		Number string `xml:"protonum,attr"`
		Sport  string `xml:"sport"`
		Dport  string `xml:"dport"`
	} `xml:"layer4"`
	Zone      string    `xml:"zone"`
	State     string    `xml:"state"`
	Timeout   string    `xml:"timeout"`
	Mark      string    `xml:"mark"`
	ID        string    `xml:"id"`
	Assured   *struct{} `xml:"assured"`
	Unreplied *struct{} `xml:"unreplied"`
	Started   int64     `xml:"timestamp>start"`
}

// errNoEcho is an ICMP flow in XML.
var errNoEcho = errors.New("the XML form tells neither type nor id of ICMP: the flow is left out")

// parseXMLEntry reads an entry. What -o timestamp adds, <when>, is a date
// without a time zone in whole seconds, and left out.
func parseXMLEntry(text string) (Event, bool, error) {
	var entry xmlFlow
	if err := xml.Unmarshal([]byte(text), &entry); err != nil {
		return Event{}, false, errors.New("no well-formed XML")
	}
	event := Event{Kind: Existing}
	switch entry.Type {
	case "new":
		event.Kind = New
	case "update":
		event.Kind = Update
	case "destroy":
		event.Kind = Destroy
	}
	flow := &event.Flow
	unreplied := false
	var err error
	for _, m := range entry.Meta {
		flow.Zone = max(flow.Zone, xmlNumber[uint16](m.Zone, &err))
		switch m.Direction {
		case "original":
			flow.Original = m.tuple(&err)
		case "reply":
			flow.Reply = m.tuple(&err)
		case "independent":
			unreplied = m.Unreplied != nil
			if m.Assured != nil {
				flow.Status |= StatusAssured
			}
			flow.Timeout = time.Duration(xmlNumber[uint32](m.Timeout, &err)) * time.Second
			flow.Mark, flow.ID = xmlNumber[uint32](m.Mark, &err), xmlNumber[uint32](m.ID, &err)
			flow.TCPState = m.State
			if m.Started > 0 {
				flow.Started = time.Unix(0, m.Started).UTC()
			}
		default:
			return Event{}, false, errExpectation // expected, mask, master
		}
	}
	switch {
	case err != nil:
		return Event{}, false, err
	case flow.Original.Proto != flow.Reply.Proto:
		return Event{}, false, errors.New("tuples of two protocols")
	case flow.Original.Proto.IsICMP():
		return Event{}, false, errNoEcho
	case flow.Original.Proto != packet.TCP:
		flow.TCPState = ""
	}
	if err := event.finish(unreplied); err != nil {
		return Event{}, false, err
	}
	return event, true, nil
}

// tuple reads a direction's. An error is kept in err.
func (m *xmlMeta) tuple(err *error) packet.Tuple {
	t := packet.Tuple{
		Proto:   packet.Proto(xmlNumber[uint8](m.Layer4.Number, err)),
		SrcPort: xmlNumber[uint16](m.Layer4.Sport, err),
		DstPort: xmlNumber[uint16](m.Layer4.Dport, err),
	}
	var broken error
	if t.Src, broken = logAddress(m.Layer3.Src); broken != nil {
		*err = broken
	}
	if t.Dst, broken = logAddress(m.Layer3.Dst); broken != nil {
		*err = broken
	}
	return t
}

// xmlNumber reads a number; what is not there is 0. An error is kept in err.
func xmlNumber[T uint8 | uint16 | uint32](text string, err *error) T {
	if text == "" {
		return 0
	}
	n, broken := logNumber[T](text)
	if broken != nil {
		*err = fmt.Errorf("%q is no number", text)
	}
	return n
}
