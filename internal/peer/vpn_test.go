//go:build linux

package peer_test

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/peer"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
)

// office is a host with Docker, on a LAN with a way to the internet, where a
// proxy, a repository and the server of a VPN are.
type office struct {
	*peer.Docker
	internet, server, intranet *peer.Machine
	vpn                        *peer.VPN
}

// The addresses of the office's world: those of the container, of the VPN's ends,
// and of what is in the internet.
const (
	container  = "172.17.0.2"
	hostLAN    = "192.168.0.23"
	nameServer = "8.8.8.8:53"
	proxy      = "192.0.2.80:8888"
)

// newOffice builds it. Visible says that the server of the VPN and the intranet can
// be looked into from the host, as containers on it; server are further lines of the
// configuration of the VPN's server.
func newOffice(t *testing.T, visible bool, server ...string) *office {
	t.Helper()
	testenv.Peers(t)
	network, err := lab.Build(t.Context(), "vpn-overlap", lab.Options{Engine: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	o := &office{
		internet: peer.Start(t, network.NetNS("internet")), server: peer.Start(t, network.NetNS("vpn")),
		intranet: peer.Start(t, network.NetNS("intranet")),
	}
	start := peer.StartApart
	if visible {
		start = peer.Start
	}
	m := start(t, network.Host)
	if visible {
		for _, name := range []string{"vpn", "intranet"} {
			m.Name(name, network.NetNS(name))
		}
	}
	m.Pathtrace()
	m.Write("/etc/resolv.conf", "nameserver 8.8.8.8\noptions timeout:1 attempts:1\n")
	o.internet.Write("/etc/resolv.conf", "nameserver 8.8.8.8\n")
	o.Docker = m.Docker()
	o.vpn = peer.OpenVPN(t, o.server, m, netip.MustParseAddr("198.51.100.7"),
		append(server, `push "route 172.16.0.0 255.240.0.0"`, `push "dhcp-option DNS 10.8.0.1"`)...)
	o.internet.Repository(netip.MustParseAddrPort("192.0.2.81:80"))
	o.internet.Tinyproxy(netip.MustParseAddrPort(proxy))
	o.Yum()
	o.configure("http://proxy.example:8888", "http://repository.example/")
	o.YumContainer("cnt01")
	return o
}

// configure tells yum of its proxy and its repository.
func (o *office) configure(proxy, repository string) {
	o.Write("/etc/yum.conf", "[main]\ngpgcheck=0\nreposdir=/etc/yum.repos.d\nplugins=0\nmodule_platform_id=platform:test\n"+
		"timeout=3\nretries=1\nproxy="+proxy+"\n")
	o.Write("/etc/yum.repos.d/test.repo", "[test]\nname=test\nbaseurl="+repository+"\n")
}

// yum runs yum in the container, and returns what pathtrace reports of it and what
// yum itself printed.
func (o *office) yum(t *testing.T, args ...string) (*report.Report, string) {
	t.Helper()
	const file = "/tmp/report.json"
	command := slices.Concat([]string{"exec", "--container", "cnt01", "--output", "json", "--report", file, "--", "yum", "--assumeyes"}, args)
	output, failed := o.Try("pathtrace", command...)
	var r report.Report
	if err := json.Unmarshal([]byte(o.Run("cat", file)), &r); err != nil {
		t.Fatalf("%v, %v\n%s", failed, err, output)
	}
	o.Run("rm", file)
	var status int
	if exit := (*exec.ExitError)(nil); errors.As(failed, &exit) {
		status = exit.ExitCode()
	} else if failed != nil {
		t.Fatal(failed)
	}
	if told := r.Traced.Command; told == nil || told.Status != status {
		t.Errorf("it ended with status %d, and the report says %+v", status, told)
	}
	if t.Failed() || testing.Verbose() {
		var text strings.Builder
		if err := report.Text(&text, &r, report.TextOptions{}); err != nil {
			t.Error(err)
		}
		t.Logf("%s\n%s", output, text.String())
	}
	return &r, output
}

// The words of yum when it has what it wants, and when it does not.
const (
	succeeded  = "Metadata cache created."
	unresolved = "Could not resolve proxy: proxy.example"
	timedOut   = "Curl error (28)"
)

// state is a way in which a VPN client has set up the host.
type state struct {
	name string
	// options are lines of the client's configuration; script is what it runs when
	// the VPN is up, undo takes back what does not go with tun0.
	options      []string
	script, undo string
	// strict is docker0's rp_filter; empty is 2, as systemd has it.
	strict string
	// proxy is what yum asks; empty is the proxy by its name.
	proxy string

	// says is what yum says then, want what pathtrace does of the flow to the
	// place failing, and words are in its summary.
	says    string
	failing string
	want    answer
	words   []string
}

// The ways of a client with docker0's route, and how to have it back.
const (
	routeGone = "ip route del 172.17.0.0/16 dev docker0"
	routeBack = "ip route flush exact 172.17.0.0/16; ip route add 172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1"
)

// there and back are the points of a request that leaves the host by an
// interface, and of its answer that comes to where it belongs.
func there(to, iface, source string) []string {
	return []string{
		"cnt01 eth0 egress, " + container + " → " + to, "host veth* ingress", "host docker0 ingress",
		"host " + iface + " egress, " + source + " → " + to,
	}
}

func back(from, iface, source string) []string {
	return []string{
		"host " + iface + " ingress, " + from + " → " + source,
		"host docker0 egress, " + from + " → " + container, "host veth* egress", "cnt01 eth0 ingress",
	}
}

func masqueraded(source string) []string {
	return []string{"observed host postrouting masquerade source " + container + " → " + source + " by " + masquerade}
}

// swallowed is an answer that goes into the VPN in place of docker0.
func swallowed(from string) answer {
	return answer{
		Outcome: "lost", Code: "SUBNET_OVERLAP", Leg: "reply", NetNS: "host", Interface: "tun0", Rule: unknown,
		Translations: masqueraded(hostLAN), Request: there(from, "eth0", hostLAN),
		Reply: []string{"host eth0 ingress, " + from + " → " + hostLAN, "host tun0 egress, " + from + " → " + container},
	}
}

// states are the variants of the network, but for those of a smaller MTU.
var states = []state{
	{
		name: "contained", says: succeeded, // the longer prefix is docker0's own
		want:  replied("cnt01", "eth0", masqueraded(hostLAN), there(nameServer, "eth0", hostLAN), back(nameServer, "eth0", hostLAN)),
		words: []string{"The network is in order"},
	},
	{
		name: "bridge route gone", script: routeGone, undo: routeBack,
		says: unresolved, failing: nameServer, want: swallowed(nameServer),
		words: []string{`because of the route "172.16.0.0/12 via 10.8.0.1 dev tun0"`, "docker0 has no route of its own"},
	},
	{
		name: "bridge route gone, proxy by address", script: routeGone, undo: routeBack, proxy: "http://" + proxy,
		says: timedOut, failing: proxy, want: swallowed(proxy),
		words: []string{`because of the route "172.16.0.0/12 via 10.8.0.1 dev tun0"`},
	},
	{
		name: "bridge route gone, strict", script: routeGone, undo: routeBack, strict: "1",
		says: unresolved, failing: nameServer,
		want: answer{
			Outcome: "dropped", Code: "SUBNET_OVERLAP", Leg: "request", NetNS: "host", Interface: "docker0", Rule: unknown,
			Request: there(nameServer, "", "")[:3],
		},
		words: []string{"rp_filter is 1 there", `because of the route "172.16.0.0/12 via 10.8.0.1 dev tun0"`},
	},
	{
		name: "same prefix", options: []string{"route 172.17.0.0 255.255.0.0 vpn_gateway 50"},
		script: routeGone + "; ip route add 172.17.0.0/16 dev docker0 src 172.17.0.1 metric 425", undo: routeBack,
		says: unresolved, failing: nameServer, want: swallowed(nameServer),
		words: []string{`because of the route "172.17.0.0/16 via 10.8.0.1 dev tun0 metric 50"`},
	},
	{
		name: "two halves", options: []string{"route 172.17.0.0 255.255.128.0", "route 172.17.128.0 255.255.128.0"},
		says: unresolved, failing: nameServer, want: swallowed(nameServer),
		words: []string{`because of the route "172.17.0.0/17 via 10.8.0.1 dev tun0"`, "the longer prefix comes first"},
	},
	{
		name:   "policy rule",
		script: "ip route add 172.16.0.0/12 via 10.8.0.1 dev tun0 table 100; ip rule add to 172.16.0.0/12 lookup 100 priority 100",
		undo:   "ip rule del priority 100",
		says:   unresolved, failing: nameServer, want: swallowed(nameServer),
		words: []string{"to 172.16.0.0/12 lookup 100"},
	},
	{
		name: "DNS taken", options: []string{"route 8.8.8.8 255.255.255.255"},
		says: unresolved, failing: nameServer,
		want: answer{
			Outcome: "lost", Code: "VPN_TAKES_TRAFFIC", Leg: "request", NetNS: "host", Interface: "tun0", Rule: unknown,
			Translations: masqueraded("10.8.0.2"), Request: there(nameServer, "tun0", "10.8.0.2"),
		},
		words: []string{`"8.8.8.8 via 10.8.0.1 dev tun0"`},
	},
}

// TestVPN is yum in a container while a real VPN is up that takes 172.16.0.0/12.
func TestVPN(t *testing.T) {
	t.Parallel()
	o := newOffice(t, false)
	t.Run("no VPN", func(t *testing.T) { o.hold(t, states[0]) })
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			o.vpn.Connect(s.script, s.options...)
			defer o.vpn.Disconnect()
			if s.undo != "" {
				defer o.Run("sh", "-c", s.undo)
			}
			o.hold(t, s)
		})
	}
	t.Run("DNS through the VPN", o.resolvedBehind)
	t.Run("answers", o.complaints)
	t.Run("moved", o.moved)
}

// hold holds what pathtrace says of yum against what is true.
func (o *office) hold(t *testing.T, s state) *report.Report {
	t.Helper()
	o.configure(cmp.Or(s.proxy, "http://proxy.example:8888"), "http://repository.example/")
	o.Run("sh", "-c", "echo "+cmp.Or(s.strict, "2")+" >/proc/sys/net/ipv4/conf/docker0/rp_filter")
	r, output := o.yum(t, "makecache", "--refresh")
	if !strings.Contains(output, s.says) {
		t.Errorf("yum does not say %q:\n%s", s.says, output)
	}
	if diff := gocmp.Diff(s.want, said(r)); diff != "" {
		t.Errorf("what pathtrace says (-want +got):\n%s", diff)
	}
	for _, words := range s.words {
		if !strings.Contains(r.Verdict.Summary, words) {
			t.Errorf("no %q in %q", words, r.Verdict.Summary)
		}
	}
	if s.failing != "" {
		if f := explained(r); f == nil || f.Tuple.Destination != s.failing || f.Owner == "" || f.Code != s.want.Code {
			t.Errorf("the flow that failed first is %+v, want one to %s", f, s.failing)
		}
	} else if len(r.Findings) > 0 {
		t.Errorf("it works, and there are findings: %+v", r.Findings)
	}
	return r
}

// explained is the flow that the report explains.
func explained(r *report.Report) *report.Flow {
	for i := range r.Flows {
		if r.Flows[i].Number == r.Traced.Explained {
			return &r.Flows[i]
		}
	}
	return nil
}

// again starts the container anew.
func (o *office) again() {
	o.Run("docker", "rm", "--force", "cnt01")
	o.YumContainer("cnt01")
}

// resolvedBehind has the VPN push a name server, which new containers ask.
func (o *office) resolvedBehind(t *testing.T) {
	o.vpn.Connect(`sed "s/8.8.8.8/${foreign_option_1##* }/" /etc/resolv.conf >/run/resolv.conf; cp /etc/resolv.conf /run/before; cp /run/resolv.conf /etc/resolv.conf`)
	o.again()
	defer func() {
		o.vpn.Disconnect()
		o.Run("cp", "/run/before", "/etc/resolv.conf")
		o.again()
	}()
	r := o.hold(t, state{
		says: succeeded, words: []string{"The network is in order"},
		want: replied("cnt01", "eth0", masqueraded("10.8.0.2"), there("10.8.0.1:53", "tun0", "10.8.0.2"), back("10.8.0.1:53", "tun0", "10.8.0.2")),
	})
	if f := r.Flows[0]; f.Tuple.Destination != "10.8.0.1:53" || !strings.HasPrefix(f.Asked, "proxy.example") {
		t.Errorf("the first flow is %+v", f)
	}
}

// complaints are answers of a proxy and of a repository that are none of the
// network's fault.
func (o *office) complaints(t *testing.T) {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.80"), port) }
	o.internet.Tinyproxy(at(8407), "BasicAuth user secret")
	o.internet.Tinyproxy(at(8502), "Upstream http 192.0.2.80:9")
	o.internet.Serve(at(8503), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	refuse := errors.New("no")
	o.internet.ServeTLS(netip.MustParseAddrPort("192.0.2.81:443"), &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, refuse }})
	for _, tt := range []struct{ name, proxy, repository, by, words string }{
		{"407", "http://192.0.2.80:8407", "http://repository.example/", "192.0.2.80:8407", "407 Proxy Authentication Required"},
		{"502", "http://192.0.2.80:8502", "http://repository.example/", "192.0.2.80:8502", "502 Unable to connect to upstream proxy"},
		{"503", "http://192.0.2.80:8503", "http://repository.example/", "192.0.2.80:8503", "503 Service Unavailable"},
		{"TLS", "", "https://repository.example/", "192.0.2.81:443", "TLS alert"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o.configure(tt.proxy, tt.repository)
			r, output := o.yum(t, "makecache", "--refresh")
			if strings.Contains(output, succeeded) {
				t.Errorf("yum has what it wants:\n%s", output)
			}
			if v := r.Verdict; v.Outcome != "replied" || v.Code != "OK" {
				t.Errorf("%s %s: %s", v.Outcome, v.Code, v.Summary)
			}
			for _, words := range []string{"The network is in order", tt.by, tt.words} {
				if !strings.Contains(r.Verdict.Summary, words) {
					t.Errorf("no %q in %q", words, r.Verdict.Summary)
				}
			}
		})
	}
}

// moved pastes what pathtrace proposes for good: Docker's bridge elsewhere, where
// the VPN is not in its way.
func (o *office) moved(t *testing.T) {
	o.vpn.Connect(routeGone)
	defer o.vpn.Disconnect()
	broken := states[slices.IndexFunc(states, func(s state) bool { return s.script == routeGone })]
	r := o.hold(t, broken)
	var setting string
	for _, f := range r.Findings {
		for _, line := range f.Fix {
			if strings.HasPrefix(line, `"bip": `) {
				setting = line
			}
		}
	}
	if setting != `"bip": "192.168.51.1/24"` { // an address of the bridge: a prefix would stop dockerd
		t.Fatalf("the proposed setting is %q, of %+v", setting, r.Findings)
	}
	o.Write("/etc/docker/daemon.json", "{"+setting+"}")
	o.Run("docker", "rm", "--force", "cnt01") // dockerd would wait for it
	o.Restart()
	o.YumContainer("cnt01")
	o.configure("http://proxy.example:8888", "http://repository.example/")
	r, output := o.yum(t, "install", "hello")
	if !strings.Contains(output, "Complete!") || r.Verdict.Outcome != "replied" {
		t.Errorf("it is %s by %s (%s), and yum says:\n%s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Summary, output)
	}
	if source := r.Flows[0].Tuple.Source; !strings.HasPrefix(source, "192.168.51.2:") {
		t.Errorf("the first flow is from %s", source)
	}
}

// smallMTU are lines for both ends of a VPN that carries less than the networks that
// it connects, and leaves the segments of TCP as they are.
var smallMTU = []string{"tun-mtu 1400", "mssfix 0"}

// newIntranet is an office with such a VPN, with the proxy and the repository in the
// intranet behind it. The metadata of the repository came, because the intranet's
// machine was told of the MTU; then it forgets that, and is not told any more.
func newIntranet(t *testing.T, visible bool) *office {
	t.Helper()
	o := newOffice(t, visible, smallMTU...)
	o.intranet.Write("/etc/hosts", "172.20.0.5 intranet.example\n")
	o.intranet.Repository(netip.MustParseAddrPort("172.20.0.5:80"))
	o.intranet.Tinyproxy(netip.MustParseAddrPort(intranetProxy))
	o.vpn.Connect("", smallMTU...)
	o.configure("http://intranet.example:8888", "http://intranet.example/")
	r, output := o.yum(t, "makecache", "--refresh")
	if !strings.Contains(output, succeeded) || r.Verdict.Outcome != "replied" || !strings.Contains(r.Verdict.Summary, "The network is in order") {
		t.Errorf("it is %s: %s, and yum says:\n%s", r.Verdict.Outcome, r.Verdict.Summary, output)
	}
	o.server.Run("iptables", "-A", "OUTPUT", "-p", "icmp", "--icmp-type", "destination-unreachable", "-j", "DROP")
	o.forget()
	return o
}

const intranetProxy = "172.20.0.5:8888"

// forget has the intranet's machine forget what it was told of MTUs.
func (o *office) forget() { o.intranet.Run("ip", "route", "flush", "cache") }

// TestVPNMTUBeyond has the place that is too narrow where nobody can look.
func TestVPNMTUBeyond(t *testing.T) {
	t.Parallel()
	o := newIntranet(t, false)

	// The header of the answer comes, and none of the full segments behind it, nor
	// anything behind those: a server that is slow looks the same. When the proxy
	// happened to send a small segment behind a full one, that came, and proves it.
	r, output := o.yum(t, "install", "hello")
	if !strings.Contains(output, timedOut) {
		t.Errorf("yum has what it wants:\n%s", output)
	}
	if f := explained(r); f == nil || f.Tuple.Destination != intranetProxy {
		t.Errorf("flow %+v is explained", f)
	}
	words := []string{"No packet was seen to be lost: ", "From " + intranetProxy + " (intranet.example) data came in packets of up to ", "and then nothing more until the connection was closed", "(MTU)"}
	switch {
	case r.Verdict.Code == "MTU_BLACKHOLE" && r.Verdict.Outcome == report.Lost:
		words = []string{"and of that size none came, while packets of up to", "from behind what is missing"}
	case r.Verdict.Outcome != report.Inconclusive:
		t.Errorf("it is %s", r.Verdict.Outcome)
	}
	for _, words := range words {
		if !strings.Contains(r.Verdict.Summary, words) {
			t.Errorf("no %q in %q", words, r.Verdict.Summary)
		}
	}

	// The end of the metadata fits, and comes.
	r, output = o.yum(t, "makecache", "--refresh")
	if !strings.Contains(output, timedOut) {
		t.Errorf("yum has what it wants:\n%s", output)
	}
	want := replied("host", "tun0", masqueraded("10.8.0.2"), there(intranetProxy, "tun0", "10.8.0.2"), back(intranetProxy, "tun0", "10.8.0.2"))
	want.Outcome, want.Code = "lost", "MTU_BLACKHOLE"
	if diff := gocmp.Diff(want, said(r)); diff != "" {
		t.Errorf("what pathtrace says (-want +got):\n%s", diff)
	}
	if r.Verdict.Confidence != report.Reconstructed || !strings.Contains(r.Verdict.Summary, "The MTU of tun0, by which its packets come to the host, is 1400") {
		t.Errorf("%s: %s", r.Verdict.Confidence, r.Verdict.Summary)
	}
	o.mend(t, r)
}

// TestVPNMTU has the server of the VPN where it can be looked into.
func TestVPNMTU(t *testing.T) {
	t.Parallel()
	o := newIntranet(t, true)
	for _, command := range [][]string{{"install", "hello"}, {"makecache", "--refresh"}} {
		r, output := o.yum(t, command...)
		if !strings.Contains(output, timedOut) {
			t.Errorf("yum has what it wants:\n%s", output)
		}
		want := answer{
			Outcome: "dropped", Code: "MTU_BLACKHOLE", Leg: "reply", NetNS: "vpn", Interface: "tun0", Rule: unknown,
			Reply: []string{"intranet eth0 egress, " + intranetProxy + " → 10.8.0.2", "vpn eth1 ingress"},
		}
		if diff := gocmp.Diff(want, said(r)); diff != "" {
			t.Errorf("what pathtrace says (-want +got):\n%s", diff)
		}
		for _, words := range []string{"is larger than the MTU 1400 of tun0 in vpn", "The ICMP error about it", "was dropped in vpn in output by a rule of chain ip filter OUTPUT", "bytes from " + intranetProxy + " were acknowledged"} {
			if !strings.Contains(r.Verdict.Summary, words) {
				t.Errorf("no %q in %q", words, r.Verdict.Summary)
			}
		}
		if command[0] == "makecache" {
			o.mend(t, r)
		}
	}
}

// mend pastes the first commands that a report proposes, and has yum try again.
func (o *office) mend(t *testing.T, r *report.Report) {
	t.Helper()
	if len(r.Findings) == 0 || len(r.Findings[0].Fix) == 0 {
		t.Fatalf("nothing is proposed: %+v", r.Findings)
	}
	for _, line := range r.Findings[0].Fix {
		o.Run("sh", "-euc", line)
	}
	r, output := o.yum(t, "install", "hello")
	if !strings.Contains(output, "Complete!") || r.Verdict.Outcome != "replied" {
		t.Errorf("it is %s by %s (%s), and yum says:\n%s", r.Verdict.Outcome, r.Verdict.Code, r.Verdict.Summary, output)
	}
}
