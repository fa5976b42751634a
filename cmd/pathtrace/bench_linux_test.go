package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// runs is the least number of runs that percentiles are taken of, pairs that of
// paired measurements.
const (
	runs  = 40
	pairs = 40
)

// network builds a network in which pathtrace finds namespaces by their names.
func network(b *testing.B, scenario string, options lab.Options) *lab.Network {
	b.Helper()
	testenv.Privileged(b)
	if !isolated {
		testenv.Skip(b, "needs a mount namespace of its own")
	}
	s, err := lab.Find(scenario)
	if err != nil {
		b.Fatal(err)
	}
	for _, tool := range s.Tools(options) {
		testenv.Tool(b, tool)
	}
	options.NamedDir, options.EtcDir = lab.NamedDir, lab.EtcDir
	n, err := lab.Build(b.Context(), scenario, options)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := n.Close(); err != nil {
			b.Errorf("close: %v", err)
		}
	})
	return n
}

// output is what a process wrote, and when.
type output struct {
	text bytes.Buffer
	// marked gets the time when mark was read, unless that is empty; last is
	// when the last byte was read.
	mark   string
	marked chan time.Time
	last   time.Time
}

func (o *output) Write(p []byte) (int, error) {
	now := time.Now()
	o.last = now
	o.text.Write(p)
	if o.mark != "" && bytes.Contains(o.text.Bytes(), []byte(o.mark)) {
		o.mark = ""
		o.marked <- now
	}
	return len(p), nil
}

// armed is what pathtrace -v says when every sensor is ready.
const armed = " armed after "

// percentiles reports the median and the 95th percentile (nearest rank) in
// milliseconds.
func percentiles(b *testing.B, all []time.Duration) {
	b.Helper()
	slices.Sort(all)
	for _, p := range []struct {
		unit string
		rank float64
	}{{"p50-ms", 0.5}, {"p95-ms", 0.95}} {
		at := int(math.Ceil(p.rank*float64(len(all)))) - 1
		b.ReportMetric(float64(all[at])/float64(time.Millisecond), p.unit)
	}
	b.ReportMetric(0, "ns/op") // of b.N, which says nothing here
}

// BenchmarkArmed measures the time from starting the program, as the demo does
// in five namespaces, until all sensors are armed in the four that can be
// entered. The name is resolved in it.
func BenchmarkArmed(b *testing.B) {
	file := program(b)
	n := network(b, "ipv6-masquerade", lab.Options{})
	var all []time.Duration
	for range max(b.N, runs) {
		cmd := exec.Command(file, append(slices.Clone(n.Scenario.Command), "-v")...)
		log := &output{mark: armed, marked: make(chan time.Time, 1)}
		cmd.Stderr = log
		started := time.Now()
		status, err := n.Run(cmd)
		if err != nil || status != 0 || len(log.marked) == 0 {
			b.Fatalf("status %d, %v\n%s", status, err, &log.text)
		}
		all = append(all, (<-log.marked).Sub(started))
	}
	percentiles(b, all)
}

// BenchmarkVerdict measures the time from the last sighting of the probe or
// its answer, by the kernel's clock, until the last byte of the report was
// read.
func BenchmarkVerdict(b *testing.B) {
	file := program(b)
	for _, test := range []struct {
		name    string
		options lab.Options
	}{
		{"replied", lab.Options{}},
		{"dropped/nft", lab.Options{Break: lab.ForwardDrop}},
		{"dropped/iptables-nft", lab.Options{Break: lab.ForwardDrop, Backend: lab.IPTablesNFT}},
		{"dropped/iptables-legacy", lab.Options{Break: lab.ForwardDrop, Backend: lab.IPTablesLegacy}},
	} {
		b.Run(test.name, func(b *testing.B) {
			n := network(b, "ipv6-masquerade", test.options)
			var all []time.Duration
			for range max(b.N, runs) {
				cmd := exec.Command(file, append(slices.Clone(n.Scenario.Command), "--output", "json")...)
				var out, log output
				cmd.Stdout, cmd.Stderr = &out, &log
				if _, err := n.Run(cmd); err != nil {
					b.Fatal(err)
				}
				var r report.Report
				if err := json.Unmarshal(out.text.Bytes(), &r); err != nil {
					b.Fatalf("%v\n%s", err, &log.text)
				}
				if want := n.Truth(); r.Verdict.Code != want.Code || string(r.Verdict.Outcome) != want.Outcome {
					b.Fatalf("%s, %s: %s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Summary)
				}
				all = append(all, out.last.Sub(lastPacket(&r)))
			}
			percentiles(b, all)
		})
	}
}

// lastPacket is when the probe or its answer was last seen.
func lastPacket(r *report.Report) time.Time {
	var last time.Time
	for _, hop := range slices.Concat(r.Legs.Request, r.Legs.Reply) {
		if hop.Time.After(last) {
			last = hop.Time
		}
	}
	return last
}

// The addresses of BenchmarkOtherTraffic: bystander is another one of the
// container, nowhere and unheard are swallowed by the router behind the host.
var (
	swallowed = netip.MustParsePrefix("2001:db8:77::/64")
	nowhere   = netip.MustParseAddr("2001:db8:77::1")
	unheard   = netip.MustParseAddr("2001:db8:77::2")
	traced    = netip.MustParseAddr("fd5a:ceb9:ed8d:1::2")
	bystander = netip.MustParseAddr("fd5a:ceb9:ed8d:1::77")
)

// trace is what others may have to pay for; start returns when it is complete.
type trace struct {
	name  string
	start func(b *testing.B, n *lab.Network, proto packet.Proto) (stop func())
}

// BenchmarkOtherTraffic measures what the packets of others pay for a trace:
// small packets of one flow leave a container, pass the bridge, the conntrack
// and the nftables rules of the host, and are counted where they reach the
// router. As many are sent without the trace as with it, in turns. %slower is
// by how much lower the rate is with the trace, in the median of all pairs, and
// the quartiles say how sure that is; where nothing is traced they show the
// noise of the machine.
//
// "host" is the arming alone on the host, "way" the same in all three
// namespaces that the packets pass, "run" a whole run of the program with all
// its sensors in these three, and "watch" the same of all flows of the container,
// of which this is one.
func BenchmarkOtherTraffic(b *testing.B) {
	file := program(b)
	nothing := trace{"nothing", func(*testing.B, *lab.Network, packet.Proto) func() { return func() {} }}
	host, way := trace{"host", armer(lab.HostName)}, trace{"way", armer("cnt01", lab.HostName, "router")}
	run := trace{"run", func(b *testing.B, n *lab.Network, proto packet.Proto) func() {
		args := []string{"ping6", unheard.String()}
		if !proto.IsICMP() {
			args = []string{"tcp", netip.AddrPortFrom(unheard, 443).String()}
		}
		return startProgram(b, n, file, append(args, "--timeout", "1m")...)
	}}
	watch := trace{"watch", func(b *testing.B, n *lab.Network, _ packet.Proto) func() { return startProgram(b, n, file, "watch") }}
	for _, test := range []struct {
		trace
		sent, traced packet.Proto
	}{
		{nothing, packet.UDP, 0},
		{host, packet.UDP, packet.ICMPv6},
		{host, packet.ICMPv6, packet.ICMPv6},
		{host, packet.TCP, packet.TCP},
		{way, packet.UDP, packet.ICMPv6},
		{way, packet.ICMPv6, packet.ICMPv6},
		{way, packet.TCP, packet.TCP},
		{run, packet.UDP, packet.ICMPv6},
		{run, packet.ICMPv6, packet.ICMPv6},
		{run, packet.TCP, packet.TCP},
		{watch, packet.UDP, 0},
	} {
		name := test.name
		if test.traced != 0 {
			name += fmt.Sprintf("/%s-beside-%s", test.sent, test.traced)
		}
		b.Run(name, func(b *testing.B) {
			n := network(b, "ipv6-masquerade", lab.Options{})
			f := newFlood(b, n, test.sent)
			var slower, rates []float64
			for i := range max(b.N, pairs) {
				var without, with float64
				if i%2 == 0 {
					without = f.rate(b)
				}
				stop := test.start(b, n, test.traced)
				with = f.rate(b)
				stop()
				if i%2 == 1 {
					without = f.rate(b)
				}
				slower = append(slower, 100*(1-with/without))
				rates = append(rates, without)
			}
			slices.Sort(slower)
			slices.Sort(rates)
			b.ReportMetric(slower[len(slower)/4], "%slower-q1")
			b.ReportMetric(slower[len(slower)/2], "%slower")
			b.ReportMetric(slower[len(slower)*3/4], "%slower-q3")
			b.ReportMetric(rates[len(rates)/2], "packets/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// armer adds the arming rules, and nothing else, in the namespaces.
func armer(names ...string) func(*testing.B, *lab.Network, packet.Proto) (stop func()) {
	return func(b *testing.B, n *lab.Network, proto packet.Proto) (stop func()) {
		b.Helper()
		match := ruletrace.Match{Proto: proto, Source: traced, Target: unheard}
		if proto.IsICMP() {
			match.ICMPID, match.Nonce = 4711, []byte("0123456789abcdef")
		} else {
			match.SourcePort, match.TargetPort = 40000, 443
		}
		var armings []*ruletrace.Arming
		for _, name := range names {
			arming, err := ruletrace.Arm(ruletrace.ArmConfig{NetNS: n.NetNS(name), Name: name, Match: match})
			if err != nil {
				b.Fatal(err)
			}
			armings = append(armings, arming)
		}
		return func() {
			for _, arming := range armings {
				if err := arming.Close(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

// startProgram starts a whole run, which goes on until it is stopped: it waits for
// an answer that does not come, or watches.
func startProgram(b *testing.B, n *lab.Network, file string, args ...string) (stop func()) {
	b.Helper()
	cmd := exec.Command(file, append(args, "--container", "cnt01", "-v")...)
	log := &output{mark: armed, marked: make(chan time.Time, 1)}
	cmd.Stderr = log
	if err := n.Host.Do(cmd.Start); err != nil {
		b.Fatal(err)
	}
	stop = func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			b.Fatal(err)
		}
		_ = cmd.Wait() // its status says that it was interrupted
	}
	select {
	case <-log.marked:
	case <-time.After(10 * time.Second):
		stop()
		b.Fatalf("it did not arm\n%s", &log.text)
	}
	return stop
}

// flood sends packets of one flow and counts what arrives.
type flood struct {
	socket int
	packet []byte
	router *netlink.Handle
	link   int
}

const (
	bursts       = 40  // of one measurement
	burstPackets = 100 // less than a millisecond
	warmUp       = 500 // packets before it
)

func newFlood(b *testing.B, n *lab.Network, proto packet.Proto) *flood {
	b.Helper()
	f := &flood{socket: -1}
	router, err := netlink.NewHandleAt(vishnetns.NsHandle(n.NetNS("router").FD()), unix.NETLINK_ROUTE)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(router.Close)
	uplink, err := router.LinkByName("eth0")
	if err != nil {
		b.Fatal(err)
	}
	f.router, f.link = router, uplink.Attrs().Index
	if err := router.RouteAdd(&netlink.Route{
		Type: unix.RTN_BLACKHOLE,
		Dst:  &net.IPNet{IP: swallowed.Addr().AsSlice(), Mask: net.CIDRMask(swallowed.Bits(), 128)},
	}); err != nil {
		b.Fatal(err)
	}
	container, err := netlink.NewHandleAt(vishnetns.NsHandle(n.NetNS("cnt01").FD()), unix.NETLINK_ROUTE)
	if err != nil {
		b.Fatal(err)
	}
	defer container.Close()
	eth0, err := container.LinkByName("eth0")
	if err != nil {
		b.Fatal(err)
	}
	if err := container.AddrAdd(eth0, &netlink.Addr{
		IPNet: &net.IPNet{IP: bystander.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD,
		ValidLft: 3600, PreferedLft: 0, // nobody takes it who is not told to
	}); err != nil {
		b.Fatal(err)
	}
	if err := n.NetNS("cnt01").Do(func() error { return f.open(proto) }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(f.socket) })
	f.warm(b)
	return f
}

// open opens a raw socket of the protocol in the thread's namespace.
func (f *flood) open(proto packet.Proto) error {
	checksum := -1 // where the kernel puts it
	switch proto {
	case packet.UDP: // discard, 4 bytes
		f.packet, checksum = []byte{0x77, 0x77, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4}, 6
	case packet.TCP: // in the middle of a connection
		f.packet, checksum = []byte{0x77, 0x77, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, byte(packet.ACK), 0x77, 0x77, 0, 0, 0, 0}, 16
	case packet.ICMPv6: // whose checksum the kernel always makes
		f.packet = []byte{packet.EchoRequestV6, 0, 0, 0, 0x77, 0x77, 0, 1, 1, 2, 3, 4}
	}
	var err error
	if f.socket, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto)); err != nil {
		return err
	}
	if checksum >= 0 {
		if err := unix.SetsockoptInt(f.socket, unix.SOL_IPV6, unix.IPV6_CHECKSUM, checksum); err != nil {
			return err
		}
	}
	if err := unix.Bind(f.socket, &unix.SockaddrInet6{Addr: bystander.As16()}); err != nil {
		return err
	}
	return unix.Connect(f.socket, &unix.SockaddrInet6{Addr: nowhere.As16()})
}

// warm sends packets until all of them arrive: the address can be used and the
// neighbours are known.
func (f *flood) warm(b *testing.B) {
	b.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		before := f.arrived(b)
		f.send(b, warmUp)
		if f.arrived(b)-before >= warmUp {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatal("the packets do not arrive")
		}
	}
}

// rate returns how many packets arrive in a second of the fastest quarter of
// the bursts: whatever else the machine does comes between the others. All of
// a packet's way is the sender's work, so it has arrived when it was sent.
func (f *flood) rate(b *testing.B) float64 {
	b.Helper()
	f.send(b, warmUp)
	before := f.arrived(b)
	took := make([]time.Duration, bursts)
	for i := range took {
		started := time.Now()
		f.send(b, burstPackets)
		took[i] = time.Since(started)
	}
	if n := f.arrived(b) - before; n < bursts*burstPackets {
		b.Fatalf("%d of %d packets arrived", n, bursts*burstPackets)
	}
	slices.Sort(took)
	return burstPackets / took[bursts/4].Seconds()
}

func (f *flood) send(b *testing.B, packets int) {
	b.Helper()
	for range packets {
		// The send buffer is freed at the router: it cannot fill up.
		if _, err := unix.Write(f.socket, f.packet); err != nil {
			b.Fatal(err)
		}
	}
}

// arrived counts the packets that have reached the router.
func (f *flood) arrived(b *testing.B) uint64 {
	b.Helper()
	link, err := f.router.LinkByIndex(f.link)
	if err != nil {
		b.Fatal(err)
	}
	return link.Attrs().Statistics.RxPackets
}
