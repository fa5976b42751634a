package live_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/live"
	"github.com/pathtrace/pathtrace/internal/resolve"
	"github.com/pathtrace/pathtrace/report"
)

// lookup is the configuration of a run that looks a name up with a resolv.conf.
func lookup(n *lab.Network, source, name, conf string) live.Config {
	cfg := from(n, source, netip.IPv4Unspecified())
	cfg.Kind, cfg.Target = "dns", name
	cfg.Lookup = &live.Lookup{Want: resolve.IPv4, Files: resolve.ParseFiles(name, []byte("192.0.2.7 written.example\n"), []byte(conf))}
	return cfg
}

// asked is what the tries of a lookup say.
func asked(r *report.Report) []string {
	var all []string
	for _, t := range r.Tries {
		said := strings.Join(t.Query.Addresses, " ")
		if said == "" {
			said = t.Query.Said
		}
		all = append(all, fmt.Sprintf("%s %s %s %s: %s, %s", t.Query.Server, t.Query.Over, t.Query.Type, t.Query.Name, t.Outcome, said))
	}
	return all
}

var dockerMasquerade = "request observed masquerade host postrouting source 172.17.0.2:port → 203.0.113.1:port " +
	"[iptables-nft ip nat POSTROUTING] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"

// TestDNS looks names up: found, not there, with a server that is silent or
// filtered before one that answers, and with none that does.
func TestDNS(t *testing.T) {
	t.Parallel()
	there, back := []string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/docker0 ingress", "host/eth0 egress"},
		[]string{"host/eth0 ingress", "host/docker0 egress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"}
	found := answeredAt("cnt01", there, back, dockerMasquerade)
	none := found
	none.Code = "DNS_FAILED"
	dropped := endedBy(report.Dropped, "DNS_FAILED", "host", "forward", "[iptables-nft ip filter DOCKER-USER] -A DOCKER-USER -d 8.8.8.8/32 -p udp -m udp --dport 53 -j DROP", there[:3], nil)
	const block = "iptables-nft -I DOCKER-USER -d 8.8.8.8 -p udp --dport 53 -j DROP"
	for name, tt := range map[string]struct {
		name, conf, change string
		server             string
		want               verdict
		queries            []string
		says               []string // the summary and the findings
	}{
		"found": {
			name: "dns.google", conf: "nameserver 8.8.8.8", want: found,
			queries: []string{"8.8.8.8 udp A dns.google: replied, 8.8.8.8 8.8.4.4"},
			says:    []string{`"dns.google" is 8.8.8.8 and 8.8.4.4, says the DNS server 8.8.8.8 (from /etc/resolv.conf)`},
		},
		"with the search list": {
			name: "dns", conf: "nameserver 8.8.8.8\nsearch example google", want: found,
			queries: []string{"8.8.8.8 udp A dns.example: replied, NXDOMAIN", "8.8.8.8 udp A dns.google: replied, 8.8.8.8 8.8.4.4"},
		},
		"no such name": {
			name: "nosuch.example", conf: "nameserver 8.8.8.8", want: none,
			queries: []string{"8.8.8.8 udp A nosuch.example: replied, NXDOMAIN"},
			says:    []string{`could not be resolved in cnt01: the DNS server 8.8.8.8 (from /etc/resolv.conf) said "NXDOMAIN"`},
		},
		"another server": {
			name: "dns.google", conf: "nameserver 192.0.2.1", server: "8.8.4.4", want: found,
			queries: []string{"8.8.4.4 udp A dns.google: replied, 8.8.8.8 8.8.4.4"},
		},
		"the second server": {
			name: "dns.google", conf: "nameserver 8.8.8.8\nnameserver 8.8.4.4", change: block, want: found,
			queries: []string{
				"8.8.8.8 udp A dns.google: dropped, the query or its answer was lost on the way",
				"8.8.4.4 udp A dns.google: replied, 8.8.8.8 8.8.4.4",
			},
			says: []string{"warning DNS_FAILED: The DNS server 8.8.8.8 was asked before", "DOCKER-USER"},
		},
		"dropped": {
			name: "dns.google", conf: "nameserver 8.8.8.8", change: block, want: dropped,
			queries: []string{"8.8.8.8 udp A dns.google: dropped, the query or its answer was lost on the way"},
			says:    []string{`"dns.google" could not be resolved in cnt01`},
		},
		"nobody listens": {
			name: "dns.google", conf: "nameserver 172.17.0.3",
			want: func() verdict {
				v := refusedBy("cnt02",
					[]string{"cnt01/eth0 egress", "host/veth8c1f3e2 ingress", "host/vethd04b7a9 egress", "cnt02/eth0 ingress"},
					[]string{"cnt02/eth0 egress", "host/vethd04b7a9 ingress", "host/veth8c1f3e2 egress", "cnt01/eth0 ingress"})
				v.Code = "DNS_FAILED"
				return v
			}(),
			queries: []string{"172.17.0.3 udp A dns.google: rejected, port unreachable (type 3 code 3)"},
			says:    []string{"DNS query to 172.17.0.3"},
		},
		"written down": {
			name: "written.example", conf: "nameserver 8.8.8.8",
			want: verdict{Outcome: report.Replied, Leg: "request", Code: "OK", NetNS: "cnt01", Confidence: report.Reconstructed},
			says: []string{`"written.example" is 192.0.2.7, says /etc/hosts of cnt01`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := build(t, "docker-bridge", lab.Options{})
			if tt.change != "" {
				command(t, n.Host, strings.Fields(tt.change)...)
			}
			cfg := lookup(n, "cnt01", tt.name, tt.conf)
			if tt.server != "" {
				cfg.Lookup.Server = netip.MustParseAddr(tt.server)
			}
			r := trace(t, n, cfg)
			tell(t, tt.want, shorten(r))
			tell(t, tt.queries, asked(r))
			if said := saying(r); !containsAll(said, tt.says) {
				t.Errorf("says %q, want %q", said, tt.says)
			}
		})
	}
}

// saying is what a report says in sentences.
func saying(r *report.Report) string {
	all := []string{r.Verdict.Summary}
	for _, f := range r.Findings {
		all = append(all, f.Severity+" "+f.Code+": "+f.Summary)
	}
	return strings.Join(all, "\n")
}

func containsAll(text string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// TestDNSOverTCP has a server whose answer does not fit into a datagram.
func TestDNSOverTCP(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	answer := func(query []byte, truncated bool) []byte {
		var p dnsmessage.Parser
		header, err := p.Start(query)
		if err != nil {
			return nil
		}
		q, err := p.Question()
		if err != nil {
			return nil
		}
		m := dnsmessage.Message{Header: header, Questions: []dnsmessage.Question{q}}
		m.Response, m.Truncated = true, truncated
		if !truncated {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 80}},
			}}
		}
		packed, err := m.Pack()
		if err != nil {
			return nil
		}
		return packed
	}
	serveUDP(t, n, "cnt02", "172.17.0.3:53", func(c *net.UDPConn, query []byte, client netip.AddrPort) { repeat(c, answer(query, true), client) })
	var listener net.Listener
	if err := n.NetNS("cnt02").Do(func() (err error) { listener, err = net.Listen("tcp4", "172.17.0.3:53"); return err }); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); serving.Wait() })
	serving.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var length uint16
		if binary.Read(conn, binary.BigEndian, &length) != nil {
			return
		}
		query := make([]byte, length)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		a := answer(query, false)
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
	})
	r := trace(t, n, lookup(n, "cnt01", "large.example", "nameserver 172.17.0.3"))
	tell(t, []string{
		"172.17.0.3 udp A large.example: replied, truncated: the answer does not fit into a datagram",
		"172.17.0.3 tcp A large.example: replied, 192.0.2.80",
	}, asked(r))
	if r.Verdict.Outcome != report.Replied || r.Verdict.Code != "OK" || r.Request.Packet != "DNS query A large.example over TCP" {
		t.Errorf("verdict %s %s on %q", r.Verdict.Outcome, r.Verdict.Code, r.Request.Packet)
	}
}

// TestDNSNoAnswer asks a server that sends something else back.
func TestDNSNoAnswer(t *testing.T) {
	t.Parallel()
	n := build(t, "docker-bridge", lab.Options{})
	serveUDP(t, n, "cnt02", "172.17.0.3:53", func(c *net.UDPConn, query []byte, client netip.AddrPort) { repeat(c, query, client) })
	started := time.Now()
	r := trace(t, n, lookup(n, "cnt01", "dns.google", "nameserver 172.17.0.3"))
	tell(t, []string{"172.17.0.3 udp A dns.google: replied, an answer that cannot be understood"}, asked(r))
	if r.Verdict.Code != "DNS_FAILED" || time.Since(started) > timeout {
		t.Errorf("verdict %s after %s: %s", r.Verdict.Code, time.Since(started), r.Verdict.Summary)
	}
}

// TestEmbeddedDNS asks Docker's own name server, in the container's namespace,
// and shows whom that asks in its turn.
func TestEmbeddedDNS(t *testing.T) {
	t.Parallel()
	for _, backend := range []lab.Backend{lab.IPTablesNFT, lab.IPTablesLegacy} {
		for name, tt := range map[string]struct {
			in, change string
			outcome    report.Outcome
			code       string
			upstream   report.Outcome // of its own query; empty: none was seen
			says       []string
			rule       string
		}{
			"answers": {
				outcome: report.Replied, code: "OK", upstream: report.Replied,
				says: []string{"says the DNS server 127.0.0.11", "dockerd (pid ", ") asked 8.8.8.8:53 from cnt03 in its turn."},
			},
			"rules flushed": {
				in: "cnt03", change: "-t nat -F DOCKER_OUTPUT", outcome: report.Rejected, code: "DNS_FAILED",
				says: []string{"127.0.0.11", "port unreachable"},
			},
			"dropped behind it": {
				in: "host", change: "-I DOCKER-USER -p udp --dport 53 -j DROP", outcome: report.Dropped, code: "DNS_FAILED", upstream: report.Dropped,
				says: []string{"asked 8.8.8.8:53 from cnt03 in its turn, and that failed"},
				rule: "-A DOCKER-USER -p udp -m udp --dport 53 -j DROP",
			},
		} {
			t.Run(fmt.Sprintf("%s %s", backend, name), func(t *testing.T) {
				t.Parallel()
				n := build(t, "docker-bridge", lab.Options{Backend: backend})
				if tt.change != "" {
					command(t, n.NetNS(tt.in), append([]string{string(backend)}, strings.Fields(tt.change)...)...)
				}
				cfg := lookup(n, "cnt03", "dns.google", "nameserver 127.0.0.11\noptions ndots:0")
				if tt.upstream == report.Dropped {
					cfg.Lookup.Wait = impatient
				}
				r := trace(t, n, cfg)
				if r.Verdict.Outcome != tt.outcome || r.Verdict.Code != tt.code {
					t.Errorf("verdict %s %s, want %s %s: %s", r.Verdict.Outcome, r.Verdict.Code, tt.outcome, tt.code, r.Verdict.Summary)
				}
				if !containsAll(saying(r), tt.says) {
					t.Errorf("says %q, want %q", saying(r), tt.says)
				}
				rule := ""
				if r.Verdict.Rule != nil {
					rule = r.Verdict.Rule.Text
				}
				if rule != tt.rule {
					t.Errorf("by rule %q, want %q", rule, tt.rule)
				}
				var upstream []report.Outcome
				for _, c := range r.Continuations {
					upstream = append(upstream, c.Verdict.Outcome)
					if c.Kind != "resolver" || c.NetNS != "cnt03" || c.Confidence != report.Reconstructed || !strings.HasPrefix(c.Process, "dockerd (pid ") {
						t.Errorf("continuation %s in %s by %s, %s", c.Kind, c.NetNS, c.Process, c.Confidence)
					}
				}
				if want := slices.DeleteFunc([]report.Outcome{tt.upstream}, func(o report.Outcome) bool { return o == "" }); !slices.Equal(upstream, want) {
					t.Errorf("its own queries %q, want %q", upstream, want)
				}
				if tt.code == "OK" {
					want := fmt.Sprintf("[%s ip nat DOCKER_OUTPUT] -A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT", backend)
					if len(r.Translations) == 0 || !strings.HasPrefix(owned(r.Translations[0].Rule), want) || r.Translations[0].Kind != "dnat" {
						t.Errorf("translations %+v, want one by %q", r.Translations, want)
					}
				}
			})
		}
	}
}
