package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// WriterConfig says how a bundle is written.
type WriterConfig struct {
	// Payload keeps the payload of all packets.
	Payload bool
	// Now is the clock of the records.
	Now func() time.Time
}

// Writer saves the evidence of a run while it comes in. Each piece is in the
// file when its method returns, so a run that is killed leaves what was known.
//
// Its methods may be called from several goroutines. The first error is kept
// for Close, and nothing is written after it. A nil Writer saves nothing.
type Writer struct {
	cfg    WriterConfig
	name   string
	closer []io.Closer

	mu      sync.Mutex // of what follows
	err     error
	file    *capture.Writer
	packed  *frames // nil when it is not compressed
	payload payload
	points  map[place]int32
	version int // of the records
	// how many records there are of these types
	events, drops, attempts, notes int
}

// place is what is an interface of its own in the file.
type place struct {
	point capture.Point
	link  packet.LinkType
}

// Create makes a bundle, or replaces the regular file of that name; only its
// owner may read it. It is compressed when the name ends in .zst. What is no
// regular file is not written to.
func Create(name string, cfg WriterConfig) (*Writer, error) {
	f, err := create(name)
	if err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	w := &Writer{cfg: cfg, name: name, closer: []io.Closer{f}}
	var to io.Writer = f
	if strings.HasSuffix(name, ".zst") {
		if w.packed, err = newFrames(f); err != nil {
			return nil, errors.Join(fmt.Errorf("make bundle %s: %w", name, err), f.Close())
		}
		w.closer = []io.Closer{w.packed, f}
		to = w.packed
	}
	if err := w.begin(to); err != nil {
		return nil, errors.Join(fmt.Errorf("make bundle %s: %w", name, err), f.Close(), os.Remove(name))
	}
	return w, nil
}

// create makes an empty file in place of the one that has the name.
func create(name string) (*os.File, error) {
	if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// begin writes the section and the interface of the records.
func (w *Writer) begin(to io.Writer) (err error) {
	w.points = make(map[place]int32)
	w.payload = newPayload(w.cfg.Payload)
	w.version = runVersion
	comment := `Recorded by pathtrace; "pathtrace analyze" explains it. `
	if w.cfg.Payload {
		comment += "The payload of packets is in it."
	} else {
		comment += "The payload of packets that pathtrace did not send is left out."
	}
	if w.file, err = capture.NewWriter(to, comment); err != nil {
		return err
	}
	_, err = w.file.AddInterface(capture.FileInterface{Name: Interface, Description: "what is no packet: records in JSON", Link: recordLink})
	return err
}

// Begin saves what is known before the first probe. nonce begins the data of
// the run's own pings and datagrams, nil when it sends none.
func (w *Writer) Begin(run *Run, nonce []byte) {
	w.locked(func() {
		w.payload.sent = append(w.payload.sent, nonce)
		w.write(recordRun, 0, new(w.head(run)))
		w.sensors(run)
	})
}

func (w *Writer) head(run *Run) head {
	return head{
		Request: run.Request, Tool: run.Version, Started: run.Started, Waited: run.Waited,
		Name: run.Name, Lookup: run.Lookup, Enter: run.Enter, Topology: run.Topology, Payload: w.cfg.Payload,
	}
}

// Sighting saves a packet. Its frame is needed.
func (w *Writer) Sighting(s *capture.Sighting) { w.locked(func() { w.sighting(s) }) }

func (w *Writer) sighting(s *capture.Sighting) {
	at := place{s.Point, s.Link}
	number, ok := w.points[at]
	if !ok {
		if number, w.err = w.file.AddInterface(capture.FileInterface{Name: s.Point.String(), Description: string(s.Point.Role), Link: s.Link}); w.err != nil {
			return
		}
		w.points[at] = number
		w.write(recordPoint, int(number), s.Point)
	}
	if w.err == nil {
		w.err = w.file.Write(&capture.Record{
			Data: w.payload.frame(s), Time: s.Time.UnixNano(), Length: uint32(s.Length),
			Interface: number, Direction: s.Direction,
		})
	}
}

// Sends says that a packet is the run's own that begins with these data.
func (w *Writer) Sends(data []byte) {
	w.locked(func() { w.payload.sent = append(w.payload.sent, data) })
}

// Event saves what conntrack said.
func (w *Writer) Event(e nat.Event) {
	w.locked(func() {
		w.write(recordEvent, w.events, e)
		w.events++
	})
}

// Hit saves that a packet met a rule; i counts the hits of the run. It is saved
// again under its number when more is known of the rule.
func (w *Writer) Hit(i int, h *ruletrace.Hit) {
	w.locked(func() { w.hit(w.cfg.Now(), i, h) })
}

func (w *Writer) hit(at time.Time, i int, h *ruletrace.Hit) {
	kept := *h
	kept.Header = w.payload.header(h.Header)
	w.writeAt(at, recordHit, i, &kept)
}

// Drop saves that the kernel dropped a packet.
func (w *Writer) Drop(d skbdrop.Drop) {
	w.locked(func() { w.drop(w.cfg.Now(), d) })
}

func (w *Writer) drop(at time.Time, d skbdrop.Drop) {
	d.Header = w.payload.header(d.Header)
	w.writeAt(at, recordDrop, w.drops, &d)
	w.drops++
}

// Try saves a probe, before it is sent and again when its outcome is known; i
// counts the probes of the run.
func (w *Writer) Try(i int, t *Try) { w.locked(func() { w.write(recordTry, i, t) }) }

// End saves what is known when the run ends, and notes in it what was not
// saved.
func (w *Writer) End(run *Run) {
	w.locked(func() {
		run.Notes = append(run.Notes, w.payload.notes()...)
		w.sensors(run)
		w.write(recordEnd, 0, &tail{
			Finished: run.Finished, After: run.After, Chains: run.Chains, NAT: run.NAT, Redirects: run.Redirects,
			Engines: run.Engines, AsksSender: run.AsksSender, Owners: run.Owners, Notes: run.Notes,
		})
	})
}

// List begins the bundle of a command that sends no probe.
func (w *Writer) List(l *Listing) {
	w.locked(func() {
		w.version = listingVersion
		w.write(recordListing, 0, l)
	})
}

// Note saves what such a command says beside its output.
func (w *Writer) Note(text string) {
	w.locked(func() {
		w.write(recordNote, w.notes, text)
		w.notes++
	})
}

// Listed saves that such a command came to its end.
func (w *Writer) Listed() {
	w.locked(func() { w.write(recordEnd, 0, &tail{Finished: w.cfg.Now()}) })
}

// sensors saves what the sensors did so far.
func (w *Writer) sensors(run *Run) {
	for i := range run.Stations {
		w.write(recordStation, i, &run.Stations[i])
	}
	if run.KernelDrops != (report.Sensor{}) {
		w.write(recordDrops, 0, run.KernelDrops)
	}
}

// Close closes the file. It returns the first error of the bundle, which is then
// not complete.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	w.file = nil
	err := w.err
	for _, c := range w.closer {
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		return fmt.Errorf("bundle %s is not complete: %w", w.name, err)
	}
	return nil
}

// locked runs what writes, unless writing ended.
func (w *Writer) locked(write func()) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && w.file != nil {
		write()
	}
}

// write writes a record of this moment; the lock is held.
func (w *Writer) write(kind recordType, id int, data any) { w.writeAt(w.cfg.Now(), kind, id, data) }

func (w *Writer) writeAt(at time.Time, kind recordType, id int, data any) {
	if w.err != nil {
		return
	}
	packed, err := json.Marshal(data)
	if err == nil {
		packed, err = json.Marshal(record{Type: kind, Version: w.version, ID: id, Data: packed})
	}
	if err != nil {
		w.err = fmt.Errorf("record %s: %w", kind, err)
		return
	}
	w.err = w.file.Write(&capture.Record{Data: packed, Time: at.UnixNano(), Length: uint32(len(packed))})
}
