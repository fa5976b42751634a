package packet

import (
	"bytes"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// record is a packet of a capture file.
type record struct {
	link LinkType
	data []byte
	wire int
}

func (r record) scan() Brief { return scan(r.link, r.data, r.wire) }

// readRecords reads a capture file as far as it can be read.
func readRecords(t testing.TB, name string) []record {
	t.Helper()
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var records []record
	if bytes.HasPrefix(file, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.NgReaderOptions{WantMixedLinkType: true})
		for err == nil {
			data, ci, e := r.ReadPacketData()
			if err = e; err == nil {
				i, e := r.Interface(ci.InterfaceIndex)
				if e != nil {
					t.Fatal(name, e)
				}
				records = append(records, record{LinkType(i.LinkType), data, ci.Length})
			}
		}
		return records
	}
	r, err := pcapgo.NewReader(bytes.NewReader(file))
	for err == nil {
		data, ci, e := r.ReadPacketData()
		if err = e; err == nil {
			records = append(records, record{LinkType(r.LinkType()), data, ci.Length})
		}
	}
	return records
}

// published returns the capture files of the published data with their names.
func published(t testing.TB) map[string][]record {
	t.Helper()
	root := testenv.SharedData(t)
	files := map[string][]record{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.Contains("README.md SHA256SUMS", entry.Name()) {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if records := readRecords(t, path); len(records) > 0 {
			files[filepath.ToSlash(name)] = records
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestScanPublished holds Scan against DecodeInner, and both against the
// decoder of the maintained gopacket, on every packet of the published
// captures.
func TestScanPublished(t *testing.T) {
	for name, records := range published(t) {
		for i, r := range records {
			if d := disagreement(r.link, r.data, r.wire); d != "" {
				t.Errorf("%s, record %d (%s): %s", name, i+1, r.link, d)
			}
			want, ok := libraryTuple(r)
			if got := r.scan(); ok && !unknownToLibrary[name] && got.Kind != BriefBad && ends(got.Key.Tuple()) != want {
				t.Errorf("%s, record %d: %s, the library says %s", name, i+1, got.Key.Tuple(), want)
			}
		}
	}
}

// unknownToLibrary are files that hold what the library does not look into, or
// looks into and Scan does not.
var unknownToLibrary = map[string]bool{
	"zeek/gre-erspan3-dot1q.pcap":     true, // no ERSPAN III
	"pcapplusplus/GrePackets.cap":     true, // PPP in the GRE of PPTP
	"tcpreplay/test2.rewrite_dlthdlc": true, // no C_HDLC
}

// ends are the addresses and ports of a tuple.
func ends(t Tuple) Tuple {
	return Tuple{Src: t.Src, Dst: t.Dst, SrcPort: t.SrcPort, DstPort: t.DstPort}
}

// libraryTuple returns the addresses and ports of the innermost packet that the
// library finds, and false where it fails. It gives a first fragment no ports.
func libraryTuple(r record) (Tuple, bool) {
	var found Tuple
	p := gopacket.NewPacket(r.data, layers.LinkType(r.link), gopacket.DecodeOptions{NoCopy: true})
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			found = Tuple{}
			found.Src, _ = netip.AddrFromSlice(l.SrcIP)
			found.Dst, _ = netip.AddrFromSlice(l.DstIP)
		case *layers.IPv6:
			found = Tuple{}
			found.Src, _ = netip.AddrFromSlice(l.SrcIP)
			found.Dst, _ = netip.AddrFromSlice(l.DstIP)
		case *layers.TCP:
			found.SrcPort, found.DstPort = uint16(l.SrcPort), uint16(l.DstPort)
		case *layers.UDP:
			found.SrcPort, found.DstPort = uint16(l.SrcPort), uint16(l.DstPort)
		case *layers.SCTP:
			found.SrcPort, found.DstPort = uint16(l.SrcPort), uint16(l.DstPort)
		case *gopacket.Fragment:
			return found, false
		}
	}
	return found, p.ErrorLayer() == nil
}

// TestPublishedTunnels looks for what tcpdump prints of these files.
func TestPublishedTunnels(t *testing.T) {
	files := published(t)
	layer := func(kind TunnelKind, id uint32, src, dst string) Layer {
		l := Layer{Kind: kind, ID: id}
		if src != "" {
			l.Src, l.Dst = netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
		}
		return l
	}
	tests := []struct {
		file   string
		record int
		tuple  string
		ttl    uint8
		layers []Layer
	}{
		{"tcpdump/vxlan.pcap", 1, "192.168.203.3 → 192.168.203.5", 64, []Layer{layer(VXLAN, 100, "192.168.203.1", "192.168.202.1")}},
		{"tcpdump/vxlan.pcap", 2, "192.168.202.1:42710 → 192.168.203.1:4789", 62, nil}, // carries ARP
		{"pcapplusplus/Vxlan1.pcap", 1, "192.168.203.3 → 192.168.203.5", 64, []Layer{layer(VXLAN, 3000001, "192.168.203.1", "192.168.202.1")}},
		{"tcpdump/gso-ipv4-vxlan-ipv4.pcap", 1, "192.168.1.2:37099 → 192.168.1.1:41547", 64, []Layer{layer(VXLAN, 5001, "10.25.132.11", "10.25.132.13")}},
		{"ndpi/vxlan.pcap", 1, "10.10.20.4:44437 → 8.8.8.8:53", 64, []Layer{layer(VXLAN, 1111, "192.168.22.4", "192.168.22.5")}},
		{"tcpdump/geneve.pcap", 1, "30.0.0.1 → 30.0.0.2", 64, []Layer{layer(Geneve, 10, "20.0.0.1", "20.0.0.2")}},
		{"tcpdump/geneve.pcap", 2, "30.0.0.2 → 30.0.0.1", 64, []Layer{layer(Geneve, 11, "20.0.0.2", "20.0.0.1")}},
		{"zeek/geneve-tagged-udp-packet.pcap", 1, "127.0.0.1:12345 → 127.0.0.1:31337", 255, []Layer{layer(Geneve, 100, "172.17.0.1", "172.17.0.2")}},
		{"skydive/gre-gre-icmpv4.pcap", 1, "10.10.25.1 → 192.168.1.2", 255, []Layer{
			layer(GRE, 0, "72.205.54.70", "86.106.164.150"), layer(GRE, 0, "10.10.11.2", "10.10.13.2"),
		}},
		{"zeek/gre-sample.pcap", 1, "66.59.111.190 → 172.28.2.3", 64, []Layer{layer(GRE, 0, "172.27.1.66", "66.59.109.137")}},
		{"skydive/ping-with-without-ethernet.pcap", 2, "192.168.2.3 → 192.168.1.3", 63, []Layer{
			layer(GRE, 0, "10.35.2.15", "10.35.2.17"), layer(MPLS, 37, "", ""),
		}},
		{"tcpdump/erspan-type-ii-1.pcap", 1, "10.48.6.1 → 224.0.0.13", 1, []Layer{layer(ERSPAN, 666, "1.1.1.2", "192.168.255.5")}},
		{"zeek/gre-erspan3-dot1q.pcap", 1, "172.31.10.31 → 172.31.10.2", 64, []Layer{layer(ERSPAN, 0, "172.31.1.23", "172.31.1.135")}},
		{"ndpi/4in4tunnel.pcap", 1, "10.10.100.25:62367 → 10.10.101.2:17000", 254, []Layer{layer(IPIP, 0, "69.67.35.146", "41.202.46.110")}},
		{"zeek/4in6.pcap", 1, "70.55.213.211:31337 → 192.88.99.1:80", 64, []Layer{layer(IPIP, 0, "2002:4637:d5d3::4637:d5d3", "2001:4860:0:2001::68")}},
		{"zeek/6in4.pcap", 1, "[dead::beef]:30000 → [cafe::babe]:13000", 64, []Layer{layer(IPIP, 0, "1.2.3.4", "5.6.7.8")}},
		{"arkime/ipv6-in-ipv4.pcap", 1, "2001:db8:0:1::1 → 2001:db8:0:1::2", 64, []Layer{layer(IPIP, 0, "10.0.0.1", "10.0.0.2")}},
		{"tcpdump/mpls-traceroute.pcap", 1, "12.4.4.4:42315 → 12.1.1.1:33435", 1, []Layer{layer(MPLS, 100704, "", "")}},
		{"tcpreplay/test.pcap", 142, "192.168.1.1 → 192.168.1.2", 255, []Layer{layer(MPLS, 16, "", "")}},
	}
	for _, tt := range tests {
		got := files[tt.file][tt.record-1].scan()
		if got.Key.Tuple().String() != tt.tuple || got.TTL != tt.ttl || !slices.Equal(got.Layers[:got.Tunnels], tt.layers) {
			t.Errorf("%s, record %d: %s, TTL %d, %+v", tt.file, tt.record, got.Key.Tuple(), got.TTL, got.Layers[:got.Tunnels])
		}
	}
}

// TestPublishedLengths takes the length of what segmentation offload left
// without one from the wire.
func TestPublishedLengths(t *testing.T) {
	files := published(t)
	for name, want := range map[string]uint32{
		"tcpdump/bigtcp-ipv4.pcap":           80066 - 14,
		"tcpdump/bigtcp-ipv6.pcap":           80094 - 24 - 16 - 14, // the file without its headers
		"tcpdump/gso-ipv4.pcap":              7306 - 14,
		"tcpdump/ipv4_tcp_http_xml_tso.pcap": 2070 - 24 - 16 - 14,
		"tcpdump/gso-ipv4-vxlan-ipv4.pcap":   7042,
	} {
		if got := files[name][0].scan(); got.Kind != BriefIP || got.Length != want || got.DataLength+40 > want || got.DataLength+90 < want {
			t.Errorf("%s: length %d, data %d, kind %d; want length %d", name, got.Length, got.DataLength, got.Kind, want)
		}
	}
}

// TestPublishedRewrites joins a capture and what tcpreplay made of it, record
// by record.
func TestPublishedRewrites(t *testing.T) {
	files := published(t)
	before := files["tcpreplay/test.pcap"]
	tests := []struct {
		file              string
		marks, keys, ttls int // records that differ
	}{
		{"test2.rewrite_pnat", 0, 43, 0},
		{"test2.rewrite_portmap", 0, 107, 0},
		{"test.rewrite_portmap", 0, 107, 0},
		{"test2.rewrite_mac", 0, 0, 0},
		{"test2.rewrite_1ttl", 0, 0, 157},
		{"test2.rewrite_vlan802.1ad", 0, 0, 0},
		{"test2.rewrite_mtutrunc", 0, 0, 0},
		// The 16 MPLS packets lost their labels and kept the protocol.
		{"test2.rewrite_dlthdlc", 16, 16, 16},
	}
	for _, tt := range tests {
		after := files["tcpreplay/"+tt.file]
		if len(before) != 179 || len(after) != len(before) {
			t.Errorf("%s: %d records for %d", tt.file, len(after), len(before))
			continue
		}
		marks, keys, ttls := 0, 0, 0
		for i := range before {
			b, a := before[i].scan(), after[i].scan()
			if b.Mark != a.Mark {
				marks++
			}
			if b.Key != a.Key {
				keys++
			}
			if b.TTL != a.TTL {
				ttls++
			}
		}
		if marks != tt.marks || keys != tt.keys || ttls != tt.ttls {
			t.Errorf("%s: %d marks, %d keys, %d TTLs differ; want %d, %d, %d", tt.file, marks, keys, ttls, tt.marks, tt.keys, tt.ttls)
		}
	}
}

// TestPublishedSightings counts how often each packet of a capture was seen:
// it maps a number of sightings to the number of packets.
func TestPublishedSightings(t *testing.T) {
	files := published(t)
	tests := []struct {
		files []string
		want  map[int]int
	}{
		{[]string{"skydive/ping-with-without-ethernet.pcap"}, map[int]int{2: 1}},
		{[]string{"arkime/http-post-upload.pcap"}, map[int]int{2: 17}},
		{[]string{"ndpi/ftp-start-tls.pcap"}, map[int]int{1: 19, 2: 16}},
		{[]string{"zeek/vlan-collisions.pcap"}, map[int]int{3: 14}},
		{[]string{"retis/test_events_packets.pcap"}, map[int]int{5: 1, 6: 1, 7: 1, 8: 1}},
		{[]string{"packets/ip_ttl_source.pcapng", "packets/ip_ttl_dest.pcapng"}, map[int]int{2: 2}},
		// The resolver's own query and its answer are no sightings of the client's.
		{[]string{"packets/dns_recursivequery_client.pcapng", "packets/dns_recursivequery_server.pcapng"}, map[int]int{1: 2, 2: 2}},
	}
	for _, tt := range tests {
		sightings := map[uint64]int{}
		for _, name := range tt.files {
			for _, r := range files[name] {
				sightings[r.scan().Mark]++
			}
		}
		got := map[int]int{}
		for _, n := range sightings {
			got[n]++
		}
		if !maps.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.files, got, tt.want)
		}
	}
	for i, r := range files["packets/ip_ttl_source.pcapng"] {
		source, dest := r.scan(), files["packets/ip_ttl_dest.pcapng"][i].scan()
		if source.Key != dest.Key || max(source.TTL, dest.TTL)-min(source.TTL, dest.TTL) != 1 {
			t.Errorf("routed: %+v, %+v", source, dest)
		}
	}
}

// TestPublishedAny tells the interfaces and directions of "-i any".
func TestPublishedAny(t *testing.T) {
	records := published(t)["zeek/linux_dlt_sll2.pcap"]
	ping, arp := records[0].scan(), records[4].scan()
	if ping.SLLInterface != 1 || ping.SLLType != 0 || ping.Key.ICMPType != EchoRequest {
		t.Errorf("%+v", ping)
	}
	if arp.SLLInterface != 26 || arp.SLLType != 4 || arp.Kind != BriefARP || arp.EtherSrc.String() != "8e:36:06:44:ac:af" {
		t.Errorf("%+v", arp)
	}
}
