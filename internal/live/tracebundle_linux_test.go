package live_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	replaying "github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/evidence"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// judged is a flow as it was judged: its line, and its report as programs read it.
type judged struct {
	Row    report.Flow
	Report string
}

// traced runs a trace and saves it, compressed. The replay must be the trace.
func traced(t *testing.T, cfg live.TraceConfig, during func(context.Context) error) *report.Report {
	t.Helper()
	return tracedTo(t, filepath.Join(t.TempDir(), "run.pcapng.zst"), false, cfg, during)
}

// tracedTo runs a trace and saves it to a file, with the payload or without. The
// replay of what it saved must judge the same flows in the same order, and come to
// the same report.
func tracedTo(t *testing.T, file string, payload bool, cfg live.TraceConfig, during func(context.Context) error) *report.Report {
	t.Helper()
	var err error
	if cfg.Save, err = evidence.Create(file, evidence.WriterConfig{Payload: payload, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	var flows []judged
	if each := cfg.Each; each != nil {
		cfg.Each = func(row report.Flow, r *report.Report) error {
			flows = append(flows, judged{row, printed(t, r)})
			return each(row, r)
		}
	}
	r, err := live.Trace(t.Context(), cfg, during)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Save.Close(); err != nil {
		t.Fatal(err)
	}
	again, flowsAgain := replayed(t, file)
	if len(again.Notes) > 0 || !again.Ended {
		t.Errorf("the bundle: %q, ended %v", again.Notes, again.Ended)
	}
	if diff := cmp.Diff(printed(t, r), printed(t, again.Report)); diff != "" {
		t.Errorf("the replay of the trace differs (-live +replay):\n%s", diff)
	}
	if cfg.Each == nil {
		return r
	}
	if diff := cmp.Diff(flows, flowsAgain); diff != "" {
		t.Errorf("the replayed flows differ (-live +replay):\n%s", diff)
	}
	return r
}

// replayed replays a bundle.
func replayed(t *testing.T, name string) (out *replaying.Replayed, flows []judged) {
	t.Helper()
	file, err := capture.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out, err = replaying.Replay(evidence.Moments(file), func(row report.Flow, r *report.Report) error {
		flows = append(flows, judged{row, printed(t, r)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, flows
}

// TestTraceBundlePayload watches a source whose flows say secrets over TCP and UDP,
// in both directions, some of them for nobody who listens, and pings. They are in
// the bundle only when the payload is to be kept; what a proxy was asked for and
// what an HTTP server answered are in the reports of both.
func TestTraceBundlePayload(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	secrets := []string{"password: correct horse", "token: battery staple", "cookie: it is mine", "nobody hears this"}
	serve(t, n, secrets[1])
	target := netip.MustParseAddr("172.17.0.3")
	for _, payload := range []bool{false, true} {
		var saids []string
		cfg := from(n, "cnt01", target)
		file := filepath.Join(t.TempDir(), "run.pcapng")
		tracedTo(t, file, payload, live.TraceConfig{
			Kind: "watch", Target: "test", Source: cfg.Source, Host: cfg.Host, Candidates: cfg.Candidates, Version: "test", Older: true, Patience: time.Second,
			Wanted: evidence.Selector{Dst: netip.PrefixFrom(target, 24).Masked()},
			Each: func(row report.Flow, _ *report.Report) error {
				saids = append(saids, fmt.Sprintf("%s %s %q %q", row.Tuple.Destination, row.Outcome, row.Asked, row.Said))
				return nil
			},
		}, func(ctx context.Context) error {
			if err := attempt(ctx, n, &lab.Probe{Kind: "ping", Source: "cnt01", Target: target}, timeout); err != nil {
				return err
			}
			return n.NetNS("cnt01").Do(func() error {
				talk("tcp", "172.17.0.3:8080", "CONNECT example.com:443 HTTP/1.1\r\n"+secrets[0]+"\r\n\r\n")
				talk("udp", "172.17.0.3:8081", secrets[2])
				talk("udp", "172.17.0.3:8082", secrets[3])
				return nil
			})
		})
		slices.Sort(saids)
		want := []string{
			`172.17.0.3 replied "" ""`,
			`172.17.0.3:8080 replied "CONNECT example.com:443" "HTTP/1.1 407 Proxy Authentication Required"`,
			`172.17.0.3:8081 replied "" ""`,
			`172.17.0.3:8082 rejected "" ""`,
		}
		if diff := cmp.Diff(want, saids); diff != "" {
			t.Errorf("flows (-want +got):\n%s", diff)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range append(secrets, "an echo of an ordinary program") {
			if got := bytes.Contains(content, []byte(secret)); got != payload {
				t.Errorf("with payload %v: %q is in the bundle: %v", payload, secret, got)
			}
		}
	}
}

// serve answers in cnt02 like a proxy that wants a password, and repeats datagrams.
func serve(t *testing.T, n *lab.Network, secret string) {
	t.Helper()
	var listener net.Listener
	var datagrams net.PacketConn
	if err := n.NetNS("cnt02").Do(func() (err error) {
		if listener, err = net.Listen("tcp4", ":8080"); err != nil {
			return err
		}
		datagrams, err = net.ListenPacket("udp4", ":8081")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		datagrams.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1500))
			_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n"+secret+"\r\n\r\n")
			conn.Close()
		}
	})
	serving.Go(func() {
		buffer := make([]byte, 1500)
		for {
			length, from, err := datagrams.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = datagrams.WriteTo(buffer[:length], from)
		}
	})
}

// talk sends something and waits for an answer, or for the word that there is none.
func talk(network, address, text string) {
	conn, err := net.DialTimeout(network, address, timeout)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	_, _ = io.WriteString(conn, text)
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, int64(len(text))))
}
