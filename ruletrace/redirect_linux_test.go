package ruletrace

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/packet"
)

// TestRedirectKernel compares the rule that is found with what the kernel does
// with the packet: conntrack has the reply come from where it was sent on to.
func TestRedirectKernel(t *testing.T) {
	t.Parallel()
	const (
		published = "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 8080 -j DNAT --to-destination 10.2.0.2:80"
		base      = "chain pre {\n type nat hook prerouting priority "
	)
	for _, tt := range []struct {
		name, nft string
		tools     []string
		// want is the destination of the rule that is found; empty for none.
		want string
		// kernel is where the packet is sent on to.
		kernel string
	}{
		{"legacy", "", []string{"iptables-legacy " + published}, "10.2.0.2:80", "10.2.0.2:80"},
		{"iptables-nft", "", []string{"iptables-nft " + published}, "10.2.0.2:80", "10.2.0.2:80"},
		{"for another interface", "", []string{"iptables-nft " + published + " -i right"}, "", "10.1.0.1:8080"},
		{"an earlier chain accepts", base + "-110\n tcp dport 8080 accept\n }", []string{"iptables-legacy " + published}, "10.2.0.2:80", "10.2.0.2:80"},
		{"a chain beside it accepts", base + "-100\n tcp dport 8080 accept\n }", []string{"iptables-legacy " + published}, "10.2.0.2:80", "10.2.0.2:80"},
		{"a later chain translates too", base + "-90\n tcp dport 8080 dnat ip to 10.2.0.9:80\n }", []string{"iptables-nft " + published}, "10.2.0.2:80", "10.2.0.2:80"},
		{"an earlier chain translates too", base + "-110\n tcp dport 8080 dnat ip to 10.2.0.9:80\n }", []string{"iptables-nft " + published}, "10.2.0.9:80", "10.2.0.9:80"},
		{"a state", base + "-100\n ct state new tcp dport { 80, 8080 } dnat ip to 10.2.0.9:80\n }", nil, "10.2.0.9:80", "10.2.0.9:80"},
		{"the other family", base + "-100\n dnat ip6 to fd00:2::2\n tcp dport 8080 dnat ip to 10.2.0.9:80\n }", nil, "10.2.0.9:80", "10.2.0.9:80"},
		{"not in the map", base + "-100\n dnat ip to tcp dport map { 80 : 10.2.0.2 }\n }", nil, "", "10.1.0.1:8080"},
		{"in the map", base + "-100\n dnat ip to tcp dport map { 8080 : 10.2.0.2 }\n }", nil, "", "10.2.0.2:8080"},
		{"a chain without a name", base + "-100\n tcp dport 8080 jump {\n accept\n }\n tcp dport 8080 dnat ip to 10.2.0.2:80\n }", nil, "", "10.1.0.1:8080"},
		{"rewritten before", "chain raw {\n type filter hook prerouting priority -300\n tcp dport 8080 tcp dport set 81\n }", []string{"iptables-nft " + published}, "", "10.1.0.1:81"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRouter(t)
			r.router.nft("table inet t {\n " + tt.nft + "\n chain track {\n type filter hook prerouting priority -150\n ct state new\n }\n}")
			for _, line := range tt.tools {
				f := strings.Fields(line)
				r.router.tool(f[0], f[1:]...)
			}
			r.router.sysctl("net.netfilter.nf_conntrack_checksum", "0")
			rule, ok, err := r.router.resolver("router").Redirect(t.Context(), Arrival{
				Tuple:   packet.Tuple{Proto: packet.TCP, Src: clientAddr, Dst: netip.MustParseAddr("10.1.0.1"), SrcPort: 40000, DstPort: 8080},
				Ingress: "left", Local: true,
			})
			if err != nil && !strings.Contains(tt.nft, "jump {") { // whose chain nft cannot list
				t.Fatal(err)
			}
			found := ""
			if to, is := rule.Destination(); is {
				found = to.String()
			}
			if found != tt.want || ok != (tt.want != "") {
				t.Errorf("%v by %q, want %q", ok, rule.Text, tt.want)
			}
			r.client.inject("eth0", r.router, "left", ipv4Packet(6, clientAddr, netip.MustParseAddr("10.1.0.1"), 0, tcpSegment(40000, 8080, 2)))
			address, port, _ := strings.Cut(tt.kernel, ":")
			eventually(t, "the flow is sent on to "+tt.kernel, func() bool {
				return strings.Contains(r.router.tool("conntrack", "-L"), "src="+address+" dst=10.1.0.2 sport="+port+" ")
			})
		})
	}
}

// TestRedirectLargeTable: a table of many chains is listed once, not once a chain.
func TestRedirectLargeTable(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	var text strings.Builder
	text.WriteString("table ip t {\n")
	for i := range 2 * smallTableChains {
		fmt.Fprintf(&text, " chain service%d {\n tcp dport %d dnat to 10.2.0.2:80\n }\n", i, 8000+i)
	}
	text.WriteString(" chain pre {\n type nat hook prerouting priority -100\n")
	for i := range 2 * smallTableChains {
		fmt.Fprintf(&text, " jump service%d\n", i)
	}
	s.nft(text.String() + " }\n}")
	resolver := s.resolver("x")
	starts := 0
	resolver.look = func(tool string) (string, error) {
		starts++
		return lookTool(tool)
	}
	rule, ok, err := resolver.Redirect(t.Context(), Arrival{
		Tuple: packet.Tuple{Proto: packet.TCP, Src: clientAddr, Dst: serverAddr, SrcPort: 40000, DstPort: 8100}, Ingress: "left",
	})
	if err != nil || !ok || rule.Chain != "service100" || starts != 1 {
		t.Errorf("%v by %+v after %d starts of a tool (%v)", ok, rule, starts, err)
	}
}
