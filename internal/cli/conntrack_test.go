//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/nat"
	"github.com/pathtrace/pathtrace/packet"
)

// translating returns a namespace in which UDP to port 5300 of the loopback
// goes to port 5301, and its name for --netns.
func translating(t *testing.T) (*netns.NS, string) {
	t.Helper()
	testenv.Privileged(t)
	nft := testenv.Tool(t, "nft")
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	doIn(t, ns, func() error {
		load := exec.Command(nft, "-f", "-")
		load.Stdin = strings.NewReader("table ip n {\n chain o {\n type nat hook output priority -100\n udp dport 5300 dnat to :5301\n}\n}\n")
		if out, err := load.CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
		return netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
	})
	return ns, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD())
}

func doIn(t *testing.T, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// datagram sends one packet over the loopback.
func datagram(t *testing.T, ns *netns.NS, from, to uint16) {
	t.Helper()
	address := func(port uint16) *net.UDPAddr {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	}
	doIn(t, ns, func() error {
		conn, err := net.DialUDP("udp4", address(from), address(to))
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("x"))
		return errors.Join(err, conn.Close())
	})
}

// masked replaces what differs from run to run.
func masked(line string) string {
	line = regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{6} `).ReplaceAllString(line, "TIME ")
	return regexp.MustCompile(`flow \d+`).ReplaceAllString(line, "flow ID")
}

func TestConntrackTable(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	ns, name := translating(t)
	datagram(t, ns, 4000, 5300)
	datagram(t, ns, 4000, 5400)
	const (
		translated = "TIME EXISTING udp    127.0.0.1:4000 → 127.0.0.1:5300  destination 127.0.0.1:5300 → 127.0.0.1:5301 (DNAT)  no reply yet  flow ID\n"
		plain      = "TIME EXISTING udp    127.0.0.1:4000 → 127.0.0.1:5400  not translated  no reply yet  flow ID\n"
	)
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"", []string{translated, plain}},
		{"--nat", []string{translated}},
		{"-p udp --nat", []string{translated}},
		{"-p 17 --nat", []string{translated}},
		{"-p tcp", nil},
	} {
		var out, problems bytes.Buffer
		status := run(t.Context(), append([]string{"conntrack", "--netns", name}, strings.Fields(tt.args)...),
			&environment{out: &out, err: &problems})
		if status != exitOK || problems.Len() != 0 {
			t.Fatalf("%q: status %d\n%s", tt.args, status, &problems)
		}
		got := make(map[string]bool)
		for line := range strings.Lines(out.String()) {
			got[masked(line)] = true
		}
		for _, line := range tt.want {
			if !got[line] {
				t.Errorf("%q: no line %q in\n%s", tt.args, line, &out)
			}
		}
		if len(got) != len(tt.want) {
			t.Errorf("%q: %d lines, want %d\n%s", tt.args, len(got), len(tt.want), &out)
		}
	}
}

func TestConntrackFollow(t *testing.T) {
	ns, name := translating(t)
	conntrack := testenv.Tool(t, "conntrack")
	datagram(t, ns, 4000, 5300)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	var problems bytes.Buffer
	status := make(chan int)
	go func() {
		s := run(ctx, []string{"conntrack", "--netns", name, "--follow", "--nat", "-o", "json"}, &environment{out: in, err: &problems})
		_ = in.Close()
		status <- s
	}()
	lines := bufio.NewScanner(out)
	next := func() (record map[string]any) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the output ended: %v\n%s", lines.Err(), &problems)
		}
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(record["time"])); err != nil || record["time_source"] != "read" {
			t.Errorf("time %v, source %v: %v", record["time"], record["time_source"], err)
		}
		return record
	}
	if got := next()["event"]; got != "EXISTING" {
		t.Fatalf("first event %v", got)
	}
	datagram(t, ns, 4001, 5400) // not shown
	datagram(t, ns, 4001, 5300)
	record := next()
	want := map[string]any{
		"event": "NEW", "netns": name, "zone": 0.0, "mark": 0.0, "seen_reply": false, "assured": false,
		"original": map[string]any{"protocol": "udp", "source": "127.0.0.1:4001", "destination": "127.0.0.1:5300"},
		"reply":    map[string]any{"protocol": "udp", "source": "127.0.0.1:5301", "destination": "127.0.0.1:4001"},
		"translations": []any{map[string]any{
			"kind": "dnat", "field": "destination", "from": "127.0.0.1:5300", "to": "127.0.0.1:5301",
		}},
	}
	for field, value := range want {
		if got := record[field]; fmt.Sprint(got) != fmt.Sprint(value) {
			t.Errorf("%s: %v, want %v", field, got, value)
		}
	}
	doIn(t, ns, func() error { return exec.Command(conntrack, "-D", "-p", "udp", "--orig-port-src", "4001").Run() })
	if end := next(); end["event"] != "DESTROY" || end["id"] != record["id"] {
		t.Errorf("at the end %v of %v, want DESTROY of %v", end["event"], end["id"], record["id"])
	}
	cancel()
	if lines.Scan() {
		t.Errorf("after the end: %s", lines.Text())
	}
	if got := <-status; got != exitOK || problems.Len() != 0 {
		t.Errorf("status %d\n%s", got, &problems)
	}
}

// TestConntrackSaved: what is saved of the table gives what was printed.
func TestConntrackSaved(t *testing.T) {
	ns, name := translating(t)
	datagram(t, ns, 4000, 5300)
	datagram(t, ns, 4000, 5400)
	for _, args := range []string{"", "--nat", "-p udp", "-p tcp", "-o json", "-o json --nat"} {
		bundle := filepath.Join(t.TempDir(), "table.pcapng.zst")
		words := strings.Fields(args)
		status, out, problems := runHere(t, append([]string{"conntrack", "--netns", name, "--save", bundle}, words...)...)
		if status != exitOK || problems != "" || (out == "") != (args == "-p tcp") {
			t.Fatalf("%q: status %d\n%s%s", args, status, out, problems)
		}
		form := "text"
		if strings.Contains(args, "json") {
			form = "json"
		}
		if status, again, problems := runHere(t, "analyze", bundle, "-o", form); status != exitOK || problems != "" || again != out {
			t.Errorf("%q: status %d, error %q (-printed +analyzed):\n%s", args, status, problems, cmp.Diff(out, again))
		}
	}
}

// TestConntrackEnded ends conntrack while it follows. What it had printed is what
// its bundle says, whole when it was interrupted, and as far as it came when it was
// killed.
func TestConntrackEnded(t *testing.T) {
	ns, name := translating(t)
	datagram(t, ns, 4000, 5300)
	port := uint16(4001)
	for ending, sig := range map[string]os.Signal{"interrupted.pcapng": os.Interrupt, "interrupted.pcapng.zst": os.Interrupt, "killed.pcapng": os.Kill, "killed.pcapng.zst": os.Kill} {
		for _, form := range []string{"text", "json"} {
			bundle := filepath.Join(t.TempDir(), ending)
			cmd := program(t, nil, "conntrack", "--netns", name, "--follow", "-o", form, "--save", bundle)
			var problems bytes.Buffer
			cmd.Stderr = &problems
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var printed strings.Builder
			lines := bufio.NewScanner(pipe)
			read := func(want string) {
				for lines.Scan() {
					fmt.Fprintln(&printed, lines.Text())
					if strings.Contains(lines.Text(), want) {
						return
					}
				}
				t.Errorf("%s: no %q in\n%s%s", bundle, want, &printed, &problems)
			}
			read("EXISTING")
			for range 3 {
				datagram(t, ns, port, 5300)
				read(fmt.Sprintf("127.0.0.1:%d", port))
				port++
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Error(err)
			}
			for lines.Scan() {
				fmt.Fprintln(&printed, lines.Text())
			}
			_ = cmd.Wait() // it was ended
			status, again, told := runHere(t, "analyze", bundle, "-o", form)
			switch {
			case sig == os.Interrupt && (status != exitOK || again != printed.String() || told != problems.String()):
				t.Errorf("%s: status %d, error %q (-printed +analyzed):\n%s", bundle, status, told, cmp.Diff(printed.String(), again))
			case sig == os.Kill && (status != exitInconclusive || !strings.HasPrefix(again, printed.String()) || !strings.Contains(told, "The bundle ends before the command did")):
				t.Errorf("%s: status %d, error %q (-printed +analyzed):\n%s", bundle, status, told, cmp.Diff(printed.String(), again))
			}
		}
	}
}

func TestConntrackUnprivileged(t *testing.T) {
	var drop []string
	if os.Geteuid() == 0 {
		drop = []string{testenv.Tool(t, "setpriv"), "--bounding-set=-all", "--inh-caps=-all", "--"}
	}
	for _, args := range [][]string{{"conntrack"}, {"conntrack", "--follow"}} {
		cmd := program(t, drop, args...)
		out, err := cmd.CombinedOutput()
		if got, want := string(out), "pathtrace: reading conntrack events needs CAP_NET_ADMIN: run with sudo\n"; got != want {
			t.Errorf("%v: %q, want %q", args, got, want)
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitCannotRun {
			t.Errorf("%v: %v, want status %d", args, err, exitCannotRun)
		}
	}
}

func TestConntrackUsage(t *testing.T) {
	for _, args := range []string{"-p bogus", "-p 0", "-p 256", "-o xml", "argument"} {
		var out, problems bytes.Buffer
		status := run(t.Context(), append([]string{"conntrack"}, strings.Fields(args)...), &environment{out: &out, err: &problems})
		if status != exitCannotRun || out.Len() != 0 || problems.Len() == 0 {
			t.Errorf("%q: status %d, output %q, errors %q", args, status, &out, &problems)
		}
	}
}

func TestConntrackLine(t *testing.T) {
	address := netip.MustParseAddr
	echo := nat.Flow{
		ID: 7, Zone: 3, Status: nat.StatusSrcNAT | nat.StatusSeenReply,
		Original: packet.Tuple{
			Proto: packet.ICMPv6, ICMPType: packet.EchoRequestV6, ICMPID: 38,
			Src: address("fd5a::2"), Dst: address("2001:db8::2"),
		},
		Reply: packet.Tuple{
			Proto: packet.ICMPv6, ICMPType: packet.EchoReplyV6, ICMPID: 38,
			Src: address("2001:db8::2"), Dst: address("2001:db8::1"),
		},
	}
	stamp := echo
	stamp.Original.ICMPType = 13
	connection := nat.Flow{ID: 8, TCPState: "SYN_SENT", Original: packet.Tuple{
		Proto: packet.TCP, Src: address("10.0.0.1"), SrcPort: 1, Dst: address("10.0.0.2"), DstPort: 2,
	}}
	connection.Reply = connection.Original.Inverse()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	later := at.Add(time.Hour)
	for _, tt := range []struct {
		event nat.Event
		want  string
	}{
		{
			nat.Event{Kind: nat.Update, Flow: echo, Time: at, Received: later},
			"03:04:05.000006 UPDATE   icmpv6 fd5a::2 -> 2001:db8::2 id 38  source fd5a::2 -> 2001:db8::1 (masquerade or SNAT)  replied  flow 7  zone 3",
		},
		{
			nat.Event{Kind: nat.Destroy, Flow: stamp, Received: at, Resync: true},
			"03:04:05.000006 DESTROY  icmpv6 fd5a::2 -> 2001:db8::2 type 13 id 38  source fd5a::2 -> 2001:db8::1 (masquerade or SNAT)  replied  flow 7  zone 3  found after lost events",
		},
		{
			nat.Event{Kind: nat.New, Flow: connection, Received: at},
			"03:04:05.000006 NEW      tcp    10.0.0.1:1 -> 10.0.0.2:2  not translated  SYN_SENT, no reply yet  flow 8",
		},
	} {
		if got := conntrackLine(tt.event, tt.event.Flow.Translations(), "->"); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
