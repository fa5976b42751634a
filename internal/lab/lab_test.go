//go:build linux

package lab_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

func TestMain(m *testing.M) {
	os.Exit(lab.Main(func() int {
		status := m.Run()
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return status
	}))
}

// answered is how long a packet may take that must arrive. One that must not
// is seen to be dropped, and not waited for.
const answered = 5 * time.Second

// build builds a network for a test.
func build(t *testing.T, scenario string, options lab.Options) *lab.Network {
	t.Helper()
	testenv.Privileged(t)
	s, err := lab.Find(scenario)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Tool(t, "nft")
	for _, tool := range s.Tools(options) {
		testenv.Tool(t, tool)
	}
	network, err := lab.Build(t.Context(), scenario, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return network
}

// each runs a test for every scenario and backend, as they are written and in a
// disguise, all in parallel.
func each(t *testing.T, test func(t *testing.T, scenario lab.Scenario, options lab.Options)) {
	t.Helper()
	t.Parallel()
	for _, scenario := range lab.Scenarios() {
		for _, backend := range scenario.Backends {
			for seed, form := range []string{"", "/disguised"} {
				t.Run(scenario.Name+"/"+string(backend)+form, func(t *testing.T) {
					t.Parallel()
					test(t, scenario, lab.Options{Backend: backend, Seed: uint64(seed)})
				})
			}
		}
	}
}

// TestHealthy pings through every network, and sees at the far end that the
// source was translated as the truth says, and every rule of the truth in the
// words of the tool that owns it.
func TestHealthy(t *testing.T) {
	each(t, func(t *testing.T, scenario lab.Scenario, options lab.Options) {
		network := build(t, scenario.Name, options)
		truth := network.Truth()
		far := network.NetNS("internet")
		if far == nil {
			far = network.NetNS("cnt2")
		}
		target := network.Scenario.Target // in its disguise
		arrived := listen(t, far, target)
		if err := ping(t, network.NetNS(scenario.Source), target); err != nil {
			t.Fatalf("no answer from %s: %v", target, err)
		}
		var want netip.Addr
		for _, translation := range truth.Translations {
			if translation.Leg == "request" {
				want = translation.To
			}
			if translation.Rule.Text != "" {
				if got := ruleset(t, network, translation.NetNS, translation.Rule); !slices.Contains(got, translation.Rule.Text) {
					t.Errorf("no rule %q in %s:\n%s", translation.Rule.Text, translation.NetNS, strings.Join(got, "\n"))
				}
			}
		}
		if got := arrived(); got != want && !scenario.Bridged { // it arrives as it was sent
			t.Errorf("the request arrived from %s, want %s", got, want)
		}
		if got, want := (lab.Truth{Outcome: truth.Outcome, Leg: truth.Leg, Code: truth.Code}), (lab.Truth{Outcome: "replied", Leg: "reply", Code: "OK"}); !cmp.Equal(got, want) {
			t.Error(cmp.Diff(want, got))
		}
	})
}

// TestBackgroundTraffic sends other flows beside a ping, and counts on the
// host that they went through.
func TestBackgroundTraffic(t *testing.T) {
	each(t, func(t *testing.T, scenario lab.Scenario, options lab.Options) {
		const packets = 20
		network := build(t, scenario.Name, options)
		watch(t, network.Host, "postrouting")
		if err := network.Traffic(t.Context(), packets); err != nil {
			t.Fatal(err)
		}
		if err := ping(t, network.NetNS(scenario.Source), network.Scenario.Target); err != nil {
			t.Errorf("no answer beside other traffic: %v", err)
		}
		// Half are pings, of which one in the source and one in the host.
		want := packets/2 + 1
		switch {
		case scenario.Name == "macvlan":
			want = packets / 4 // no hook for IP sees what comes from the container
		case scenario.Bridged:
			want = packets / 2 // nor here, where the container has no route to the others
		}
		if got := watched(t, network.Host)["before request"]; got != want {
			t.Errorf("%d echo requests left the host, want %d", got, want)
		}
	})
}

// TestTruthOfFaults breaks each network in each way, and sees with counters at
// both ends of the hook that the packet ended where the truth says, at a rule
// that reads as it says.
func TestTruthOfFaults(t *testing.T) {
	each(t, func(t *testing.T, scenario lab.Scenario, options lab.Options) {
		for _, fault := range scenario.Faults {
			if !fault.ByRule() {
				continue // TestCauses of package live
			}
			t.Run(fault.Name, func(t *testing.T) {
				t.Parallel()
				options := options
				options.Break = fault.Name
				network := build(t, scenario.Name, options)
				truth := network.Truth()
				space := network.NetNS(truth.NetNS)
				watch(t, space, truth.Hook)

				send(t, network.NetNS(scenario.Source), scenario.Target)
				counts := await(t, space, "before "+truth.Leg)
				want := map[string]int{"before request": 1, "after request": 1, "before reply": 0, "after reply": 0}
				switch {
				case truth.Leg == "request":
					want["after request"] = 0
				case truth.Hook == "input":
					want["before request"], want["after request"], want["before reply"] = 0, 0, 1
				default:
					want["before reply"] = 1
				}
				if diff := cmp.Diff(want, counts); diff != "" {
					t.Errorf("packets before and after the filters of %s in %s (-want +got):\n%s", truth.Hook, truth.NetNS, diff)
				}

				if got := ruleset(t, network, truth.NetNS, truth.Rule); !slices.Contains(got, truth.Rule.Text) {
					t.Errorf("no rule %q in %s:\n%s", truth.Rule.Text, truth.NetNS, strings.Join(got, "\n"))
				}
				if truth.Rule.Backend != lab.NFT {
					if got := counter(t, network, truth.NetNS, truth.Rule); got != 1 {
						t.Errorf("the rule %q has met %d packets, want 1", truth.Rule.Text, got)
					}
				}
				if truth.Code != "FILTER_POLICY_DROP" && truth.Rule.Comment == "" {
					t.Errorf("the rule %q has no comment", truth.Rule.Text)
				}
				if truth.Outcome == "rejected" {
					return
				}
				repair(t, network, truth)
				if err := ping(t, network.NetNS(scenario.Source), scenario.Target); err != nil {
					t.Errorf("without %q there is no answer either: %v", truth.Rule.Text, err)
				}
			})
		}
	})
}

// TestReject sees the answer that a rejected ping gets.
func TestReject(t *testing.T) {
	each(t, func(t *testing.T, scenario lab.Scenario, options lab.Options) {
		if scenario.Bridged {
			return
		}
		options.Break = lab.Reject
		network := build(t, scenario.Name, options)
		if got := network.Truth(); got.Outcome != "rejected" || got.Code != "FILTER_REJECTED" {
			t.Errorf("truth is %s, %s", got.Outcome, got.Code)
		}
		err := ping(t, network.NetNS(scenario.Source), scenario.Target)
		want := "destination unreachable code 13" // RFC 1812: communication administratively prohibited
		if scenario.Target.Is6() {
			want = "destination unreachable code 1" // RFC 4443
		}
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// TestTruthTranslations says which translations a packet meets before a fault
// ends it, and which can be seen.
func TestTruthTranslations(t *testing.T) {
	scenario, err := lab.Find("ipv6-masquerade")
	if err != nil {
		t.Fatal(err)
	}
	all := []string{
		"masquerade host request", "nptv6 gateway request",
		"nptv6 gateway reply", "masquerade host reply",
	}
	tests := []struct {
		name    string
		options lab.Options
		outcome string
		want    []string
	}{
		{"healthy", lab.Options{}, "replied", all},
		{"opaque", lab.Options{Opaque: true}, "replied", []string{all[0], all[3]}},
		{"before all", lab.Options{Break: "output-drop@cnt01"}, "dropped", nil},
		{"before masquerade", lab.Options{Break: lab.ForwardDrop}, "dropped", nil},
		{"between", lab.Options{Break: "forward-drop@gateway"}, "dropped", all[:1]},
		{"on the way back", lab.Options{Break: "reply-drop@gateway"}, "dropped", all[:3]},
		{"after all", lab.Options{Break: lab.ReplyDrop}, "dropped", all},
		{"in the container", lab.Options{Break: "input-drop@cnt01"}, "dropped", all},
		{"unseen", lab.Options{Break: "forward-drop@gateway", Opaque: true}, "lost", all[:1]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			truth := scenario.Truth(tt.options)
			var got []string
			for _, translation := range truth.Translations {
				got = append(got, fmt.Sprintf("%s %s %s", translation.Kind, translation.NetNS, translation.Leg))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || truth.Outcome != tt.outcome {
				t.Errorf("outcome %s, want %s; translations (-want +got):\n%s", truth.Outcome, tt.outcome, diff)
			}
		})
	}
}

// TestPrefixTranslation checks the truth of NPTv6 against the arithmetic of
// RFC 6296, 3.4 and 3.6: both addresses have the same checksum, and only the
// prefix and the 16 bits behind it differ.
func TestPrefixTranslation(t *testing.T) {
	scenario, err := lab.Find("ipv6-masquerade")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(scenario.Truth(lab.Options{}).Translations, func(translation lab.Translation) bool { return translation.Kind == "nptv6" })
	translation := scenario.Truth(lab.Options{}).Translations[i]
	sum := func(address netip.Addr) (sum uint32) {
		bytes := address.As16()
		for i := 0; i < len(bytes); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(bytes[i:]))
		}
		return sum % 0xffff
	}
	if got, want := sum(translation.To), sum(translation.From); got != want {
		t.Errorf("checksum %#x, want %#x", got, want)
	}
	from, to := translation.From.As16(), translation.To.As16()
	if !bytes.Equal(from[10:], to[10:]) {
		t.Errorf("the last 48 bits of %s and %s differ", translation.From, translation.To)
	}
	if want := netip.MustParsePrefix("2001:db8:ff66::/64"); !want.Contains(translation.To) {
		t.Errorf("%s is not in %s", translation.To, want)
	}
}

// TestNameServer asks the internet's name server from inside, over UDP and TCP.
func TestNameServer(t *testing.T) {
	t.Parallel()
	network := build(t, "ipv6-masquerade", lab.Options{})
	server := netip.AddrPortFrom(network.Scenario.Resolver, 53).String()
	tests := []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want []string
	}{
		{"dns.google.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, []string{"2001:4860:4860::8888", "2001:4860:4860::8844"}},
		{"DNS.Google.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"8.8.8.8", "8.8.4.4"}},
		{"dns.google.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, nil},
		{"no.such.name.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
	}
	for _, proto := range []string{"udp", "tcp"} {
		for _, tt := range tests {
			t.Run(proto+" "+tt.name+" "+tt.kind.String(), func(t *testing.T) {
				t.Parallel()
				answer := lookup(t, network.NetNS("cnt01"), proto, server, tt.name, tt.kind)
				var got []string
				for _, resource := range answer.Answers {
					switch body := resource.Body.(type) {
					case *dnsmessage.AResource:
						got = append(got, netip.AddrFrom4(body.A).String())
					case *dnsmessage.AAAAResource:
						got = append(got, netip.AddrFrom16(body.AAAA).String())
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" || answer.RCode != tt.code {
					t.Errorf("code %s, want %s; answers (-want +got):\n%s", answer.RCode, tt.code, diff)
				}
			})
		}
	}
}

// TestDocker sees what Docker's rules do to the connections that they are for.
func TestDocker(t *testing.T) {
	t.Parallel()
	for _, backend := range []lab.Backend{lab.IPTablesNFT, lab.IPTablesLegacy} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			network := build(t, "docker-bridge", lab.Options{Backend: backend})
			rule := func(table, chain, text string) lab.Rule {
				return lab.Rule{Backend: backend, Family: "ip", Table: table, Chain: chain, Text: text}
			}
			dnat := rule("nat", "DOCKER", "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80")
			accept := rule("filter", "DOCKER", "-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT")
			met := func(rule lab.Rule, want int) {
				t.Helper()
				if got := counter(t, network, lab.HostName, rule); got != want {
					t.Errorf("%q has met %d packets, want %d", rule.Text, got, want)
				}
			}

			if got := fetch(t, network.NetNS("client"), "203.0.113.1:8080"); got != "hello" {
				t.Errorf("published port from outside: %q", got)
			}
			met(dnat, 1)
			met(accept, 1)
			if got := fetch(t, network.Host, "203.0.113.1:8080"); got != "hello" {
				t.Errorf("published port from the host: %q", got)
			}
			met(dnat, 2)
			if got := fetch(t, network.NetNS("cnt01"), "203.0.113.1:8080"); got != "hello" {
				t.Errorf("published port from its own container: %q", got)
			}
			met(dnat, 2) // the proxy answered
			if got := fetch(t, network.NetNS("client"), "203.0.113.1:80"); !strings.Contains(got, "connection refused") {
				t.Errorf("exposed, unpublished port from outside: %q", got)
			}
			if got := fetch(t, network.Host, "172.17.0.2:80"); got != "hello" {
				t.Errorf("container's port from the host: %q", got)
			}
			if err := ping(t, network.NetNS("cnt01"), netip.MustParseAddr("172.17.0.3")); err != nil {
				t.Errorf("container on the same bridge: %v", err)
			}
			isolation := rule("filter", "DOCKER-ISOLATION-STAGE-2", "-A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP")
			met(isolation, 0)
			send(t, network.NetNS("cnt01"), netip.MustParseAddr("172.18.0.2"))
			until(t, "the packet to the other bridge is dropped", func() bool {
				return counter(t, network, lab.HostName, isolation) == 1
			})
		})
	}
}

// TestNames builds with names and files, and sees who can be found and that
// nothing remains.
func TestNames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		opaque bool
		want   []string
	}{
		{"open", false, []string{"cnt01", "gateway", "router"}},
		{"opaque", true, []string{"cnt01"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := os.Stat("/run/machine"); err != nil {
				testenv.Skip(t, "needs a mount namespace of its own")
			}
			named, etc := t.TempDir(), t.TempDir()
			network := build(t, "ipv6-masquerade", lab.Options{Opaque: tt.opaque, NamedDir: named, EtcDir: etc})
			got, resolvers := files(t, named), files(t, filepath.Join(etc, "netns"))
			if diff := cmp.Diff(tt.want, got) + cmp.Diff(tt.want, resolvers); diff != "" {
				t.Errorf("names and files (-want +got):\n%s", diff)
			}
			for _, name := range got {
				space, err := netns.Open(filepath.Join(named, name))
				if err != nil {
					t.Fatal(err)
				}
				if got, want := space.ID(), network.NetNS(name).ID(); got != want {
					t.Errorf("%s is namespace %d, want %d", name, got, want)
				}
				if err := space.Close(); err != nil {
					t.Error(err)
				}
			}
			for _, path := range []string{"resolv.conf", "netns/cnt01/resolv.conf"} {
				text, err := os.ReadFile(filepath.Join(etc, path))
				if got, want := string(text), "nameserver 2001:4860:4860::8844\n"; err != nil || got != want {
					t.Errorf("%s is %q (%v), want %q", path, got, err, want)
				}
			}
			if err := network.Close(); err != nil {
				t.Error(err)
			}
			if left := files(t, named); len(left) > 0 {
				t.Errorf("names left: %v", left)
			}
		})
	}
}

// TestCloseLeavesNothing puts one end of a veth pair into every namespace of a
// network. The kernel removes the pair when the namespace is gone, and only
// then.
func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	witness, err := netns.New()
	if err != nil {
		testenv.Privileged(t)
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = witness.Close() })
	links := func() (count int) {
		if err := witness.Do(func() error {
			all, err := netlink.LinkList()
			count = len(all) - 1 // lo
			return err
		}); errors.Is(err, netlink.ErrDumpInterrupted) {
			return -1
		} else if err != nil {
			t.Fatal(err)
		}
		return count
	}
	spaces := 0
	for _, scenario := range lab.Scenarios() {
		network := build(t, scenario.Name, lab.Options{})
		if err := ping(t, network.NetNS(scenario.Source), scenario.Target); err != nil {
			t.Error(err)
		}
		for _, name := range network.Names() {
			spaces++
			err := witness.Do(func() error {
				attrs := netlink.NewLinkAttrs()
				attrs.Name = fmt.Sprintf("witness%d", spaces)
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "witness", PeerNamespace: netlink.NsFd(network.NetNS(name).FD())})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		until(t, "every namespace has a witness", func() bool { return links() == spaces })
		if err := network.Close(); err != nil {
			t.Error(err)
		}
		if err := network.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
		until(t, "the namespaces of "+scenario.Name+" are gone", func() bool { return links() == 0 })
		spaces = 0
	}
}

// TestWhatDoesNotExist lists what exists.
func TestWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	tests := []struct {
		scenario string
		options  lab.Options
		want     []string
	}{
		{"nowhere", lab.Options{}, []string{`"nowhere"`, "ipv6-masquerade, docker-bridge, vpn-overlap, netns-by-hand"}},
		{"ipv6-masquerade", lab.Options{Break: "luck"}, []string{`"luck"`, "forward-drop, forward-policy, reject, reply-drop"}},
		{"docker-bridge", lab.Options{Backend: lab.NFT}, []string{`"nft"`, "iptables-nft, iptables-legacy"}},
		{"docker-bridge", lab.Options{Opaque: true}, []string{"opaque"}},
		{"netns-by-hand", lab.Options{Engine: true}, []string{"container engine"}},
		{"docker-bridge", lab.Options{Engine: true, Break: lab.ForwardDrop}, []string{"container engine"}},
	}
	for _, tt := range tests {
		_, err := lab.Build(t.Context(), tt.scenario, tt.options)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %+v: got %v, want %s", tt.scenario, tt.options, err, want)
			}
		}
	}
}

// TestCancelled leaves nothing of a network that was not finished.
func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lab.Build(ctx, "netns-by-hand", lab.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// files lists a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(answered); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("in %s not seen that %s", answered, what)
		}
		unix.Select(0, nil, nil, nil, &unix.Timeval{Usec: 1000}) //nolint:errcheck // an early return does no harm
	}
}

// echoSocket opens a raw socket for pings in a namespace.
func echoSocket(t *testing.T, space *netns.NS, ipv6 bool) *icmp.PacketConn {
	t.Helper()
	network, local := "ip4:icmp", "0.0.0.0"
	if ipv6 {
		network, local = "ip6:ipv6-icmp", "::"
	}
	var conn *icmp.PacketConn
	if err := space.Do(func() (err error) {
		conn, err = icmp.ListenPacket(network, local)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// send sends one echo request, if it may, and returns the socket that the
// answer comes to.
func send(t *testing.T, from *netns.NS, target netip.Addr) *icmp.PacketConn {
	t.Helper()
	conn := echoSocket(t, from, target.Is6())
	kind := icmp.Type(ipv4.ICMPTypeEcho)
	if target.Is6() {
		kind = ipv6.ICMPTypeEchoRequest
	}
	request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 38, Seq: 1, Data: []byte("lab")}}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	// A rule in the output hook makes this fail.
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: target.AsSlice()}); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	return conn
}

// ping sends one echo request and waits for the answer. An ICMP error is an
// error.
func ping(t *testing.T, from *netns.NS, target netip.Addr) error {
	t.Helper()
	conn := send(t, from, target)
	defer conn.Close() //nolint:errcheck // it is read only
	proto := 1
	if target.Is6() {
		proto = 58
	}
	if err := conn.SetReadDeadline(time.Now().Add(answered)); err != nil {
		return err
	}
	for buffer := make([]byte, 1500); ; {
		length, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer, err := icmp.ParseMessage(proto, buffer[:length])
		if err != nil {
			return err
		}
		switch answer.Type {
		case ipv4.ICMPTypeEchoReply, ipv6.ICMPTypeEchoReply:
			return nil
		case ipv4.ICMPTypeDestinationUnreachable, ipv6.ICMPTypeDestinationUnreachable:
			return fmt.Errorf("%v code %d", answer.Type, answer.Code)
		}
	}
}

// listen returns a function that returns the source of the echo request that
// has come to a namespace since.
func listen(t *testing.T, space *netns.NS, target netip.Addr) func() netip.Addr {
	t.Helper()
	conn := echoSocket(t, space, target.Is6())
	proto := 1
	if target.Is6() {
		proto = 58
	}
	return func() netip.Addr {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(answered)); err != nil {
			t.Fatal(err)
		}
		for buffer := make([]byte, 1500); ; {
			length, from, err := conn.ReadFrom(buffer)
			if err != nil {
				t.Fatal(err)
			}
			message, err := icmp.ParseMessage(proto, buffer[:length])
			if err != nil {
				t.Fatal(err)
			}
			if message.Type == ipv4.ICMPTypeEcho || message.Type == ipv6.ICMPTypeEchoRequest {
				return netip.MustParseAddr(from.String())
			}
		}
	}
}

// fetch reads a page and returns its last word, or the error.
func fetch(t *testing.T, from *netns.NS, server string) string {
	t.Helper()
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: answered}).Dial("tcp", server)
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer conn.Close() //nolint:errcheck // it is read to its end
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err.Error()
	}
	page, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	words := strings.Fields(string(page))
	return words[len(words)-1]
}

// lookup asks a name server.
func lookup(t *testing.T, from *netns.NS, proto, server, name string, kind dnsmessage.Type) dnsmessage.Message {
	t.Helper()
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 38, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	if err := from.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: answered}).Dial(proto, server)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // nothing was written that could be lost
	if err := conn.SetDeadline(time.Now().Add(answered)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1500)
	if proto == "tcp" {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		t.Fatal(err)
	}
	length, err := conn.Read(buffer)
	if proto == "tcp" && err == nil {
		want := int(binary.BigEndian.Uint16(buffer))
		buffer = buffer[2:]
		for length -= 2; length < want && err == nil; {
			var more int
			more, err = conn.Read(buffer[length:])
			length += more
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(buffer[:length]); err != nil {
		t.Fatal(err)
	}
	if answer.ID != 38 || !answer.Response {
		t.Errorf("the answer has id %d, response %v", answer.ID, answer.Response)
	}
	return answer
}

// command runs a tool in a namespace and returns what it prints.
func command(t *testing.T, space *netns.NS, stdin, tool string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, tool), args...)
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/proc/self/ns/net")
	cmd.Stdin = strings.NewReader(stdin)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := space.Do(cmd.Run); err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, output.String())
	}
	return output.String()
}

// ruleset lists the chain of a rule as its owner prints it, one rule a line,
// its policy last.
func ruleset(t *testing.T, network *lab.Network, name string, rule lab.Rule) []string {
	t.Helper()
	var lines []string
	if rule.Backend == lab.NFT {
		for line := range strings.Lines(command(t, network.NetNS(name), "", "nft", "list", "chain", rule.Family, rule.Table, rule.Chain)) {
			line = strings.TrimSpace(line)
			if _, policy, ok := strings.Cut(line, "; "); ok {
				line = strings.TrimSuffix(policy, ";")
			}
			lines = append(lines, line)
		}
		return lines
	}
	for _, line := range saved(t, network, name, rule) {
		line = regexp.MustCompile(`^\[\d+:\d+\] `).ReplaceAllString(line, "")
		lines = append(lines, regexp.MustCompile(` \[\d+:\d+\]$`).ReplaceAllString(line, ""))
	}
	return lines
}

// saved is what iptables-save says of the table of a rule, with counters.
func saved(t *testing.T, network *lab.Network, name string, rule lab.Rule) []string {
	t.Helper()
	tool := string(rule.Backend)
	if rule.Family == "ip6" {
		tool = strings.Replace(tool, "ip", "ip6", 1)
	}
	return strings.Split(strings.TrimSpace(command(t, network.NetNS(name), "", tool+"-save", "-c", "-t", rule.Table)), "\n")
}

// counter returns how many packets a rule of iptables, or a policy, has met.
func counter(t *testing.T, network *lab.Network, name string, rule lab.Rule) int {
	t.Helper()
	for _, line := range saved(t, network, name, rule) {
		if !strings.Contains(line, rule.Text) {
			continue
		}
		if match := regexp.MustCompile(`\[(\d+):\d+\]`).FindStringSubmatch(line); match != nil {
			return number(t, match[1])
		}
	}
	t.Fatalf("no rule %q in %s", rule.Text, name)
	return 0
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// watch counts echo requests and replies before and after everything that
// filters them in a hook.
func watch(t *testing.T, space *netns.NS, hook string) {
	t.Helper()
	var ruleset strings.Builder
	ruleset.WriteString("table inet watch {\n")
	for _, place := range []struct {
		name     string
		priority int
	}{{"before", -390}, {"after", 390}} {
		fmt.Fprintf(&ruleset, "chain %s { type filter hook %s priority %d;\n", place.name, hook, place.priority)
		for _, leg := range []string{"request", "reply"} {
			fmt.Fprintf(&ruleset, "icmp type echo-%s counter comment \"%s %s\"\n", leg, place.name, leg)
			fmt.Fprintf(&ruleset, "icmpv6 type echo-%s counter comment \"%s %s\"\n", leg, place.name, leg)
		}
		ruleset.WriteString("}\n")
	}
	ruleset.WriteString("}\n")
	command(t, space, ruleset.String(), "nft", "-f", "-")
}

// watched returns the counts of watch, by "before request" and so on.
func watched(t *testing.T, space *netns.NS) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	text := command(t, space, "", "nft", "list", "table", "inet", "watch")
	for _, match := range regexp.MustCompile(`packets (\d+) bytes \d+ comment "([^"]+)"`).FindAllStringSubmatch(text, -1) {
		counts[match[2]] += number(t, match[1])
	}
	return counts
}

// await waits until a packet was counted. Everything up to the verdict on it
// then has happened: the kernel does it in one go.
func await(t *testing.T, space *netns.NS, what string) map[string]int {
	t.Helper()
	var counts map[string]int
	until(t, "a packet was counted "+what, func() bool {
		counts = watched(t, space)
		return counts[what] > 0
	})
	return counts
}

// repair removes what the truth says is wrong.
func repair(t *testing.T, network *lab.Network, truth lab.Truth) {
	t.Helper()
	space, rule := network.NetNS(truth.NetNS), truth.Rule
	tool := string(rule.Backend)
	if rule.Family == "ip6" {
		tool = strings.Replace(tool, "ip", "ip6", 1)
	}
	switch {
	case rule.Backend != lab.NFT && strings.HasPrefix(rule.Text, ":"):
		command(t, space, "", tool, "-w", "-P", rule.Chain, "ACCEPT")
	case rule.Backend != lab.NFT:
		lines := ruleset(t, network, truth.NetNS, rule)
		lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "-A "+rule.Chain+" ") })
		command(t, space, "", tool, "-w", "-D", rule.Chain, strconv.Itoa(slices.Index(lines, rule.Text)+1))
	case strings.HasPrefix(rule.Text, "policy"):
		command(t, space, "", "nft", "add chain "+rule.Family+" "+rule.Table+" "+rule.Chain+" { policy accept; }")
	default:
		list := command(t, space, "", "nft", "-a", "list", "chain", rule.Family, rule.Table, rule.Chain)
		match := regexp.MustCompile(regexp.QuoteMeta(rule.Text) + ` # handle (\d+)`).FindStringSubmatch(list)
		if match == nil {
			t.Fatalf("no rule %q in\n%s", rule.Text, list)
		}
		command(t, space, "", "nft", "delete", "rule", rule.Family, rule.Table, rule.Chain, "handle", match[1])
	}
}
