package topology

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/vishvananda/netlink"
)

func discover(t testing.TB, config Config) (*Snapshot, *Handles) {
	t.Helper()
	snapshot, handles, err := Discover(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := handles.Close(); err != nil {
			t.Error(err)
		}
	})
	if len(snapshot.Problems) > 0 {
		t.Errorf("problems: %q", snapshot.Problems)
	}
	return snapshot, handles
}

func names(s *Snapshot) []string {
	var names []string
	for _, n := range s.Namespaces {
		names = append(names, n.Name)
	}
	return names
}

func TestDiscover(t *testing.T) {
	c := newChain(t)
	for _, tt := range []struct {
		name   string
		config Config
		want   []string
	}{
		{"to the internet", Config{Target: netip.MustParseAddr("198.51.100.8")}, []string{"cnt", "host", "router", "gateway", "internet", "detour"}},
		{"to the internet, IPv6", Config{Target: netip.MustParseAddr("2001:db8:8::8")}, []string{"cnt", "host", "router", "gateway", "internet", "detour"}},
		{"default route", Config{}, []string{"cnt", "host", "router", "gateway", "internet", "detour"}},
		{"to the neighbour", Config{Target: netip.MustParseAddr("172.26.0.3")}, []string{"cnt", "host", "other"}},
		{"to the host", Config{Target: netip.MustParseAddr("fd00:2::2")}, []string{"cnt", "host"}},
		{"to nobody on the bridge", Config{Target: netip.MustParseAddr("172.26.9.9")}, []string{"cnt", "host"}},
		{"link-local", Config{Target: netip.MustParseAddr("fe80::1234"), Zone: "eth0"}, []string{"cnt", "host"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Host, tt.config.Source, tt.config.SourceName, tt.config.Candidates = c.host.NS, c.cnt.NS, "cnt", c.all
			snapshot, handles := discover(t, tt.config)
			if diff := cmp.Diff(tt.want, names(snapshot)); diff != "" {
				t.Errorf("namespaces (-want +got):\n%s", diff)
			}
			for _, n := range snapshot.Namespaces {
				if ns := handles.Get(n.Name); ns == nil || ns.ID() != n.ID {
					t.Errorf("no handle of %s", n.Name)
				}
			}
		})
	}
}

// TestDiscoverFacts checks what a snapshot says about one network.
func TestDiscoverFacts(t *testing.T) {
	c := newChain(t)
	var snapshot *Snapshot
	for deadline := time.Now().Add(5 * time.Second); ; {
		snapshot, _ = discover(t, Config{
			Host: c.host.NS, Source: c.cnt.NS, SourceName: "cnt", Candidates: c.all,
			Target: netip.MustParseAddr("198.51.100.8"),
		})
		// A bridge hears of a port's carrier some time after the port.
		if port := snapshot.Namespace("host").Link("veth0").Port; port != nil && port.State == "forwarding" || time.Now().After(deadline) {
			break
		}
	}
	if snapshot.Source != "cnt" {
		t.Errorf("source %q", snapshot.Source)
	}
	roles := make(map[string]capture.Role)
	for _, n := range snapshot.Namespaces {
		for _, l := range n.Links {
			roles[n.Name+"/"+l.Name] = l.Role
		}
	}
	wantRoles := map[string]capture.Role{
		"cnt/lo": capture.RoleLoopback, "cnt/eth0": capture.RoleContainer,
		"host/lo": capture.RoleLoopback, "host/br0": capture.RoleBridge, "host/veth0": capture.RoleVeth,
		"host/veth1": capture.RoleVeth, "host/ens0": capture.RoleUplink,
		"router/lo": capture.RoleLoopback, "router/in0": capture.RoleRouter, "router/out0": capture.RoleRouter,
		"gateway/lo": capture.RoleLoopback, "gateway/trust0": capture.RoleRouter, "gateway/untrust0": capture.RoleRouter,
		"gateway/back0": capture.RoleRouter,
		"internet/lo":   capture.RoleLoopback, "internet/eth0": capture.RoleOther,
		"detour/lo": capture.RoleLoopback, "detour/up0": capture.RoleRouter,
	}
	for key := range roles { // tunnel devices that a kernel puts into every namespace
		if _, found := wantRoles[key]; !found && roles[key] == capture.RoleTunnel {
			delete(roles, key)
		}
	}
	if diff := cmp.Diff(wantRoles, roles); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	host := snapshot.Namespace("host")
	for _, tt := range []struct {
		link string
		want Peer
	}{
		{"veth0", Peer{NetNS: "cnt", Interface: "eth0", Index: c.cnt.link("eth0").Attrs().Index}},
		// Not on the way: its name is known, but nothing of it was read.
		{"veth1", Peer{NetNS: "other", Index: c.other.link("eth0").Attrs().Index}},
		{"ens0", Peer{NetNS: "router", Interface: "in0", Index: c.router.link("in0").Attrs().Index}},
	} {
		got := host.Link(tt.link)
		if got.Peer == nil || got.Peer.NetNS != tt.want.NetNS || got.Peer.Index != tt.want.Index ||
			tt.want.Interface != "" && got.Peer.Interface != tt.want.Interface {
			t.Errorf("peer of %s: got %+v, want %+v", tt.link, got.Peer, tt.want)
		}
	}
	if got := host.Link("veth0"); got.Bridge != "br0" || got.Port == nil || got.Port.State != "forwarding" || !got.Up || !got.Carrier {
		t.Errorf("port %+v %+v", got, got.Port)
	}
	if !host.All.ForwardIPv4 || !host.All.ForwardIPv6 || !host.Link("br0").Settings.ForwardIPv4 {
		t.Errorf("forwarding of the host: %+v", host.All)
	}
	if cnt := snapshot.Namespace("cnt"); cnt.All.ForwardIPv4 || cnt.All.ForwardIPv6 {
		t.Errorf("forwarding of the container: %+v", cnt.All)
	}
	if got, want := host.Link("ens0").Addresses[0], netip.MustParsePrefix("10.1.0.2/24"); got != want {
		t.Errorf("address %v, want %v", got, want)
	}
	encoded, err := json.Marshal(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	var decoded Snapshot
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*snapshot, decoded, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("JSON loses something (-want +got):\n%s", diff)
	}
}

// TestDiscoverSwitches reads what was written to the namespace's own /proc/sys.
func TestDiscoverSwitches(t *testing.T) {
	s := newSpace(t)
	s.bridge("br0")
	s.sysctl("ipv4/conf/br0/rp_filter", "2")
	s.sysctl("ipv4/conf/all/rp_filter", "1")
	s.sysctl("ipv4/conf/br0/proxy_arp", "1")
	s.sysctl("ipv6/conf/br0/proxy_ndp", "1")
	s.sysctl("ipv4/conf/br0/ignore_routes_with_linkdown", "1")
	s.sysctl("bridge/bridge-nf-call-iptables", "0")
	s.sysctl("bridge/bridge-nf-call-ip6tables", "1")
	snapshot, _ := discover(t, Config{Host: s.NS, Candidates: []Candidate{}})
	n := &snapshot.Namespaces[0]
	want := Settings{RPFilter: 2, ProxyARP: true, ProxyNDP: true, IgnoreLinkDownIPv4: true}
	if got := n.Link("br0").Settings; got != want {
		t.Errorf("br0: got %+v, want %+v", got, want)
	}
	if n.All.RPFilter != 1 || n.BridgeNF.IPv4 || !n.BridgeNF.IPv6 {
		t.Errorf("all %+v, bridge %+v", n.All, n.BridgeNF)
	}
}

// TestDiscoverNoRoute: the source knows no way, but its cable leads somewhere.
func TestDiscoverNoRoute(t *testing.T) {
	host, source := newSpace(t), newSpace(t)
	host.bridge("br0", "172.19.0.1/24")
	host.connect("veth0", "br0", source, "eth0", "172.19.0.2/24")
	snapshot, _ := discover(t, Config{
		Host: host.NS, Source: source.NS, SourceName: "mynamespace", Candidates: []Candidate{},
		Target: netip.MustParseAddr("198.51.100.8"),
	})
	if got := names(snapshot); !slices.Equal(got, []string{"mynamespace", "host"}) {
		t.Errorf("namespaces %q", got)
	}
	if d := snapshot.Namespaces[0].Lookup(Query{Target: snapshot.Target}); d.Route != nil {
		t.Errorf("route %q", d.Route.Text)
	}
}

// TestDiscoverHidden: a namespace that is not among the candidates is not
// entered, and the peer says so.
func TestDiscoverHidden(t *testing.T) {
	c := newChain(t)
	visible := slices.DeleteFunc(slices.Clone(c.all), func(c Candidate) bool { return c.Name == "gateway" })
	snapshot, _ := discover(t, Config{
		Host: c.host.NS, Source: c.cnt.NS, SourceName: "cnt", Candidates: visible,
		Target: netip.MustParseAddr("2001:db8:8::8"),
	})
	if got := names(snapshot); !slices.Equal(got, []string{"cnt", "host", "router"}) {
		t.Errorf("namespaces %q", got)
	}
	if peer := snapshot.Namespace("router").Link("out0").Peer; peer == nil || peer.NetNS != "" || peer.Interface != "" {
		t.Errorf("peer %+v", peer)
	}
}

// TestDiscoverSameIndex: both ends of the pair have the ifindex of another
// link in each namespace. Only the namespace id tells them apart.
func TestDiscoverSameIndex(t *testing.T) {
	host, first, second := newSpace(t), newSpace(t), newSpace(t)
	host.connect("veth1", "", first, "eth0", "10.0.1.2/24")
	host.connect("veth2", "", second, "eth0", "10.0.2.2/24")
	if first.link("eth0").Attrs().Index != second.link("eth0").Attrs().Index {
		t.Fatal("the indices differ: this test shows nothing")
	}
	host.address("veth1", "10.0.1.1/24")
	host.address("veth2", "10.0.2.1/24")
	candidates := []Candidate{{"first", first.NS}, {"second", second.NS}}
	snapshot, _ := discover(t, Config{Host: host.NS, Candidates: candidates, Target: netip.MustParseAddr("10.0.2.2")})
	if got := names(snapshot); !slices.Equal(got, []string{"host", "second"}) {
		t.Errorf("namespaces %q", got)
	}
}

// TestDiscoverProxyARP: the far end of the pair answers for a gateway that it
// does not have.
func TestDiscoverProxyARP(t *testing.T) {
	host, pod, next := newSpace(t), newSpace(t), newSpace(t)
	host.connect("cali0", "", pod, "eth0", "10.65.0.2/32")
	host.forward()
	host.route(netlink.Route{Scope: netlink.SCOPE_LINK}, "cali0", "10.65.0.2/32", "")
	pod.route(netlink.Route{Scope: netlink.SCOPE_LINK}, "eth0", "169.254.1.1/32", "")
	pod.route(netlink.Route{}, "eth0", "", "169.254.1.1")
	host.connect("ens0", "", next, "eth0", "10.0.0.1/24")
	host.address("ens0", "10.0.0.2/24")
	host.route(netlink.Route{}, "ens0", "", "10.0.0.1")
	config := Config{
		Host: host.NS, Source: pod.NS, SourceName: "pod", Candidates: []Candidate{{"next", next.NS}},
		Target: netip.MustParseAddr("198.51.100.8"),
	}
	snapshot, _ := discover(t, config)
	if got := names(snapshot); !slices.Equal(got, []string{"pod", "host"}) {
		t.Errorf("without a proxy: %q", got)
	}
	host.sysctl("ipv4/conf/cali0/proxy_arp", "1")
	snapshot, _ = discover(t, config)
	if got := names(snapshot); !slices.Equal(got, []string{"pod", "host", "next"}) {
		t.Errorf("with a proxy: %q", got)
	}
}

// TestDiscoverBridges crosses a namespace that only bridges: its own address
// is nobody's gateway.
func TestDiscoverBridges(t *testing.T) {
	host, left, middle, right := newSpace(t), newSpace(t), newSpace(t), newSpace(t)
	host.bridge("br1")
	middle.bridge("br2")
	host.connect("veth1", "br1", left, "eth0", "10.0.0.1/24")
	host.connect("trunk", "br1", middle, "trunk")
	middle.must(middle.LinkSetMaster(middle.link("trunk"), middle.link("br2")))
	middle.connect("veth2", "br2", right, "eth0", "10.0.0.2/24")
	snapshot, _ := discover(t, Config{
		Host: host.NS, Source: left.NS, SourceName: "left", Target: netip.MustParseAddr("10.0.0.2"),
		Candidates: []Candidate{{"right", right.NS}, {"middle", middle.NS}},
	})
	if got := names(snapshot); !slices.Equal(got, []string{"left", "host", "middle", "right"}) {
		t.Errorf("namespaces %q", got)
	}
}

// TestDiscoverMacvlans finds macvlans by the hardware addresses that the link below
// them receives for, from beside, from outside and from that link, of which only
// the first two reach them. (What is outside is where the host's own answers would
// go.)
func TestDiscoverMacvlans(t *testing.T) {
	host, left, right, private, outside := newSpace(t), newSpace(t), newSpace(t), newSpace(t), newSpace(t)
	host.connect("ens0", "", outside, "lan0", "10.0.0.1/24")
	host.address("ens0", "10.0.0.2/24")
	host.macvlan("ens0", netlink.MACVLAN_MODE_BRIDGE, left, "10.0.0.3/24")
	host.macvlan("ens0", netlink.MACVLAN_MODE_BRIDGE, right, "10.0.0.4/24")
	host.macvlan("ens0", netlink.MACVLAN_MODE_PRIVATE, private, "10.0.0.5/24")
	for _, tt := range []struct {
		name, from string
		source     *space
		target     string
		want       []string
		delivered  bool
	}{
		{"beside", "left", left, "10.0.0.4", []string{"left", "host", "right", "outside"}, true},
		{"beside, in private mode", "left", left, "10.0.0.5", []string{"left", "host", "private", "outside"}, false},
		{"from outside", "outside", outside, "10.0.0.5", []string{"outside", "host", "private"}, true},
		{"to the outside", "private", private, "10.0.0.1", []string{"private", "host", "outside"}, true},
		{"from below", "host", host, "10.0.0.3", []string{"host", "outside", "left"}, false},
		{"to what is below", "left", left, "10.0.0.2", []string{"left", "host", "outside"}, false},
		{"to nobody", "left", left, "10.0.0.99", []string{"left", "host", "outside"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			snapshot, _ := discover(t, Config{
				Host: host.NS, Source: tt.source.NS, SourceName: tt.from, Target: netip.MustParseAddr(tt.target),
				Candidates: []Candidate{{"left", left.NS}, {"right", right.NS}, {"private", private.NS}, {"outside", outside.NS}},
			})
			if diff := cmp.Diff(tt.want, names(snapshot)); diff != "" {
				t.Errorf("namespaces (-want +got):\n%s", diff)
			}
			if got := slices.ContainsFunc(snapshot.Steps, func(s Step) bool { return s.Delivered }); got != tt.delivered {
				t.Errorf("delivered: %v", got)
			}
			for name, mode := range map[string]string{"left": "bridge", "right": "bridge", "private": "private"} {
				n := snapshot.Namespace(name)
				if n == nil {
					continue
				}
				if l := n.Link("eth0"); l.Mode != mode || l.Lower == nil || *l.Lower != (Peer{Index: l.Lower.Index, NetNS: "host", Interface: "ens0"}) {
					t.Errorf("%s: mode %q on %+v", name, l.Mode, l.Lower)
				}
			}
		})
	}
}

func TestExtend(t *testing.T) {
	c := newChain(t)
	snapshot, handles := discover(t, Config{
		Host: c.host.NS, Source: c.cnt.NS, SourceName: "cnt", Candidates: c.all, Target: netip.MustParseAddr("10.1.0.2"),
	})
	if got := names(snapshot); !slices.Equal(got, []string{"cnt", "host"}) {
		t.Errorf("before: %q", got)
	}
	added, err := handles.Extend(t.Context(), netip.MustParseAddr("172.26.0.3"))
	if err != nil || !slices.Equal(added, []string{"other"}) {
		t.Errorf("added %q, %v", added, err)
	}
	if got := names(snapshot); !slices.Equal(got, []string{"cnt", "host", "other"}) || handles.Get("other") == nil {
		t.Errorf("after: %q", got)
	}
	if added, err := handles.Extend(t.Context(), netip.MustParseAddr("172.26.0.3")); err != nil || added != nil {
		t.Errorf("again: added %q, %v", added, err)
	}
}

// TestDiscoverProcess finds a namespace that has no name by its process, and calls
// it by the container that it belongs to.
func TestDiscoverProcess(t *testing.T) {
	testenv.Privileged(t)
	process := exec.Command("sleep", "600")
	process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	ns, err := netns.FromPID(process.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	target, host := adopt(t, ns), newSpace(t)
	host.connect("veth0", "", target, "eth0", "10.0.0.2/24")
	host.address("veth0", "10.0.0.1/24")
	snapshot, _ := discover(t, Config{Host: host.NS, Target: netip.MustParseAddr("10.0.0.2")})
	if got := names(snapshot); len(got) != 2 || !strings.HasPrefix(got[1], "pid ") || snapshot.Namespaces[1].ID != ns.ID() {
		t.Errorf("namespaces %q", got)
	}

	for _, tt := range []struct {
		title   string
		running []container.Running
		want    string
		pid     int
	}{
		{"known", []container.Running{{Name: "other", PID: 1, NetNS: 1}, {Name: "web", PID: 7, NetNS: ns.ID()}, {Name: "sidecar", PID: 8, NetNS: ns.ID()}}, "web", 7},
		{"called as the host is", []container.Running{{Name: HostName, PID: 7, NetNS: ns.ID()}}, "host #2", 7},
		{"unknown", []container.Running{{Name: "other", PID: 1, NetNS: 1}}, snapshot.Namespaces[1].Name, 0},
	} {
		t.Run(tt.title, func(t *testing.T) {
			asked := 0
			named, handles := discover(t, Config{Host: host.NS, Target: netip.MustParseAddr("10.0.0.2"), Containers: func() ([]container.Running, error) {
				asked++
				return tt.running, nil
			}})
			if got := names(named); len(got) != 2 || got[1] != tt.want || named.Namespaces[1].PID != tt.pid || asked != 1 {
				t.Errorf("namespaces %q, pid %d, asked %d times", got, named.Namespaces[1].PID, asked)
			}
			if handles.Get(tt.want) == nil || named.Namespaces[0].Link("veth0").Peer.NetNS != tt.want {
				t.Errorf("%s cannot be found by its name: %+v", tt.want, named.Namespaces[0].Link("veth0").Peer)
			}
		})
	}

	refused, handles, err := Discover(t.Context(), Config{Host: host.NS, Target: netip.MustParseAddr("10.0.0.2"), Containers: func() ([]container.Running, error) {
		return nil, errors.New("docker is busy")
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := handles.Close(); err != nil {
		t.Error(err)
	}
	if want := []string{"list the containers: docker is busy"}; !slices.Equal(refused.Problems, want) {
		t.Errorf("problems %q, want %q", refused.Problems, want)
	}
}

func TestDiscoverCancelled(t *testing.T) {
	c := newChain(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := Discover(ctx, Config{Host: c.host.NS, Candidates: c.all, Target: netip.MustParseAddr("198.51.100.8")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// BenchmarkDiscover discovers a path of five namespaces, on a host with two
// hundred containers that are not on it.
func BenchmarkDiscover(b *testing.B) {
	c := newChain(b)
	candidates := slices.Clone(c.all)
	crowd := func() {
		for i := range 200 {
			s := newSpace(b)
			c.host.connect("x"+string(rune('a'+i/26))+string(rune('a'+i%26)), "br0", s, "eth0")
			candidates = append(candidates, Candidate{Name: "x" + time.Duration(i).String(), NetNS: s.NS})
		}
	}
	for _, bench := range []struct {
		name    string
		prepare func()
	}{{"alone", func() {}}, {"crowd", crowd}} {
		bench.prepare()
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				snapshot, handles, err := Discover(b.Context(), Config{
					Host: c.host.NS, Source: c.cnt.NS, SourceName: "cnt", Candidates: candidates,
					Target: netip.MustParseAddr("198.51.100.8"),
				})
				if err != nil || len(snapshot.Namespaces) != 6 {
					b.Fatal(err, names(snapshot))
				}
				if err := handles.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
