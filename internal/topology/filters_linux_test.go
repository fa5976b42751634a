package topology

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// tc runs tc in the namespace.
func (s *space) tc(line string) {
	s.t.Helper()
	testenv.Tool(s.t, "tc")
	s.must(s.Do(func() error {
		out, err := exec.Command("tc", strings.Split(line, "|")...).CombinedOutput()
		if err != nil {
			s.t.Errorf("tc %s: %s", line, out)
		}
		return err
	}))
}

func (s *space) filters(name string) (filters []Filter, drops uint64) {
	s.t.Helper()
	snapshot, _ := discover(s.t, Config{Host: s.NS, Source: s.NS, Candidates: []Candidate{}, Target: netip.IPv6Loopback()})
	l := snapshot.Namespaces[0].Link(name)
	return l.Filters, l.FilterDrops
}

// TestFilters lists filters of tc as they were added, and sees them count what
// they drop.
func TestFilters(t *testing.T) {
	s := newSpace(t)
	s.must(s.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}))
	s.up("a")
	s.up("b")
	if filters, _ := s.filters("a"); len(filters) > 0 {
		t.Errorf("filters of a new link: %+v", filters)
	}
	s.tc("qdisc|add|dev|a|clsact")
	s.tc("filter|add|dev|a|ingress|pref|7|protocol|ip|u32|match|ip|protocol|1|0xff|classid|1:1")
	s.tc("filter|add|dev|a|egress|pref|3|bpf|direct-action|bytecode|1,6 0 0 2")
	s.tc("qdisc|add|dev|b|ingress")
	want := []Filter{{Preference: 7, Text: "u32"}, {Egress: true, Preference: 3, Text: "bpf direct-action"}}
	filters, before := s.filters("a")
	if diff := cmp.Diff(want, filters); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
	// A link that is up sends of itself: it asks for its neighbours and routers.
	s.address("a", "192.0.2.1/24")
	s.must(s.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_ = unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 2}, Port: 9})
		return nil
	}))
	if _, drops := s.filters("a"); drops <= before {
		t.Errorf("%d packets dropped, before it were %d", drops, before)
	}
	if filters, drops := s.filters("b"); len(filters) > 0 || drops > 0 {
		t.Errorf("a discipline without filters has %+v and dropped %d", filters, drops)
	}
}

// TestPrograms finds XDP and tcx programs with their names.
func TestPrograms(t *testing.T) {
	testenv.Root(t)
	s := newSpace(t)
	s.must(s.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}))
	load := func(name string, kind ebpf.ProgramType) *ebpf.Program {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: kind, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		s.must(err)
		t.Cleanup(func() { _ = program.Close() })
		return program
	}
	xdp, tcx := load("at_the_door", ebpf.XDP), load("way_out", ebpf.SchedCLS)
	s.must(s.Do(func() error {
		a, err := netlink.LinkByName("a")
		if err != nil {
			return err
		}
		attached, err := link.AttachTCX(link.TCXOptions{Interface: a.Attrs().Index, Program: tcx, Attach: ebpf.AttachTCXEgress})
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = attached.Close() })
		return netlink.LinkSetXdpFdWithFlags(a, xdp.FD(), unix.XDP_FLAGS_SKB_MODE)
	}))
	snapshot, _ := discover(t, Config{Host: s.NS, Source: s.NS, Candidates: []Candidate{}, Target: netip.IPv6Loopback()})
	a, b := snapshot.Namespaces[0].Link("a"), snapshot.Namespaces[0].Link("b")
	if a.XDP == nil || a.XDP.Mode != "xdpgeneric" || a.XDP.Name != "at_the_door" || a.XDP.ID == 0 {
		t.Errorf("XDP of a: %+v", a.XDP)
	}
	if len(a.Filters) != 1 || !a.Filters[0].Egress || !strings.HasPrefix(a.Filters[0].Text, "tcx program ") || !strings.HasSuffix(a.Filters[0].Text, " way_out") {
		t.Errorf("filters of a: %+v", a.Filters)
	}
	if b.XDP != nil || len(b.Filters) > 0 {
		t.Errorf("b has %+v and %+v", b.XDP, b.Filters)
	}
}

// TestDumpOptional asks for what no kernel answers, as one that was built without
// queueing disciplines does not answer for those.
func TestDumpOptional(t *testing.T) {
	s := newSpace(t)
	r, err := openReader(s.NS, false)
	s.must(err)
	defer r.close()
	const nobody = 254 // above RTM_MAX, in the place of a RTM_GET
	if _, err := r.dump(nobody, &nl.TcMsg{}, 0); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("the kernel answers %v", err)
	}
	if messages, err := r.dumpOptional(nobody, &nl.TcMsg{}, 0); err != nil || len(messages) > 0 {
		t.Errorf("%d messages, %v; want none", len(messages), err)
	}
	if messages, err := r.dumpOptional(unix.RTM_GETLINK, &nl.IfInfomsg{}, unix.RTM_NEWLINK); err != nil || len(messages) != 1 {
		t.Errorf("%d links, %v; want lo", len(messages), err)
	}
}
