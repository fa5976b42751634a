package ruletrace

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	vishnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the kernel does and this package relies on, where no other test shows
// it.

// TestTraceID follows a packet with br_netfilter: behind the bridge the same
// packet has another trace id, so that the id is no identity. The messages have
// 20 bytes from the transport header on.
func TestTraceID(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	r.router.do(func() error {
		if err := vishnetlink.LinkAdd(&vishnetlink.Bridge{LinkAttrs: vishnetlink.LinkAttrs{Name: "br0"}}); err != nil {
			return err
		}
		port, err := vishnetlink.LinkByName("left")
		if err != nil {
			return err
		}
		bridge, err := vishnetlink.LinkByName("br0")
		if err != nil {
			return err
		}
		addr, err := vishnetlink.ParseAddr("10.1.0.1/24")
		if err != nil {
			return err
		}
		if err := vishnetlink.AddrDel(port, addr); err != nil {
			return err
		}
		if err := vishnetlink.AddrAdd(bridge, addr); err != nil {
			return err
		}
		return vishnetlink.LinkSetMaster(port, bridge)
	})
	r.router.up("br0")
	r.router.sysctl("net.bridge.bridge-nf-call-iptables", "1")
	r.router.nft(`table ip user {
	chain pre { type filter hook prerouting priority 0; }
	chain through { type filter hook forward priority 0; }
}`)
	r.router.arm(ArmConfig{Match: echoMatch()})
	l := r.router.listen("router")
	if !r.client.ping(serverAddr, echoID, 1, answered) {
		t.Fatal("no answer")
	}
	ids := make(map[string]uint32)
	for _, h := range l.hits() {
		if h.Header.Tuple.Dst == serverAddr {
			ids[h.Rule.Chain] = h.TraceID
		}
		// 8 bytes are the header of ICMP.
		if got := string(h.Header.Payload); got != string(nonce[:20-8]) {
			t.Errorf("chain %s: payload %q", h.Rule.Chain, got)
		}
	}
	if len(ids) != 2 || ids["pre"] == 0 || ids["pre"] == ids["through"] {
		t.Errorf("trace ids %v, want two", ids)
	}
}

// TestTraceTargetOfLegacy: the TRACE target of legacy iptables sets the mark
// that the arming sets, and while an nftables rule anywhere on the machine sets
// it, nftables traces such packets, too.
func TestTraceTargetOfLegacy(t *testing.T) {
	t.Parallel()
	r, elsewhere := newRouter(t), newSpace(t)
	r.router.nft("table ip user {\n chain through { type filter hook forward priority 0; }\n}")
	r.router.tool("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "icmp", "-j", "TRACE")
	elsewhere.arm(ArmConfig{Match: echoMatch()})
	l := r.router.listen("router")
	if !r.client.ping(serverAddr, echoID, 1, answered) {
		t.Fatal("no answer")
	}
	want := slices.Repeat([]string{"|nft|ip|user|through|through|policy|accept|"}, 2)
	if got := lines(l.hits()); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNFLogThreshold: unless asked for one message at a time, the kernel keeps
// up to 100 of them, a page full or what comes within a second.
func TestNFLogThreshold(t *testing.T) {
	t.Parallel()
	const (
		configure = 4<<8 | 1 // NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG
		command   = 1        // NFULA_CFG_CMD
		bind      = 1        // NFULNL_CFG_CMD_BIND
		group     = 7
		threshold = 100 // NFULNL_QTHRESH_DEFAULT in net/netfilter/nfnetlink_log.c
	)
	s := newSpace(t)
	s.nft("table ip user {\n chain out {\n type filter hook output priority 0\n icmp type echo-request log group 7\n }\n}")
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: s.ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: command, Data: []byte{bind}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: configure, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{unix.AF_UNSPEC, 0, 0, group}, attributes...),
	}); err != nil {
		t.Fatal(err)
	}
	arrived := func() bool {
		more, err := readable(conn)
		if err != nil {
			t.Fatal(err)
		}
		return more
	}
	first := time.Now()
	sent := 0
	for ; !arrived(); sent++ {
		if sent == threshold {
			t.Fatalf("the kernel has sent nothing after %d packets", sent)
		}
		if !s.ping(netip.MustParseAddr("127.0.0.1"), echoID, sent, answered) {
			t.Fatal("no answer")
		}
	}
	if sent < 10 && time.Since(first) < time.Second {
		t.Errorf("the kernel has sent something after %d packets", sent)
	}
}

// TestLegacyTablesAppear: a look at a legacy table makes it, and
// ip_tables_names tells which are there without one.
func TestLegacyTablesAppear(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	tables := func() string {
		ipv4, _, err := LegacyTables(s.ns)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(ipv4)
		return strings.Join(ipv4, " ")
	}
	if got := tables(); got != "" {
		t.Errorf("tables %q, want none", got)
	}
	s.tool("iptables-legacy", "-t", "mangle", "-L")
	if got := tables(); got != "mangle" {
		t.Errorf("tables %q, want mangle", got)
	}
}
