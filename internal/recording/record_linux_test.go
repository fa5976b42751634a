package recording_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/recording"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

var update = flag.Bool("update", false, "record the captures, logs and truth of testdata/pcaps")

// private says that the tests have mounts of their own.
var private = lab.Isolated()

func TestMain(m *testing.M) {
	lab.ProxyMain()
	flag.Parse()
	if !*update || private {
		os.Exit(lab.Main(m.Run))
	}
	os.Exit(loggingAll(func() int { return lab.Main(m.Run) }))
}

// settle is how long something may take that the kernel or a tool does by itself.
const settle = 10 * time.Second

// TestRecord makes the recordings: it builds each network, starts tools at the
// points where somebody would who looks for the packets by hand, sends, and
// waits until what they wrote agrees with what is true. With -update what is
// kept is replaced; otherwise it must have the same truth.
func TestRecord(t *testing.T) {
	// tcpdump insists on setgroups(2), which user namespaces deny.
	testenv.Root(t)
	for _, p := range plans() {
		if !*update && !p.again() {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if !*update {
				t.Parallel()
			}
			record(t, &p)
		})
	}
}

// recorder makes one recording.
type recorder struct {
	*testing.T
	plan    *plan
	network *lab.Network
	dir     string
	truth   recording.Truth
	// made are the files and how each was made, for the note.
	made []made
}

type made struct {
	file, netns, command string
}

func record(t *testing.T, p *plan) {
	r := &recorder{T: t, plan: p, dir: t.TempDir()}
	r.build()
	r.prepare()
	r.declare()

	var logs []*tool
	for _, log := range p.logs() {
		logs = append(logs, r.listen(log))
	}
	kernel := r.kernelLog()
	var dumps []*tool
	for _, file := range r.truth.Files {
		dumps = append(dumps, r.dump(file)...)
	}
	for _, f := range p.flows {
		f.send(r)
	}
	r.Cleanup(func() {
		if r.Failed() {
			r.Log(seen(sightings(r.read())))
		}
	})
	r.await("the captures agree with the truth", r.missing)
	for _, log := range logs {
		r.await(log.words[0]+" has written all", log.busy)
	}
	for _, tool := range slices.Concat(logs, dumps) {
		tool.stop()
	}
	kernel()
	r.list()
	r.merge()
	r.pack()
	r.count()
	for _, problem := range problems(r, r.read(), &r.truth) {
		r.Error(problem)
	}
	if r.Failed() {
		return
	}
	if *update {
		r.write()
		return
	}
	all, err := recording.All(recording.Dir)
	if err != nil {
		r.Fatal(err)
	}
	i := slices.IndexFunc(all, func(kept recording.Recording) bool { return kept.Name == p.name })
	if i < 0 {
		r.Fatal("it is not kept")
	}
	if diff := cmp.Diff(all[i].Truth, r.truth, cmp.FilterPath(varies, cmp.Ignore())); diff != "" {
		r.Errorf("truth (-kept +now):\n%s", diff)
	}
}

// varies reports whether a number depends on when packets of TCP happened to
// be sent.
func varies(path cmp.Path) bool {
	field, ok := path.Last().(cmp.StructField)
	return ok && field.Name() == "Packets"
}

// build builds the plan's network.
func (r *recorder) build() {
	s, err := lab.Find(r.plan.scenario)
	if err != nil {
		r.Fatal(err)
	}
	for _, tool := range append(s.Tools(r.plan.options), "tcpdump", "conntrack", "nft", "ip", "gzip", "zstd") {
		testenv.Tool(r, tool)
	}
	if r.plan.noTun {
		hideTun(r)
	}
	r.network, err = lab.Build(r.Context(), r.plan.scenario, r.plan.options)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := r.network.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			r.Error(err)
		}
	})
}

// prepare runs the commands that are typed before the recording.
func (r *recorder) prepare() {
	for _, line := range r.plan.before {
		r.run(lab.HostName, strings.Fields(line)...)
		r.truth.Before = append(r.truth.Before, line)
	}
	switch {
	case r.plan.logged():
		line := "iptables-legacy -t raw -A PREROUTING " + r.plan.trace + " -j TRACE"
		r.run(lab.HostName, strings.Fields(line)...)
		r.truth.Before = append(r.truth.Before, line)
	case r.plan.trace != "":
		r.run(lab.HostName, "nft", r.plan.armed())
		r.truth.Before = append(r.truth.Before, "nft '"+r.plan.armed()+"'")
	}
}

// declare fills in the truth, but for what is counted.
func (r *recorder) declare() {
	network := r.network.Truth()
	r.truth.Scenario, r.truth.Fault, r.truth.Backend = r.plan.scenario, r.plan.options.Break, string(r.network.Options.Backend)
	r.truth.Files = r.plan.files()
	known := slices.Concat(r.plan.translations, network.Translations, r.network.Scenario.Truth(lab.Options{Backend: r.network.Options.Backend}).Translations)
	for _, f := range r.plan.flows {
		flow := f.Flow
		end := lab.Truth{Outcome: "replied", Leg: "reply", Code: "OK"}
		switch {
		case f.broken:
			end = network
		case f.end.Outcome != "":
			end = f.end
		}
		flow.Outcome, flow.Leg, flow.Code = end.Outcome, end.Leg, end.Code
		flow.NetNS, flow.Hook, flow.Rule = end.NetNS, end.Hook, rule(end.Rule)
		for leg, stops := range map[string][]recording.Stop{"request": flow.Request, "reply": flow.Reply} {
			for i := range stops {
				if i > 0 {
					r.translated(&flow, leg, stops[i-1], stops[i], known)
				}
			}
		}
		slices.SortStableFunc(flow.Translations, func(a, b recording.Translation) int { return -strings.Compare(a.Leg, b.Leg) })
		r.truth.Flows = append(r.truth.Flows, flow)
	}
}

// translated adds what the lab knows of a change between two stops.
func (r *recorder) translated(flow *recording.Flow, leg string, before, after recording.Stop, known []lab.Translation) {
	for _, field := range []struct{ name, from, to string }{
		{"source", before.Source, after.Source}, {"destination", before.Destination, after.Destination},
	} {
		if field.from == field.to {
			continue
		}
		i := slices.IndexFunc(known, func(t lab.Translation) bool {
			return t.Leg == leg && t.Field == field.name && bare(field.from) == t.From.String() && bare(field.to) == t.To.String()
		})
		if i < 0 {
			r.Fatalf("%s: nothing is known that makes %s %s of %s", flow.What, field.name, field.to, field.from)
		}
		t := known[i]
		flow.Translations = append(flow.Translations, recording.Translation{
			Kind: t.Kind, NetNS: t.NetNS, Hook: t.Hook, Leg: leg, Field: field.name, From: field.from, To: field.to, Rule: rule(t.Rule),
		})
	}
}

func rule(of lab.Rule) *recording.Rule {
	if of.Text == "" {
		return nil
	}
	return &recording.Rule{Backend: string(of.Backend), Family: of.Family, Table: of.Table, Chain: of.Chain, Text: of.Text}
}

// dump starts a tcpdump for each point of a file and returns when they listen.
func (r *recorder) dump(file recording.File) (all []*tool) {
	for _, point := range file.Points {
		name := file.Name
		if len(file.Points) > 1 || packer(file.Name) != "" {
			name = part(point)
		}
		space, iface, _ := strings.Cut(point, "/")
		words := []string{"tcpdump", "-Z", "root", "-n", "-U"}
		words = append(words, strings.Fields(r.plan.dump)...)
		t := r.start(space, io.Discard, append(words, "-i", iface, "-w", name)...)
		t.until("listening on")
		r.made = append(r.made, made{name, space, t.String()})
		all = append(all, t)
	}
	return all
}

// part is the file of a point that others share a file with.
func part(point string) string { return strings.ReplaceAll(point, "/", "-") + ".pcap" }

// listen starts a tool that writes a log and returns when it hears the kernel.
func (r *recorder) listen(log log) *tool {
	file, err := os.Create(filepath.Join(r.dir, log.file))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { file.Close() })
	t := r.start(log.netns, file, log.words...)
	r.await(t.String()+" listens", func() string {
		if _, ok := t.socket(); !ok {
			return "no socket in /proc/net/netlink"
		}
		return ""
	})
	r.made = append(r.made, made{log.file, log.netns, t.String()})
	return t
}

// list writes the tables as they are afterwards.
func (r *recorder) list() {
	for _, log := range r.plan.lists(r.network.Options.Backend) {
		cmd := r.command(log.words...)
		text, err := r.output(log.netns, cmd)
		if err != nil {
			r.Fatalf("%s: %v: %s", strings.Join(log.words, " "), err, text)
		}
		r.save(log.file, text)
		r.made = append(r.made, made{log.file, log.netns, strings.Join(log.words, " ")})
	}
}

// merge makes one file of those of several interfaces, as dumpcap writes it.
func (r *recorder) merge() {
	for _, file := range r.truth.Files {
		if len(file.Points) < 2 {
			continue
		}
		type packet struct {
			info gopacket.CaptureInfo
			data []byte
		}
		var all []packet
		for i, point := range file.Points {
			f, err := os.Open(filepath.Join(r.dir, part(point)))
			if err != nil {
				r.Fatal(err)
			}
			reader, err := newReader(f)
			for err == nil {
				var p packet
				if p.data, p.info, err = reader.ReadPacketData(); err == nil {
					p.info.InterfaceIndex = i
					all = append(all, p)
				}
			}
			if !errors.Is(err, io.EOF) {
				r.Fatal(err)
			}
			f.Close()
			if err := os.Remove(f.Name()); err != nil {
				r.Fatal(err)
			}
			r.made[slices.IndexFunc(r.made, func(m made) bool { return m.file == part(point) })].file = fmt.Sprintf("%s, interface %d", file.Name, i)
		}
		slices.SortStableFunc(all, func(a, b packet) int { return a.info.Timestamp.Compare(b.info.Timestamp) })
		out, err := os.Create(filepath.Join(r.dir, file.Name))
		if err != nil {
			r.Fatal(err)
		}
		var writer *pcapgo.NgWriter
		for _, point := range file.Points {
			_, name, _ := strings.Cut(point, "/")
			iface := pcapgo.NgInterface{Name: name, LinkType: layers.LinkTypeEthernet, TimestampResolution: 6}
			if writer == nil {
				writer, err = pcapgo.NewNgWriterInterface(out, iface, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{}})
			} else {
				_, err = writer.AddInterface(iface)
			}
			if err != nil {
				r.Fatal(err)
			}
		}
		for _, p := range all {
			if err := writer.WritePacket(p.info, p.data); err != nil {
				r.Fatal(err)
			}
		}
		if err := errors.Join(writer.Flush(), out.Close()); err != nil {
			r.Fatal(err)
		}
	}
}

// pack compresses the files that are to be.
func (r *recorder) pack() {
	for _, file := range r.truth.Files {
		packer := packer(file.Name)
		if packer == "" {
			continue
		}
		name := part(file.Points[0])
		words := append(strings.Fields(packer), name)
		if text, err := r.output(lab.HostName, r.command(words...)); err != nil {
			r.Fatalf("%s: %v: %s", packer, err, text)
		}
		m := &r.made[slices.IndexFunc(r.made, func(m made) bool { return m.file == name })]
		m.file, m.command = file.Name, m.command+"; "+strings.Join(words, " ")
	}
}

// read reads the captures as they are now; those that are still in parts,
// part by part.
func (r *recorder) read() map[string]capture {
	all := make(map[string]capture)
	for _, file := range r.truth.Files {
		if c, err := tryCapture(filepath.Join(r.dir, file.Name), file); err == nil {
			all[file.Name] = c
			continue
		}
		var whole capture
		for _, point := range file.Points {
			c, err := tryCapture(filepath.Join(r.dir, part(point)), recording.File{Points: []string{point}})
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				r.Fatal(err)
			}
			whole.sightings = append(whole.sightings, c.sightings...)
		}
		all[file.Name] = whole
	}
	return all
}

// missing says what the captures have not yet got.
func (r *recorder) missing() string {
	captures := r.read()
	for i := range r.truth.Flows {
		if lack := unfinished(captures, &r.truth.Flows[i], r.plan.flows[i].uneven); lack != "" {
			return lack
		}
	}
	return ""
}

// unfinished says what a flow has not yet shown: a number of packets, or the
// end of a connection, at each stop.
func unfinished(captures map[string]capture, f *recording.Flow, uneven bool) string {
	all := sightings(captures)
	for kind, stops := range legs(f) {
		for _, stop := range stops {
			there := at(all, f, kind, stop)
			if f.Protocol != "tcp" {
				if len(there) != stop.Packets {
					return fmt.Sprintf("%s: %d packets %s > %s at %s, want %d", f.What, len(there), stop.Source, stop.Destination, stop.Point, stop.Packets)
				}
				continue
			}
			opposite := stop
			opposite.Source, opposite.Destination = stop.Destination, stop.Source
			if back := at(all, f, kind, opposite); !closed(there, back) || !closed(back, there) {
				return fmt.Sprintf("%s: the connection has not ended at %s, where %s > %s has %d packets and %d back",
					f.What, stop.Point, stop.Source, stop.Destination, len(there), len(back))
			}
			if first := at(all, f, kind, stops[0]); !uneven && len(first) != len(there) {
				return fmt.Sprintf("%s: %d packets %s > %s at %s, and %d at %s", f.What, len(there), stop.Source, stop.Destination, stop.Point, len(first), stops[0].Point)
			}
		}
	}
	return ""
}

// seen lists what was seen where, each tuple once.
func seen(all []sighting) string {
	var lines []string
	counts := make(map[string]int)
	for _, s := range all {
		line := strings.TrimSpace(fmt.Sprintf("%s %s %s > %s %s %s", s.point, s.protocol, s.source, s.destination, s.kind, s.tunnel))
		if counts[line]++; counts[line] == 1 {
			lines = append(lines, line)
		}
	}
	for i, line := range lines {
		lines[i] = fmt.Sprintf("%s: %d", line, counts[line])
	}
	return strings.Join(lines, "\n")
}

// count completes the truth with numbers that are not declared.
func (r *recorder) count() {
	all := sightings(r.read())
	for i := range r.truth.Flows {
		f := &r.truth.Flows[i]
		for kind, stops := range legs(f) {
			for i := range stops {
				found := at(all, f, kind, stops[i])
				stops[i].Packets, stops[i].Stream = len(found), stream(found)
			}
		}
	}
	for i := range r.truth.Files {
		file := &r.truth.Files[i]
		file.LinkType = readCapture(r, filepath.Join(r.dir, file.Name), *file).linkType
	}
}

// write puts the recording in the place of the old one.
func (r *recorder) write() {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r.truth); err != nil {
		r.Fatal(err)
	}
	r.save(recording.TruthFile, text.Bytes())
	r.save(recording.NoteFile, r.note())
	place := filepath.Join(recording.Dir, r.plan.name)
	if err := os.RemoveAll(place); err != nil {
		r.Fatal(err)
	}
	if err := os.MkdirAll(place, 0o755); err != nil {
		r.Fatal(err)
	}
	files, err := os.ReadDir(r.dir)
	if err != nil {
		r.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(r.dir, file.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(place, file.Name()), text, 0o644)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
}

// note says how the recording was made.
func (r *recorder) note() []byte {
	var b bytes.Buffer
	p := r.plan
	fmt.Fprintf(&b, "# %s\n\n%s\n\n", p.name, p.note)
	broken := "as it is when all is well"
	if p.options.Break != "" {
		fault := r.network.Scenario.Broken(p.options.Break)[0]
		broken = fmt.Sprintf("broken by `%s`: %s", fault.Name, fault.Summary)
	}
	fmt.Fprintf(&b, "The network is the lab's `%s` (`pathtrace demo %[1]s` builds it), %s. The host's rules are written with %s.\n", p.scenario, broken, r.network.Options.Backend)
	for _, remark := range r.network.Remarks {
		fmt.Fprintf(&b, "%s.\n", remark)
	}
	if len(r.truth.Before) > 0 {
		fmt.Fprintf(&b, "\nBefore, on the host:\n\n")
		for _, line := range r.truth.Before {
			fmt.Fprintf(&b, "    %s\n", line)
		}
	}
	fmt.Fprintf(&b, "\n| file | namespace | command |\n|---|---|---|\n")
	for _, m := range r.made {
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", m.file, m.netns, m.command)
	}
	fmt.Fprintf(&b, "\nThen were sent:\n\n")
	for _, f := range r.truth.Flows {
		fmt.Fprintf(&b, "- %s\n", f.What)
	}
	fmt.Fprintf(&b, "\n`truth.json` says what became of them. `go test ./internal/recording -run 'TestRecord/^%s$' -update`\nrecords all of it again, as root.\n", p.name)
	return b.Bytes()
}

// save writes a file of the recording.
func (r *recorder) save(name string, text []byte) {
	if err := os.WriteFile(filepath.Join(r.dir, name), text, 0o644); err != nil {
		r.Fatal(err)
	}
}

// await waits until nothing is missing any more.
func (r *recorder) await(what string, missing func() string) {
	r.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(settle); ; <-tick.C {
		lack := missing()
		if lack == "" {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("%s, after %s: %s", what, settle, lack)
		}
	}
}

// command is a program that runs in the recording's folder.
func (r *recorder) command(words ...string) *exec.Cmd {
	cmd := exec.CommandContext(r.Context(), testenv.Tool(r, words[0]), words[1:]...)
	cmd.Dir = r.dir
	// The usual lock of iptables-legacy is the machine's.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/proc/self/ns/net")
	return cmd
}

// output runs a command in a namespace and returns what it prints.
func (r *recorder) output(space string, cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := r.network.NetNS(space).Do(cmd.Run); err != nil {
		return stderr.Bytes(), err
	}
	return stdout.Bytes(), nil
}

// run runs a command in a namespace.
func (r *recorder) run(space string, words ...string) {
	if text, err := r.output(space, r.command(words...)); err != nil {
		r.Fatalf("%s: %v: %s", strings.Join(words, " "), err, text)
	}
}

// tool is a program that runs while packets are sent.
type tool struct {
	*recorder
	space  *netns.NS
	words  []string
	cmd    *exec.Cmd
	stderr *bufio.Scanner
	pipe   io.Closer
}

func (t *tool) String() string { return strings.Join(t.words, " ") }

// start starts a tool in a namespace.
func (r *recorder) start(space string, stdout io.Writer, words ...string) *tool {
	t := &tool{recorder: r, space: r.network.NetNS(space), words: words, cmd: r.command(words...)}
	t.cmd.Stdout = stdout
	stderr, err := t.cmd.StderrPipe()
	if err == nil {
		err = t.space.Do(t.cmd.Start)
	}
	if err != nil {
		r.Fatalf("%s: %v", t, err)
	}
	t.stderr, t.pipe = bufio.NewScanner(stderr), stderr
	return t
}

// until reads what the tool says of itself until a line has certain words.
func (t *tool) until(words string) {
	for t.stderr.Scan() {
		if strings.Contains(t.stderr.Text(), words) {
			return
		}
	}
	t.Fatalf("%s ended early", t)
}

// stop ends the tool as Ctrl-C does.
func (t *tool) stop() {
	if err := t.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	for t.stderr.Scan() {
		if line := t.stderr.Text(); strings.Contains(line, "dropped by kernel") && !strings.HasPrefix(line, "0 ") {
			t.Errorf("%s: %s", t, line)
		}
	}
	var exit *exec.ExitError
	if err := t.cmd.Wait(); err != nil && !errors.As(err, &exit) { // nft does not catch the signal
		t.Error(err)
	}
}
