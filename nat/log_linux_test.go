package nat

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/packet"
)

// follow runs conntrack -E with options in the router. It returns when the tool
// listens; the result reads what it has printed when that has so many lines.
func (n *network) follow(t testing.TB, options ...string) func(lines int) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "events"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(n.conntrack, append([]string{"-E"}, options...)...)
	cmd.Stdout = out
	before := n.listeners(t)
	n.do(t, n.router, cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = out.Close()
	})
	eventually(t, "conntrack listens", func() bool { return n.listeners(t) > before })
	return func(lines int) (text string) {
		eventually(t, "conntrack has printed all", func() bool {
			printed, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			text = string(printed)
			return strings.Count(text, "\n") >= lines
		})
		return text
	}
}

// listeners counts the netlink sockets of the router that get conntrack events.
func (n *network) listeners(t testing.TB) (count int) {
	t.Helper()
	n.do(t, n.router, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netlink")
		for line := range strings.Lines(string(text)) {
			// sk Eth Pid Groups: 12 is NETLINK_NETFILTER, the lowest three bits of
			// the mask are NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY.
			if f := strings.Fields(line); len(f) > 3 && f[1] == "12" && strings.HasSuffix(f[3], "7") {
				count++
			}
		}
		return err
	})
	return count
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestReadLogOfTool compares what is read of conntrack's output, in each of its
// forms, with what the kernel tells the watcher about the same flows.
func TestReadLogOfTool(t *testing.T) {
	n := newNetwork(t)
	n.rules(t, masquerade)
	n.do(t, n.router, func() error {
		return sysctl(map[string]string{"netfilter/nf_conntrack_timestamp": "1", "netfilter/nf_conntrack_acct": "1"})
	})
	w := watch(t, Config{NetNS: n.router})
	plain := n.follow(t)
	full := n.follow(t, "-o", "timestamp,id,extended,ktimestamp,labels")
	asXML := n.follow(t, "-o", "xml,ktimestamp")
	began := time.Now()
	n.ping(t, client4, server4, 77)
	n.ping(t, client6, server6, 78)
	n.exchange(t, netip.AddrPortFrom(client4, 4000), netip.AddrPortFrom(inside4, 8080))
	n.exchange(t, netip.AddrPortFrom(client6, 4001), netip.AddrPortFrom(inside6, 8080))
	n.datagrams(t, 5000, 1)

	// The table, in the forms that a list has.
	compare := func(name, text string, want []Flow, lacks func(*Flow)) {
		t.Helper()
		log := readLog(t, text)
		byOriginal := map[packet.Tuple]Flow{}
		for _, e := range log.Events {
			if e.Kind != Existing {
				t.Errorf("%s: %v", name, e.Kind)
			}
			byOriginal[e.Flow.Original] = e.Flow
		}
		seen := 0
		for _, flow := range want {
			lacks(&flow)
			if flow.Original == (packet.Tuple{}) {
				continue
			}
			seen++
			got := byOriginal[flow.Original]
			if got.Timeout-flow.Timeout > 2*time.Second || flow.Timeout-got.Timeout > 2*time.Second {
				t.Errorf("%s: timeout %v, want %v", name, got.Timeout, flow.Timeout)
			}
			got.Timeout = flow.Timeout
			if diff := cmp.Diff(flow, got, cmp.Comparer(equal[netip.Addr]), cmp.Comparer(time.Time.Equal)); diff != "" {
				t.Errorf("%s (-kernel +text)\n%s", name, diff)
			}
		}
		if seen == 0 || len(byOriginal) != seen {
			t.Errorf("%s: %d entries, the kernel has %d", name, len(byOriginal), seen)
		}
	}
	table := func(family string) []Flow {
		flows, err := Dump(t.Context(), n.router, "", Filter{})
		if err != nil {
			t.Fatal(err)
		}
		var of []Flow
		for _, f := range flows {
			if family == "" || f.Original.Src.Is6() == (family == "ipv6") {
				f.Status &= shown
				of = append(of, f)
			}
		}
		return of
	}
	noID := func(f *Flow) { f.ID, f.Started = 0, time.Time{} }
	for _, family := range []string{"ipv4", "ipv6"} {
		compare("-L", n.tool(t, "-L", "-f", family), table(family), noID)
		compare("-L -o extended,id,ktimestamp", n.tool(t, "-L", "-f", family, "-o", "extended,id,ktimestamp,labels"), table(family),
			func(f *Flow) { f.Started = time.Time{} })
		compare("-L -o xml", n.tool(t, "-L", "-f", family, "-o", "xml,ktimestamp"), table(family), func(f *Flow) {
			if f.Original.Proto.IsICMP() {
				*f = Flow{} // it tells no id
			}
		})
	}
	var list string
	n.do(t, n.router, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		list = string(text)
		return err
	})
	compare("/proc/net/nf_conntrack", list, table(""), noID)

	// The events. One flow at a time, so that they end in one order.
	for _, flow := range table("") {
		n.tool(t, "-D", "-f", map[bool]string{false: "ipv4", true: "ipv6"}[flow.Original.Src.Is6()],
			"-p", flow.Original.Proto.String(), "-s", flow.Original.Src.String(), "-d", flow.Original.Dst.String())
	}
	want := events(t, w)
	if end := want[len(want)-1]; end.Kind != Destroy {
		t.Fatalf("the last event is %v of %v", end.Kind, end.Flow.Original)
	}
	for name, text := range map[string]string{
		"-E": plain(len(want)),
		"-E -o timestamp,id,extended,ktimestamp,labels": full(len(want)),
		"-E -o xml,ktimestamp":                          asXML(len(want) + 2), // with its frame
	} {
		got := readLog(t, text).Events
		var expected []Event
		for _, e := range want {
			e.Flow.Status &= shown
			if name != "-E -o xml,ktimestamp" {
				e.Flow.Started = time.Time{}
			} else if e.Flow.Original.Proto.IsICMP() {
				continue
			}
			if name == "-E" {
				e.Flow.ID = 0
			}
			e.Seq, e.Time, e.Received = uint64(len(expected)+1), time.Time{}, time.Time{}
			expected = append(expected, e)
		}
		for i := range got {
			if name == "-E -o timestamp,id,extended,ktimestamp,labels" && (got[i].Received.Before(began) || got[i].Received.After(time.Now())) {
				t.Errorf("%s: received at %v", name, got[i].Received)
			}
			got[i].Received = time.Time{}
		}
		if diff := cmp.Diff(expected, got, cmp.Comparer(equal[netip.Addr]), cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Errorf("%s (-kernel +text)\n%s", name, diff)
		}
	}
}

// shown are the bits of a flow's status that the tool's words and the tuples tell.
const shown = StatusSeenReply | StatusAssured | StatusConfirmed | StatusSrcNAT | StatusDstNAT | StatusDying
