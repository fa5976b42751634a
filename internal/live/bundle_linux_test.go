package live_test

import (
	"bytes"
	"errors"
	"hash/fnv"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/capture"
	replaying "github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// saved has a run saved to a bundle, and returns what replays it: the replay's
// report must be the run's. Every other test has its bundle compressed.
func saved(t *testing.T, cfg *live.Config, payload bool) (replay func(*report.Report)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "run.pcapng")
	hash := fnv.New32()
	if _, err := hash.Write([]byte(t.Name())); err != nil {
		t.Fatal(err)
	}
	if hash.Sum32()%2 == 0 {
		file += ".zst"
	}
	var err error
	if cfg.Save, err = evidence.Create(file, evidence.WriterConfig{Payload: payload, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	return func(live *report.Report) {
		t.Helper()
		if err := cfg.Save.Close(); err != nil {
			t.Fatal(err)
		}
		again := replaying.Report(readBundle(t, file))
		if diff := cmp.Diff(printed(t, live), printed(t, again)); diff != "" {
			t.Errorf("the replay of the run differs (-live +replay):\n%s", diff)
		}
	}
}

// readBundle reads a bundle that is whole.
func readBundle(t *testing.T, name string) *evidence.Run {
	t.Helper()
	file, err := capture.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	run, err := evidence.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// printed is a report as programs read it, with all of its fields.
func printed(t *testing.T, r *report.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestBundlePayload connects to a server that answers with a secret. It is in
// the bundle only when the payload is to be kept, and the report is the same.
func TestBundlePayload(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	const secret = "password: correct horse battery staple"
	var listener net.Listener
	if err := n.NetNS("cnt02").Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer listener.Close()
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, secret)
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	for _, payload := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "run.pcapng")
		cfg := connection(n, "cnt01", "172.17.0.3:7")
		cfg.SendBytes = 5000
		var err error
		if cfg.Save, err = evidence.Create(file, evidence.WriterConfig{Payload: payload, Now: time.Now}); err != nil {
			t.Fatal(err)
		}
		r, err := live.Run(t.Context(), cfg)
		if err := errors.Join(err, cfg.Save.Close()); err != nil {
			t.Fatal(err)
		}
		if r.Verdict.Outcome != report.Replied {
			t.Errorf("the server did not answer:\n%s", text(t, r))
		}
		tell(t, printed(t, r), printed(t, replaying.Report(readBundle(t, file))))
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(content, []byte(secret)); got != payload {
			t.Errorf("with payload %v: the secret is in the bundle: %v", payload, got)
		}
		said := slices.ContainsFunc(r.Notes, func(note string) bool { return strings.Contains(note, "--save-payload") })
		if said == payload || bytes.Contains(content, []byte("is left out")) == payload {
			t.Errorf("with payload %v: notes %q", payload, r.Notes)
		}
	}
}

// TestBundleBroken has the file of a bundle reach the largest size that it may
// have: the run goes on to its report, and what is in the file can be read.
func TestBundleBroken(t *testing.T) {
	t.Parallel()
	if !private {
		testenv.Skip(t, "no mounts of its own: a disk that is full would be the machine's")
	}
	n := build(t, "netns-by-hand", lab.Options{})
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=32k"); err != nil {
		t.Fatal(err)
	}
	// What another test starts may hold it for the moment until it runs.
	defer unix.Unmount(disk, unix.MNT_DETACH) //nolint:errcheck // goes with the mounts of the process
	file := filepath.Join(disk, "run.pcapng")
	cfg := probe(n)
	var err error
	if cfg.Save, err = evidence.Create(file, evidence.WriterConfig{Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	r, err := live.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	tell(t, expected(t, n), said(r))
	if err := cfg.Save.Close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("close: %v", err)
	}
	run := readBundle(t, file)
	if len(run.Notes) == 0 || !strings.Contains(run.Notes[0], "ends before the run did") {
		t.Errorf("notes %q", run.Notes)
	}
}

// cut is what a bundle says of a run that was ended while it waited.
func cut(t *testing.T, file string) (run *evidence.Run, begun bool) {
	t.Helper()
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		return nil, false // not even made
	}
	f, err := capture.OpenFile(file)
	if err != nil {
		t.Errorf("open the bundle: %v", err)
		return nil, false
	}
	defer f.Close()
	if run, err = evidence.Read(f); err != nil {
		if !strings.Contains(err.Error(), "ends before it says") && !errors.Is(err, evidence.ErrNotBundle) {
			t.Errorf("read the bundle: %v", err)
		}
		return nil, false
	}
	return run, true
}

// testKilledBundle reads the bundle of a run that was killed while it waited for
// an answer that does not come.
func testKilledBundle(t *testing.T, file string) (sent bool) {
	t.Helper()
	run, begun := cut(t, file)
	if !begun {
		return false
	}
	r := replaying.Report(run)
	for _, problem := range flaws(r) {
		t.Error(problem)
	}
	if r.Verdict.Outcome != report.Inconclusive || !strings.Contains(strings.Join(r.Notes, "\n"), "ends before the run did") {
		t.Errorf("of a run that was killed:\n%s", text(t, r))
	}
	return len(r.Legs.Request) > 0
}

// testInterrupted interrupts the program at any moment. What it prints, if it
// gets so far, is what its bundle says.
func testInterrupted(t *testing.T, n *lab.Network, clean func(*testing.T)) {
	told := 0
	for i, moment := range moments(t, n, signals/2) {
		file := filepath.Join(t.TempDir(), "run.pcapng")
		if i%2 == 1 {
			file += ".zst"
		}
		p := start(t, n, nil, nil, "ping", "8.8.8.8", "--netns", "mynamespace", "--timeout", "1m", "-o", "json", "--save", file)
		pass(t, moment, file)
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		p.wait(t)
		if p.out.Len() == 0 {
			continue
		}
		told++
		live := p.out.String()
		if run, begun := cut(t, file); !begun {
			t.Errorf("%s after its start there is a report and no bundle", moment)
		} else {
			tell(t, live, printed(t, replaying.Report(run)))
		}
		clean(t)
	}
	if told == 0 {
		t.Error("no run printed a report")
	}
}
