package live_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/report"
)

// TestFollowOpened watches a container to which others open flows: the way of the
// first packet is followed from where it came in, and that of the answer back there.
func TestFollowOpened(t *testing.T) {
	t.Parallel()
	published := lab.Probe{Kind: "tcp", Source: "client", Target: netip.MustParseAddr("203.0.113.1"), Port: 8080}
	forward := verdict{
		Outcome: report.Dropped, Leg: "reply", Code: "FILTER_DROP", NetNS: "host", Hook: "forward", Confidence: report.Observed,
		Rule:    "[iptables-nft ip filter FORWARD] -A FORWARD -i docker0 -o eth0 -p tcp -m tcp --sport 80 -j DROP",
		Request: dockerThere[1:], Reply: dockerBack[:3],
	}
	input := verdict{
		Outcome: report.Dropped, Leg: "request", Code: "FILTER_DROP", NetNS: "cnt01", Hook: "input", Confidence: report.Observed,
		Rule: "[iptables-nft ip filter INPUT] -A INPUT -p tcp -m tcp --dport 80 -j DROP", Request: dockerThere[1:],
	}
	near := []string{"host/docker0 egress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}
	nearBack := []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 ingress"}
	for name, tt := range map[string]struct {
		probe  lab.Probe
		netns  string // where the rule is
		rule   string // of iptables-nft
		want   verdict
		phrase string
	}{
		"answered": {
			probe: published, want: answeredAt("host", dockerThere[1:], dockerBack[:4]),
			phrase: "and the answer went to host/eth0, behind which nothing is visible. The destination was translated (DNAT) on the host at eth0.",
		},
		"answer dropped":  {probe: published, netns: "host", rule: "-I FORWARD 1 -i docker0 -o eth0 -p tcp --sport 80 -j DROP", want: forward, phrase: "The answer was dropped on the host"},
		"request dropped": {probe: published, netns: "cnt01", rule: "-I INPUT 1 -p tcp --dport 80 -j DROP", want: input, phrase: "The request was dropped in cnt01"},
		"not acknowledged": {
			probe: published, netns: "client", rule: "-A OUTPUT -p tcp --tcp-flags ACK ACK -j DROP",
			want: verdict{
				Outcome: report.Inconclusive, Leg: "reply", Code: "INCONCLUSIVE", NetNS: "host", Confidence: report.Observed,
				Request: dockerThere[1:], Reply: dockerBack[:4],
			},
			phrase: "cnt01 answered, and the answer went to host/eth0, behind which nothing is visible. No acknowledgement of it was seen.",
		},
		"not let in": {
			probe: published, netns: "host", rule: "-I FORWARD 1 -i eth0 -o docker0 -p tcp --dport 80 -j DROP",
			want: verdict{
				Outcome: report.Dropped, Leg: "request", Code: "FILTER_DROP", NetNS: "host", Hook: "forward", Confidence: report.Observed,
				Rule: "[iptables-nft ip filter FORWARD] -A FORWARD -i eth0 -o docker0 -p tcp -m tcp --dport 80 -j DROP", Request: dockerThere[1:2],
			},
			phrase: "The request was dropped on the host in forward",
		},
		"rejected": {
			probe: published, netns: "host", rule: "-I FORWARD 1 -i eth0 -o docker0 -p tcp --dport 80 -j REJECT",
			want: verdict{
				Outcome: report.Rejected, Leg: "request", Code: "FILTER_REJECTED", NetNS: "host", Hook: "forward", Confidence: report.Observed,
				Rule:    "[iptables-nft ip filter FORWARD] -A FORWARD -i eth0 -o docker0 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
				Request: dockerThere[1:2], Reply: []string{"host/eth0 egress"},
			},
			phrase: "The request was rejected on the host in forward",
		},
		"answer dropped by the source": {
			probe: published, netns: "cnt01", rule: "-A OUTPUT -p tcp --sport 80 -j DROP",
			want: verdict{
				Outcome: report.Dropped, Leg: "reply", Code: "FILTER_DROP", NetNS: "cnt01", Hook: "output", Confidence: report.Observed,
				Rule: "[iptables-nft ip filter OUTPUT] -A OUTPUT -p tcp -m tcp --sport 80 -j DROP", Request: dockerThere[1:], Reply: []string{"cnt01/ egress"},
			},
			phrase: "The answer was dropped in cnt01 in output",
		},
		"from the host to the published port": {
			probe: lab.Probe{Kind: "tcp", Source: "host", Target: netip.MustParseAddr("203.0.113.1"), Port: 8080},
			want:  answeredAt("host", near, nearBack), phrase: "the answer went to host. It was sent to 203.0.113.1:8080 and translated before it left",
		},
		"from the host": {
			probe: lab.Probe{Kind: "tcp", Source: "host", Target: netip.MustParseAddr("172.17.0.2"), Port: 80},
			want:  answeredAt("host", near, nearBack), phrase: "172.17.0.1:",
		},
		"refused": {
			probe: lab.Probe{Kind: "tcp", Source: "host", Target: netip.MustParseAddr("172.17.0.2"), Port: 84},
			want:  refusedBy("cnt01", near, nearBack), phrase: "refused",
		},
		"pinged": {
			probe: lab.Probe{Kind: "ping", Source: "host", Target: netip.MustParseAddr("172.17.0.2")},
			want:  answeredAt("host", near, nearBack), phrase: "172.17.0.1 opened the flow, and the answer went to host.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{Backend: lab.IPTablesNFT})
			if tt.rule != "" {
				command(t, n.NetNS(tt.netns), append([]string{"iptables-nft"}, strings.Fields(tt.rule)...)...)
			}
			r := followWith(t, n, live.TraceConfig{Older: true}, "cnt01", func(ctx context.Context) error {
				return attempt(ctx, n, &tt.probe, 1500*time.Millisecond)
			})
			got := shorten(r)
			tt.want.Translations = nil
			if tt.probe.Target == published.Target && tt.probe.Source == "client" { // the rule is not traced, and found afterwards
				tt.want.Translations = []string{
					"request reconstructed dnat host prerouting destination 203.0.113.1:8080 → 172.17.0.2:80 [iptables-nft ip nat DOCKER] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
				}
			}
			tell(t, tt.want, got)
			if !strings.Contains(r.Verdict.Summary, tt.phrase) {
				t.Errorf("it does not say %q", tt.phrase)
			}
			if t.Failed() {
				t.Logf("report:\n%s", text(t, r))
			}
		})
	}
}

// TestFollowDatagrams sends datagrams that nobody answers, to a socket that is there,
// from the source and to it: they count as delivered and not as lost.
func TestFollowDatagrams(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ from, watched string }{
		"from the source": {"cnt01", "cnt01"},
		"to the source":   {"cnt01", "cnt02"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{})
			var listening, sending net.Conn
			if err := n.NetNS("cnt02").Do(func() (err error) {
				listening, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(172, 17, 0, 3), Port: 514})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer listening.Close()
			ahead := []netip.Addr{netip.MustParseAddr("172.17.0.3")}
			r := followWith(t, n, live.TraceConfig{Older: true, Ahead: ahead}, tt.watched, func(context.Context) error {
				if err := n.NetNS(tt.from).Do(func() (err error) { sending, err = net.Dial("udp4", "172.17.0.3:514"); return err }); err != nil {
					return err
				}
				defer sending.Close()
				if _, err := sending.Write([]byte("a line of a log")); err != nil {
					return err
				}
				_, err := listening.Read(make([]byte, 100))
				return err
			})
			if v := &r.Verdict; v.Outcome != report.Delivered || v.NetNS != "cnt02" || r.Flows[0].Outcome != report.Delivered {
				t.Errorf("report:\n%s", text(t, r))
			}
		})
	}
}
