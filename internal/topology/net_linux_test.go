package topology

import (
	"net"
	"net/netip"
	"testing"

	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// space is a namespace of a test.
type space struct {
	t testing.TB
	*netns.NS
	*netlink.Handle
}

func newSpace(t testing.TB) *space {
	t.Helper()
	testenv.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	return adopt(t, ns)
}

// adopt configures a namespace; it is closed at the end of the test.
func adopt(t testing.TB, ns *netns.NS) *space {
	t.Helper()
	handle, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	s := &space{t, ns, handle}
	t.Cleanup(func() {
		handle.Close()
		_ = ns.Close()
	})
	s.up("lo")
	return s
}

func (s *space) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) link(name string) netlink.Link {
	s.t.Helper()
	link, err := s.LinkByName(name)
	s.must(err)
	return link
}

func (s *space) up(name string) {
	s.t.Helper()
	s.must(s.LinkSetUp(s.link(name)))
}

func (s *space) bridge(name string, addresses ...string) {
	s.t.Helper()
	s.must(s.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	s.up(name)
	s.address(name, addresses...)
}

func (s *space) address(name string, addresses ...string) {
	s.t.Helper()
	for _, text := range addresses {
		address, err := netlink.ParseAddr(text)
		s.must(err)
		address.Flags = unix.IFA_F_NODAD
		s.must(s.AddrAdd(s.link(name), address))
	}
}

// connect makes a veth pair to another namespace. With a bridge the near end
// becomes its port.
func (s *space) connect(name, bridge string, far *space, farName string, addresses ...string) {
	s.t.Helper()
	s.must(s.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: farName, PeerNamespace: netlink.NsFd(far.FD()),
	}))
	if bridge != "" {
		s.must(s.LinkSetMaster(s.link(name), s.link(bridge)))
	}
	s.up(name)
	far.up(farName)
	far.address(farName, addresses...)
}

// macvlan puts a macvlan on a link, which is eth0 of another namespace.
func (s *space) macvlan(lower string, mode netlink.MacvlanMode, far *space, address string) {
	s.t.Helper()
	s.must(s.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0", ParentIndex: s.link(lower).Attrs().Index, Namespace: netlink.NsFd(far.FD())}, Mode: mode,
	}))
	far.up("eth0")
	far.address("eth0", address)
}

func (s *space) route(route netlink.Route, device, destination, gateway string) {
	s.t.Helper()
	if device != "" {
		route.LinkIndex = s.link(device).Attrs().Index
	}
	if destination != "" {
		route.Dst = network(destination)
	}
	if gateway != "" {
		route.Gw = net.ParseIP(gateway)
		if route.Dst == nil {
			route.Dst = network("::/0")
			if route.Gw.To4() != nil {
				route.Dst = network("0.0.0.0/0")
			}
		}
	}
	s.must(s.RouteAdd(&route))
}

func network(text string) *net.IPNet {
	prefix := netip.MustParsePrefix(text)
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// sysctl writes a file below /proc/sys/net of the namespace.
func (s *space) sysctl(name, value string) {
	s.t.Helper()
	s.must(s.Do(func() error { return writeFile("/proc/sys/net/"+name, value) }))
}

func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

func (s *space) forward() {
	s.t.Helper()
	s.sysctl("ipv4/ip_forward", "1")
	s.sysctl("ipv6/conf/all/forwarding", "1")
}

// chain is the network of most tests:
//
//	cnt eth0 – host br0 – host ens0 – router – gateway – internet
//
// with a second container on br0, and a way back from the gateway to the host
// that goes by a namespace of its own.
type chain struct {
	cnt, other, host, router, gateway, detour, internet *space
	all                                                 []Candidate
}

func newChain(t testing.TB) *chain {
	t.Helper()
	c := &chain{
		cnt: newSpace(t), other: newSpace(t), host: newSpace(t), router: newSpace(t),
		gateway: newSpace(t), detour: newSpace(t), internet: newSpace(t),
	}
	c.all = []Candidate{
		{"cnt", c.cnt.NS},
		{"other", c.other.NS},
		{"router", c.router.NS},
		{"gateway", c.gateway.NS},
		{"detour", c.detour.NS},
		{"internet", c.internet.NS},
	}
	for _, s := range []*space{c.host, c.router, c.gateway, c.detour} {
		s.forward()
	}
	c.host.bridge("br0", "172.26.0.1/16", "fd00:1::1/64")
	c.host.connect("veth1", "br0", c.other, "eth0", "172.26.0.3/16", "fd00:1::3/64")
	c.host.connect("veth0", "br0", c.cnt, "eth0", "172.26.0.2/16", "fd00:1::2/64")
	c.cnt.route(netlink.Route{}, "eth0", "", "172.26.0.1")
	c.cnt.route(netlink.Route{}, "eth0", "", "fd00:1::1")

	c.host.connect("ens0", "", c.router, "in0", "10.1.0.1/24", "fd00:2::1/64")
	c.host.address("ens0", "10.1.0.2/24", "fd00:2::2/64")
	c.host.route(netlink.Route{}, "ens0", "", "10.1.0.1")
	c.host.route(netlink.Route{}, "ens0", "", "fd00:2::1")

	c.router.connect("out0", "", c.gateway, "trust0", "10.2.0.1/24", "fd00:3::1/64")
	c.router.address("out0", "10.2.0.2/24", "fd00:3::2/64")
	c.router.route(netlink.Route{}, "out0", "", "10.2.0.1")
	c.router.route(netlink.Route{}, "out0", "", "fd00:3::1")

	c.gateway.connect("untrust0", "", c.internet, "eth0", "192.0.2.1/24", "2001:db8::1/64")
	c.gateway.address("untrust0", "192.0.2.2/24", "2001:db8::2/64")
	c.internet.address("lo", "198.51.100.8/32", "2001:db8:8::8/128")
	c.gateway.route(netlink.Route{}, "untrust0", "", "192.0.2.1")
	c.gateway.route(netlink.Route{}, "untrust0", "", "2001:db8::1")

	c.gateway.connect("back0", "", c.detour, "up0", "10.3.0.2/24", "fd00:4::2/64")
	c.gateway.address("back0", "10.3.0.1/24", "fd00:4::1/64")
	c.gateway.route(netlink.Route{}, "back0", "10.1.0.0/24", "10.3.0.2")
	c.gateway.route(netlink.Route{}, "back0", "fd00:2::/64", "fd00:4::2")
	return c
}
