package recording_test

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/recording"
)

// plans are all recordings.
func plans() (all []plan) {
	for _, some := range [][]plan{masqueradePlans(), dockerPlans(), vpnPlans(), byHandPlans(), pipeworkPlans(), overlayPlans(), kubernetesPlans()} {
		all = append(all, some...)
	}
	return all
}

func masqueradePlans() []plan {
	const (
		inside  = "cnt01/eth0, host/veth671b926, host/br_ipv6_nw"
		between = "host/ens192, router/eth0, router/eth1, gateway/zTrust"
		cnt     = "fd5a:ceb9:ed8d:1::2"
		host    = "fd5a:ceb9:ed8d:fe0a:ed57:61d8:20eb:aba5"
		public  = "2001:db8:ff66:0:77e5:61d8:20eb:aba5"
		dns     = "2001:4860:4860::8888"
		other   = "2001:4860:4860::8844"
	)
	there := func(packets int, port, to string) []recording.Stop {
		return way(packets, hostPort(cnt, port)+" > "+to+": "+inside, hostPort(host, port)+" > "+to+": "+between, hostPort(public, port)+" > "+to+": gateway/zUntrust")
	}
	back := func(packets int, port, from string) []recording.Stop {
		return way(packets, from+" > "+hostPort(public, port)+": gateway/zUntrust", from+" > "+hostPort(host, port)+": "+backwards(between), from+" > "+hostPort(cnt, port)+": "+backwards(inside))
	}
	return []plan{{
		name:     "ipv6-masquerade",
		note:     "A container pings, asks a name server and fetches a page. The host masquerades, and the\ngateway changes the prefix without state (NPTv6, RFC 6296): the interface part of the address\nchanges with it, so that checksums stay what they are.",
		scenario: "ipv6-masquerade", options: lab.Options{Backend: lab.NFT},
		points: "cnt01/eth0 host/veth671b926 host/br_ipv6_nw host/ens192 router/eth0 router/eth1 gateway/zTrust gateway/zUntrust",
		trace:  "icmpv6 type { echo-request, echo-reply }",
		gateway: []log{
			{"rules-gateway.txt", "gateway", []string{"ip6tables-nft-save"}},
			{"conntrack-table-gateway.txt", "gateway", strings.Fields("conntrack -L -o id,extended -f ipv6")},
		},
		flows: []flow{
			pinged(4242, "cnt01", dns, true, there(pings, "", dns), back(pings, "", dns)),
			exchanged("a DNS query to "+other+" from cnt01", "udp", query("cnt01", "40001", hostPort(other, "53")),
				there(1, "40001", hostPort(other, "53")), back(1, "40001", hostPort(other, "53"))),
			exchanged("an HTTP request to "+dns+" from cnt01", "tcp", fetch("cnt01", "40002", hostPort(dns, "80")),
				there(0, "40002", hostPort(dns, "80")), back(0, "40002", hostPort(dns, "80"))),
		},
	}, {
		name:     "ipv6-masquerade-forward-drop",
		note:     "The pings of a container reach the host's bridge and no interface behind it: a rule drops them.",
		scenario: "ipv6-masquerade", options: lab.Options{Backend: lab.NFT, Break: lab.ForwardDrop},
		points: "cnt01/eth0 host/veth671b926 host/br_ipv6_nw host/ens192",
		trace:  "icmpv6 type { echo-request, echo-reply }",
		flows: []flow{{
			Flow: pinged(4242, "cnt01", dns, false, way(pings, cnt+" > "+dns+": "+inside), nil).Flow,
			send: ping(4242, "cnt01", dns, 56, false), broken: true,
		}},
	}}
}

// backwards are points in the opposite order.
func backwards(points string) string {
	words := strings.Split(points, ", ")
	slices.Reverse(words)
	return strings.Join(words, ", ")
}

// hostPort joins an address and a port; without a port it is the address.
func hostPort(address, port string) string {
	switch {
	case port == "":
		return address
	case strings.Contains(address, ":"):
		return "[" + address + "]:" + port
	}
	return address + ":" + port
}

func dockerPlans() []plan {
	const (
		scenario  = "docker-bridge"
		published = "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"
		there     = "172.17.0.2 > 8.8.8.8: cnt01/eth0, host/veth8c1f3e2, host/docker0"
	)
	cnt01, lan, gateway := netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("172.17.0.1")
	return []plan{{
		name:     "docker-bridge-outbound",
		note:     "A container pings and fetches a page, masqueraded by Docker's rule. The capture at the uplink is compressed.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesNFT},
		points: "cnt01/eth0 host/veth8c1f3e2 host/docker0 host-eth0.pcap.gz=host/eth0",
		trace:  "ip protocol icmp",
		flows: []flow{
			pinged(4242, "cnt01", "8.8.8.8", true,
				way(pings, there, "203.0.113.1 > 8.8.8.8: host/eth0"),
				way(pings, "8.8.8.8 > 203.0.113.1: host/eth0", "8.8.8.8 > 172.17.0.2: host/docker0, host/veth8c1f3e2, cnt01/eth0")),
			exchanged("an HTTP request to 8.8.4.4 from cnt01", "tcp", fetch("cnt01", "40003", "8.8.4.4:80"),
				way(0, "172.17.0.2:40003 > 8.8.4.4:80: cnt01/eth0, host/veth8c1f3e2, host/docker0", "203.0.113.1:40003 > 8.8.4.4:80: host/eth0"),
				way(0, "8.8.4.4:80 > 203.0.113.1:40003: host/eth0", "8.8.4.4:80 > 172.17.0.2:40003: host/docker0, host/veth8c1f3e2, cnt01/eth0")),
		},
	}, {
		name:     "docker-bridge-published",
		note:     "A machine of the LAN asks for a published port, and the host sends it on to the container. What\nthe host saw is one file with three interfaces.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesNFT},
		points: "client/eth0 host.pcapng=host/eth0,host/docker0,host/veth8c1f3e2 cnt01/eth0",
		trace:  "tcp dport 8080 tcp flags syn",
		flows: []flow{exchanged("an HTTP request to 203.0.113.1:8080 from client", "tcp", fetch("client", "40004", "203.0.113.1:8080"),
			way(0, "203.0.113.100:40004 > 203.0.113.1:8080: client/eth0, host/eth0", "203.0.113.100:40004 > 172.17.0.2:80: host/docker0, host/veth8c1f3e2, cnt01/eth0"),
			way(0, "172.17.0.2:80 > 203.0.113.100:40004: cnt01/eth0, host/veth8c1f3e2, host/docker0", "203.0.113.1:8080 > 203.0.113.100:40004: host/eth0, client/eth0"))},
		translations: []lab.Translation{
			{Kind: "dnat", NetNS: "host", Hook: "prerouting", Leg: "request", Field: "destination", From: lan, To: cnt01, Rule: dockerNAT("DOCKER", "! -i docker0 "+published)},
			{Kind: "dnat", NetNS: "host", Hook: "postrouting", Leg: "reply", Field: "source", From: cnt01, To: lan},
		},
	}, {
		name:     "docker-bridge-hairpin",
		note:     "Without docker-proxy a container asks for its own published port: it is sent back out of the\nbridge port that it came in by, with both addresses translated. A promiscuous docker0 would also get a copy\nof each packet and forward it to the container, hence -p. The host has pinged the container before, and as\nit knows its hardware address br_netfilter bridges what it translates without showing it to docker0.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesNFT, Break: "hairpin-off"},
		before: []string{"ip link set dev veth8c1f3e2 type bridge_slave hairpin on"},
		points: "cnt01/eth0 host/veth8c1f3e2 host/docker0 host/eth0", dump: "-p",
		trace: "tcp dport { 80, 8080 } tcp flags syn",
		flows: []flow{
			pinged(4242, "host", "172.17.0.2", true,
				way(pings, "172.17.0.1 > 172.17.0.2: host/docker0, host/veth8c1f3e2, cnt01/eth0"),
				way(pings, "172.17.0.2 > 172.17.0.1: cnt01/eth0, host/veth8c1f3e2, host/docker0")),
			exchanged("an HTTP request to 203.0.113.1:8080 from cnt01", "tcp", fetch("cnt01", "40005", "203.0.113.1:8080"),
				way(0, "172.17.0.2:40005 > 203.0.113.1:8080: cnt01/eth0, host/veth8c1f3e2", "172.17.0.1:40005 > 172.17.0.2:80: host/veth8c1f3e2, cnt01/eth0"),
				way(0, "172.17.0.2:80 > 172.17.0.1:40005: cnt01/eth0, host/veth8c1f3e2", "203.0.113.1:8080 > 172.17.0.2:40005: host/veth8c1f3e2, cnt01/eth0")),
		},
		translations: []lab.Translation{
			{Kind: "dnat", NetNS: "host", Hook: "prerouting", Leg: "request", Field: "destination", From: lan, To: cnt01, Rule: dockerNAT("DOCKER", published)},
			{
				Kind: "masquerade", NetNS: "host", Hook: "postrouting", Leg: "request", Field: "source", From: cnt01, To: gateway,
				Rule: dockerNAT("POSTROUTING", "-s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE"),
			},
			{Kind: "masquerade", NetNS: "host", Hook: "prerouting", Leg: "reply", Field: "destination", From: gateway, To: cnt01},
			{Kind: "dnat", NetNS: "host", Hook: "postrouting", Leg: "reply", Field: "source", From: cnt01, To: lan},
		},
	}, {
		name:     "docker-bridge-isolated",
		note:     "A container pings one of another bridge of Docker's, and Docker's isolation drops that.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesNFT},
		points: "cnt01/eth0 host/veth8c1f3e2 host/docker0 host/br-5f1c3a9d2b7e cnt03/eth0",
		trace:  "ip protocol icmp",
		flows: []flow{{
			Flow: pinged(4242, "cnt01", "172.18.0.2", false, way(pings, "172.17.0.2 > 172.18.0.2: cnt01/eth0, host/veth8c1f3e2, host/docker0"), nil).Flow,
			send: ping(4242, "cnt01", "172.18.0.2", 56, false),
			end: lab.Truth{
				Outcome: "dropped", Leg: "request", Code: "FILTER_DROP", NetNS: "host", Hook: "forward",
				Rule: lab.Rule{
					Backend: lab.IPTablesNFT, Family: "ip", Table: "filter", Chain: "DOCKER-ISOLATION-STAGE-2",
					Text: "-A DOCKER-ISOLATION-STAGE-2 -o br-5f1c3a9d2b7e -j DROP",
				},
			},
		}},
	}, {
		name:     "docker-bridge-reject",
		note:     "A rule of iptables-legacy rejects the pings of a container, and an ICMP error comes back for each. The trace is\nthe kernel's log.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesLegacy, Break: lab.Reject},
		points: "cnt01/eth0 host/veth8c1f3e2 host/docker0 host/eth0",
		trace:  "-p icmp",
		flows: []flow{func() flow {
			f := pinged(4242, "cnt01", "8.8.8.8", false, way(pings, there), nil)
			f.Errors, f.broken = way(pings, "172.17.0.1 > 172.17.0.2: host/docker0, host/veth8c1f3e2, cnt01/eth0"), true
			return f
		}()},
	}, {
		name:     "docker-bridge-any",
		note:     "One capture of all interfaces of the host (tcpdump -i any, SLL2): each packet of a container is in it\nthree times, at the bridge port and at the bridge before, and at the uplink after it was masqueraded.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesLegacy},
		points: "host/any",
		flows: []flow{pinged(4242, "cnt01", "8.8.8.8", true,
			way(pings, "172.17.0.2 > 8.8.8.8: host/any*2", "203.0.113.1 > 8.8.8.8: host/any"),
			way(pings, "8.8.8.8 > 203.0.113.1: host/any", "8.8.8.8 > 172.17.0.2: host/any*2"))},
	}, {
		name:     "docker-bridge-same-bridge",
		note:     "Two containers of one bridge. Nothing is translated. The bridge itself sees their packets only because\ntcpdump makes it promiscuous.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesNFT},
		points: "cnt01/eth0 host/veth8c1f3e2 host/docker0 host/vethd04b7a9 cnt02/eth0",
		trace:  "ip protocol icmp",
		flows: []flow{
			pinged(4242, "cnt01", "172.17.0.3", true,
				way(pings, "172.17.0.2 > 172.17.0.3: cnt01/eth0, host/veth8c1f3e2, host/docker0, host/vethd04b7a9, cnt02/eth0"),
				way(pings, "172.17.0.3 > 172.17.0.2: cnt02/eth0, host/vethd04b7a9, host/docker0, host/veth8c1f3e2, cnt01/eth0")),
			exchanged("an HTTP request to 172.17.0.2 from cnt02", "tcp", fetch("cnt02", "40006", "172.17.0.2:80"),
				way(0, "172.17.0.3:40006 > 172.17.0.2:80: cnt02/eth0, host/vethd04b7a9, host/docker0, host/veth8c1f3e2, cnt01/eth0"),
				way(0, "172.17.0.2:80 > 172.17.0.3:40006: cnt01/eth0, host/veth8c1f3e2, host/docker0, host/vethd04b7a9, cnt02/eth0")),
		},
	}}
}

func vpnPlans() []plan {
	const points = "cnt01/eth0 host/veth8c1f3e2 host/docker0 host/eth0 "
	request := way(pings, "172.17.0.2 > 8.8.8.8: cnt01/eth0, host/veth8c1f3e2, host/docker0", "192.168.0.23 > 8.8.8.8: host/eth0")
	taken := func(reply ...string) flow {
		f := pinged(4242, "cnt01", "8.8.8.8", false, request, way(pings, append([]string{"8.8.8.8 > 192.168.0.23: host/eth0"}, reply...)...))
		f.broken = true
		return f
	}
	return []plan{{
		name:     "vpn-overlap",
		note:     "The answers to a container's pings come back to the host and go into the VPN, whose network contains that of\ndocker0. The tunnel is a tun device, whose packets have no Ethernet header; what it sends is hidden in its\ndatagrams. The capture at the tunnel is compressed.",
		scenario: "vpn-overlap", options: lab.Options{Backend: lab.IPTablesNFT, Break: "bridge-route-gone"},
		points: points + "host-tun0.pcap.zst=host/tun0", trace: "ip protocol icmp",
		flows: []flow{taken("8.8.8.8 > 172.17.0.2: host/tun0")},
	}, {
		name:     "vpn-overlap-vxlan",
		note:     "The same with a tunnel that can be looked into: the answers that the VPN took are seen once more in the\nVXLAN's datagrams at the uplink.",
		scenario: "vpn-overlap", options: lab.Options{Backend: lab.IPTablesLegacy, Break: "bridge-route-gone"}, noTun: true,
		points: points + "host/tun0",
		flows:  []flow{taken("8.8.8.8 > 172.17.0.2: host/tun0, host/eth0[VXLAN 1]")},
	}}
}

func byHandPlans() []plan {
	const (
		scenario = "netns-by-hand"
		points   = "mynamespace/veth1 host/veth0 host/eth0"
	)
	there := way(pings, "172.19.0.2 > 8.8.8.8: mynamespace/veth1, host/veth0", "203.0.113.1 > 8.8.8.8: host/eth0")
	back := way(pings, "8.8.8.8 > 203.0.113.1: host/eth0", "8.8.8.8 > 172.19.0.2: host/veth0, mynamespace/veth1")
	times := func(stops []recording.Stop, n int) []recording.Stop {
		var all []recording.Stop
		for _, stop := range stops {
			stop.Packets *= n
			all = append(all, stop)
		}
		return all
	}
	return []plan{{
		name:     "netns-by-hand",
		note:     "A namespace made by hand pings and asks a name server. Times are in nanoseconds.",
		scenario: scenario, options: lab.Options{Backend: lab.NFT},
		points: points, dump: "--time-stamp-precision=nano", trace: "ip protocol { icmp, udp }",
		flows: []flow{
			pinged(4242, "mynamespace", "8.8.8.8", true, there, back),
			exchanged("a DNS query to 8.8.4.4 from mynamespace", "udp", query("mynamespace", "40007", "8.8.4.4:53"),
				way(1, "172.19.0.2:40007 > 8.8.4.4:53: mynamespace/veth1, host/veth0", "203.0.113.1:40007 > 8.8.4.4:53: host/eth0"),
				way(1, "8.8.4.4:53 > 203.0.113.1:40007: host/eth0", "8.8.4.4:53 > 172.19.0.2:40007: host/veth0, mynamespace/veth1")),
		},
	}, {
		name:     "netns-by-hand-no-masquerade",
		note:     "The rule that masquerades is missing: the pings leave with an address that nobody outside can answer to,\nand nothing comes back.",
		scenario: scenario, options: lab.Options{Backend: lab.NFT, Break: "no-masquerade"},
		points: points, trace: "ip protocol icmp",
		flows: []flow{func() flow {
			f := pinged(4242, "mynamespace", "8.8.8.8", false, way(pings, "172.19.0.2 > 8.8.8.8: mynamespace/veth1, host/veth0, host/eth0"), nil)
			f.broken = true
			return f
		}()},
	}, {
		name:     "netns-by-hand-fragments",
		note:     "Pings of 3000 bytes, in three fragments each: connection tracking puts them together on the host, which\ncuts them again.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesNFT},
		points: points,
		flows: []flow{func() flow {
			f := pinged(4242, "mynamespace", "8.8.8.8", true, times(there, 3), times(back, 3))
			f.What, f.send = "3 pings of 3000 bytes of 8.8.8.8 from mynamespace", ping(4242, "mynamespace", "8.8.8.8", 3000, true)
			return f
		}()},
	}, {
		name:     "netns-by-hand-offload",
		note:     "Data over TCP, which segmentation offload leaves in a few large packets up to the host; its uplink has no such\noffload, and there are many small ones. Only the beginning of each packet is kept.",
		scenario: scenario, options: lab.Options{Backend: lab.IPTablesLegacy},
		before: []string{"ip link set dev eth0 gso_max_segs 1"},
		points: points, dump: "-s 96",
		flows: []flow{func() flow {
			f := exchanged("20000 bytes to port 9 of 8.8.8.8 from mynamespace", "tcp", upload("mynamespace", "40008", "8.8.8.8:9", 20000),
				way(0, "172.19.0.2:40008 > 8.8.8.8:9: mynamespace/veth1, host/veth0", "203.0.113.1:40008 > 8.8.8.8:9: host/eth0"),
				way(0, "8.8.8.8:9 > 203.0.113.1:40008: host/eth0", "8.8.8.8:9 > 172.19.0.2:40008: host/veth0, mynamespace/veth1"))
			f.uneven = true
			return f
		}()},
	}}
}

func pipeworkPlans() []plan {
	const inside = "H1/eth1, host/veth1pl1103, host/veth2pl1102, R2/eth2, R2/eth1, host/veth1pl1102, host/veth2pl1101, R1/eth2, R1/eth1, host/veth1pl1101, host/br1"
	there := func(packets int, port, to string) []recording.Stop {
		return way(packets, hostPort("192.168.103.3", port)+" > "+to+": "+inside, hostPort("203.0.113.1", port)+" > "+to+": host/eth0")
	}
	back := func(packets int, port, from string) []recording.Stop {
		return way(packets, from+" > "+hostPort("203.0.113.1", port)+": host/eth0", from+" > "+hostPort("192.168.103.3", port)+": "+backwards(inside))
	}
	return []plan{{
		name:     "pipework-ospf",
		note:     "A container behind two containers that are routers pings and fetches a page. All three are on bridges of one\nhost, which passes each packet on twice as a bridge before it routes and translates it.",
		scenario: "pipework-ospf", options: lab.Options{Backend: lab.IPTablesNFT},
		points: "H1/eth1 R2/eth2 R2/eth1 R1/eth2 R1/eth1 " +
			"host.pcapng=host/veth1pl1103,host/veth2pl1102,host/veth1pl1102,host/veth2pl1101,host/veth1pl1101,host/br1,host/eth0",
		trace: "ip protocol icmp",
		flows: []flow{
			pinged(4242, "H1", "8.8.8.8", true, there(pings, "", "8.8.8.8"), back(pings, "", "8.8.8.8")),
			exchanged("an HTTP request to 8.8.8.8 from H1", "tcp", fetch("H1", "40009", "8.8.8.8:80"), there(0, "40009", "8.8.8.8:80"), back(0, "40009", "8.8.8.8:80")),
		},
	}, {
		name:     "pipework-ospf-no-return-route",
		note:     "R1 does not know the network of the container: it sends the answers back to the host, whose policy drops them.",
		scenario: "pipework-ospf", options: lab.Options{Backend: lab.IPTablesNFT, Break: "no-return-route@R1"},
		points: "H1/eth1 R1/eth2 R1/eth1 host/veth1pl1101 host/br1 host/eth0",
		trace:  "ip protocol icmp",
		flows: []flow{func() flow {
			f := pinged(4242, "H1", "8.8.8.8", false,
				way(pings, "192.168.103.3 > 8.8.8.8: H1/eth1, R1/eth2, R1/eth1, host/veth1pl1101, host/br1", "203.0.113.1 > 8.8.8.8: host/eth0"),
				way(pings, "8.8.8.8 > 203.0.113.1: host/eth0", "8.8.8.8 > 192.168.103.3: host/br1*2, host/veth1pl1101*2, R1/eth1*2"))
			// Where they ended is what packets and rules show; R1's routes are not kept.
			f.end = lab.Truth{
				Outcome: "dropped", Leg: "reply", Code: "FILTER_POLICY_DROP", NetNS: lab.HostName, Hook: "forward",
				Rule: lab.Rule{Backend: lab.IPTablesNFT, Family: "ip", Table: "filter", Chain: "FORWARD", Text: ":FORWARD DROP"},
			}
			return f
		}()},
	}}
}

func overlayPlans() []plan {
	const (
		inside = "cnt1/eth0, host/vethc1, host/vxlan42, host/eth0[VXLAN 42], underlay/eth1[VXLAN 42], underlay/eth2[VXLAN 42], host2/eth0[VXLAN 42]"
		beyond = ", host2/vxlan42, host2/vethc2, cnt2/eth0"
		points = "cnt1/eth0 host.pcapng=host/vethc1,host/vxlan42,host/eth0 underlay/eth1 underlay/eth2 host2.pcapng=host2/eth0,host2/vxlan42,host2/vethc2 cnt2/eth0"
	)
	return []plan{{
		name:     "vxlan-overlay",
		note:     "Containers of two hosts, joined by a VXLAN whose ends are ports of bridges: one pings the other, asks it as a\nname server, and fetches a page. Between the hosts their packets are in datagrams, which are looked into.",
		scenario: "vxlan-overlay", options: lab.Options{Backend: lab.NFT},
		points: points,
		flows: []flow{
			pinged(4242, "cnt1", "10.32.0.3", true,
				way(pings, "10.32.0.2 > 10.32.0.3: "+inside+beyond), way(pings, "10.32.0.3 > 10.32.0.2: "+backwards(inside+beyond))),
			exchanged("a DNS query to 10.32.0.3:53 from cnt1", "udp", query("cnt1", "40010", "10.32.0.3:53"),
				way(1, "10.32.0.2:40010 > 10.32.0.3:53: "+inside+beyond), way(1, "10.32.0.3:53 > 10.32.0.2:40010: "+backwards(inside+beyond))),
			exchanged("an HTTP request to 10.32.0.3 from cnt1", "tcp", fetch("cnt1", "40011", "10.32.0.3:80"),
				way(0, "10.32.0.2:40011 > 10.32.0.3:80: "+inside+beyond), way(0, "10.32.0.3:80 > 10.32.0.2:40011: "+backwards(inside+beyond))),
		},
	}}
}

func kubernetesPlans() []plan {
	const self = "-p tcp -m comment --comment \"default/self:http\" -m tcp -j DNAT --to-destination 10.244.1.2:8080"
	service, pod := netip.MustParseAddr("10.96.0.40"), netip.MustParseAddr("10.244.1.2")
	return []plan{{
		name:     "kubernetes",
		note:     "A pod pings somebody outside, masqueraded by flannel's rule, and asks for a service, which kube-proxy's rules lead\nto the one pod behind it. The node has pinged that pod before, and as it knows its hardware address br_netfilter\nbridges what it translates without showing it to cni0.",
		scenario: "kubernetes", options: lab.Options{Backend: lab.IPTablesNFT},
		points: "shell/eth0 host.pcapng=host/veth4c1d7e30,host/cni0,host/veth1a9e5b02,host/eth0 web-1/eth0", dump: "-p",
		trace: "tcp dport 80 tcp flags syn",
		flows: []flow{
			pinged(4243, "host", "10.244.1.2", true,
				way(pings, "10.244.1.1 > 10.244.1.2: host/cni0, host/veth1a9e5b02, web-1/eth0"),
				way(pings, "10.244.1.2 > 10.244.1.1: web-1/eth0, host/veth1a9e5b02, host/cni0")),
			pinged(4242, "shell", "8.8.8.8", true,
				way(pings, "10.244.1.4 > 8.8.8.8: shell/eth0, host/veth4c1d7e30, host/cni0", "203.0.113.1 > 8.8.8.8: host/eth0"),
				way(pings, "8.8.8.8 > 203.0.113.1: host/eth0", "8.8.8.8 > 10.244.1.4: host/cni0, host/veth4c1d7e30, shell/eth0")),
			exchanged("an HTTP request to the service 10.96.0.40 from shell", "tcp", fetch("shell", "40012", "10.96.0.40:80"),
				way(0, "10.244.1.4:40012 > 10.96.0.40:80: shell/eth0, host/veth4c1d7e30", "10.244.1.4:40012 > 10.244.1.2:8080: host/veth1a9e5b02, web-1/eth0"),
				way(0, "10.244.1.2:8080 > 10.244.1.4:40012: web-1/eth0, host/veth1a9e5b02", "10.96.0.40:80 > 10.244.1.4:40012: host/veth4c1d7e30, shell/eth0")),
		},
		translations: []lab.Translation{
			{Kind: "dnat", NetNS: "host", Hook: "prerouting", Leg: "request", Field: "destination", From: service, To: pod, Rule: dockerNAT("KUBE-SEP-KFZS5257XG5LNRMO", self)},
			{Kind: "dnat", NetNS: "host", Hook: "postrouting", Leg: "reply", Field: "source", From: pod, To: service},
		},
	}}
}
