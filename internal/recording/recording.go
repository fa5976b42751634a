// Package recording reads testdata/pcaps: what tcpdump, conntrack, nft and
// iptables wrote down about a few packets in networks of the lab, and the truth
// about these packets. Only tests import it.
package recording

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Dir is the folder of the recordings as a package of internal sees it.
const Dir = "../../testdata/pcaps"

// The files of a recording beside the captures. Each log may be missing.
const (
	TruthFile     = "truth.json"
	NoteFile      = "NOTE.md"
	ConntrackFile = "conntrack.txt"       // conntrack -E -o timestamp,id,extended
	TableFile     = "conntrack-table.txt" // conntrack -L
	TraceFile     = "trace.txt"           // nft monitor trace, or the kernel's log
	RulesFile     = "rules.txt"           // nft list ruleset, or iptables-save
	RulesetFile   = "ruleset.txt"         // nft -a list ruleset, of iptables-nft
)

// Recording is one folder.
type Recording struct {
	Name  string
	Truth Truth

	dir string
}

// Path is where a file of the recording is.
func (r *Recording) Path(file string) string { return filepath.Join(r.dir, file) }

// Has reports whether there is such a file.
func (r *Recording) Has(file string) bool {
	_, err := os.Stat(r.Path(file))
	return err == nil
}

// Captures are the paths of the capture files.
func (r *Recording) Captures() []string {
	var all []string
	for _, file := range r.Truth.Files {
		all = append(all, r.Path(file.Name))
	}
	return all
}

// Truth is what happened. The words are those of the report.
type Truth struct {
	// Scenario and Fault are the lab's names, Backend is what the host's rules
	// were written with.
	Scenario string `json:"scenario"`
	Fault    string `json:"fault,omitempty"`
	Backend  string `json:"backend"`
	// Before are commands that were run on the host before the recording.
	Before []string `json:"before,omitempty"`
	Files  []File   `json:"files"`
	// Flows are those that were sent for the recording. The captures also hold
	// what the kernel says by itself, such as neighbour discovery.
	Flows []Flow `json:"flows"`
}

// File is a capture.
type File struct {
	Name string `json:"name"`
	// Points are "namespace/interface", one for each interface of the file;
	// "namespace/any" saw all interfaces of its namespace.
	Points []string `json:"points"`
	// LinkType is the number that the file has for it (LINKTYPE_ of libpcap).
	LinkType int `json:"linktype"`
}

// Flow is an exchange of packets.
type Flow struct {
	// What was sent, in words.
	What     string `json:"what"`
	Protocol string `json:"protocol"`
	// ID is that of ICMP messages.
	ID uint16 `json:"icmp_id,omitempty"`
	// Outcome, Leg and Code are as in a verdict; NetNS, Hook and Rule say where
	// the packets ended, and by what.
	Outcome string `json:"outcome"`
	Leg     string `json:"leg"`
	Code    string `json:"code"`
	NetNS   string `json:"netns,omitempty"`
	Hook    string `json:"hook,omitempty"`
	Rule    *Rule  `json:"rule,omitempty"`
	// Request and Reply are where the packets were seen, in the order of their
	// way.
	Request []Stop `json:"request"`
	Reply   []Stop `json:"reply,omitempty"`
	// Errors are where ICMP errors about the flow were seen.
	Errors       []Stop        `json:"errors,omitempty"`
	Translations []Translation `json:"translations,omitempty"`
}

// Stop is one direction of a flow at one point.
type Stop struct {
	Point string `json:"point"`
	// Source and Destination are "address:port", of ICMP "address".
	Source      string `json:"source"`
	Destination string `json:"destination"`
	// Packets is the number of records in the capture that are packets of the
	// flow: fragments each count, and what "any" saw at several interfaces, or what
	// came by twice, counts each time.
	Packets int `json:"packets"`
	// Stream is the number of bytes of TCP data in them.
	Stream int `json:"stream,omitempty"`
	// Tunnel is what the packets were found in, "VXLAN 1".
	Tunnel string `json:"tunnel,omitempty"`
}

// Translation is what NAT did to one field.
type Translation struct {
	Kind  string `json:"kind"`
	NetNS string `json:"netns"`
	Hook  string `json:"hook"`
	Leg   string `json:"leg"`
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`
	// Rule is nil where conntrack undoes a translation.
	Rule *Rule `json:"rule,omitempty"`
}

// Rule is a rule as its owner finds it.
type Rule struct {
	Backend string `json:"backend"`
	Family  string `json:"family"`
	Table   string `json:"table"`
	Chain   string `json:"chain"`
	Text    string `json:"text"`
}

// All reads the recordings of a folder, in the order of their names.
func All(dir string) ([]Recording, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", TruthFile))
	if err != nil {
		return nil, err
	}
	var all []Recording
	for _, file := range files {
		r := Recording{dir: filepath.Dir(file), Name: filepath.Base(filepath.Dir(file))}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		decoder := json.NewDecoder(strings.NewReader(string(text)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&r.Truth); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no recordings in %s", dir)
	}
	return all, nil
}
