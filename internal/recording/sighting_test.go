package recording_test

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/klauspost/compress/zstd"

	"github.com/pathtrace/pathtrace/internal/recording"
)

// sighting is a packet in a capture, as a library of others decodes it: the
// truth must not rest on what it is there to test.
type sighting struct {
	point, tunnel                 string
	protocol, source, destination string
	// kind and id are those of ICMP; kind is "request", "reply" or "error".
	kind string
	id   uint16
	// stream is the length of TCP's data, end its sequence number behind that and
	// a FIN.
	stream   int
	fin      bool
	end, ack uint32
}

// fragment is what the fragments of a packet have in common.
type fragment struct {
	source, destination string
	protocol            layers.IPProtocol
	id                  uint16
}

// capture is a file of a recording that was read.
type capture struct {
	linkType  int
	records   int
	sightings []sighting
}

// readCapture reads a capture file of a recording.
func readCapture(t testing.TB, path string, file recording.File) capture {
	t.Helper()
	c, err := tryCapture(path, file)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return c
}

// tryCapture may meet a file that is still being written.
func tryCapture(path string, file recording.File) (c capture, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	var content io.Reader = f
	switch {
	case strings.HasSuffix(path, ".gz"):
		content, err = gzip.NewReader(f)
	case strings.HasSuffix(path, ".zst"):
		var decoder *zstd.Decoder
		if decoder, err = zstd.NewReader(f); err == nil {
			defer decoder.Close()
			content = decoder
		}
	}
	if err != nil {
		return c, err
	}
	reader, err := newReader(content)
	if err != nil {
		return c, err
	}
	link := reader.LinkType()
	c.linkType = int(link)
	first := make(map[fragment]sighting)
	for {
		data, info, err := reader.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return c, err
		}
		c.records++
		if info.InterfaceIndex >= len(file.Points) {
			return c, fmt.Errorf("a packet of interface %d, where there are %d", info.InterfaceIndex, len(file.Points))
		}
		c.sightings = append(c.sightings, sightingsOf(gopacket.NewPacket(data, link, gopacket.NoCopy), file.Points[info.InterfaceIndex], first)...)
	}
}

// packetReader is pcapgo's reader of either format.
type packetReader interface {
	gopacket.PacketDataSource
	LinkType() layers.LinkType
}

func newReader(content io.Reader) (packetReader, error) {
	buffered := bufio.NewReader(content)
	magic, err := buffered.Peek(4)
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(magic) == 0x0a0d0d0a { // a section header block
		return pcapgo.NewNgReader(buffered, pcapgo.DefaultNgReaderOptions)
	}
	return pcapgo.NewReader(buffered)
}

// sightingsOf are the IP packets of a frame, those in tunnels too.
func sightingsOf(p gopacket.Packet, point string, first map[fragment]sighting) (all []sighting) {
	tunnel := ""
	var s *sighting
	length := 0 // of what is behind the IP header
	for _, layer := range p.Layers() {
		switch l := layer.(type) {
		case *layers.VXLAN:
			tunnel = fmt.Sprintf("VXLAN %d", l.VNI)
		case *layers.IPv4:
			all = append(all, sighting{point: point, tunnel: tunnel, source: l.SrcIP.String(), destination: l.DstIP.String()})
			s, length = &all[len(all)-1], int(l.Length)-4*int(l.IHL)
			if l.Flags&layers.IPv4MoreFragments != 0 || l.FragOffset > 0 {
				ofFragment(s, l, first)
			}
		case *layers.IPv6:
			all = append(all, sighting{point: point, tunnel: tunnel, source: l.SrcIP.String(), destination: l.DstIP.String()})
			s, length = &all[len(all)-1], int(l.Length)
		case *layers.ICMPv4:
			s.protocol, s.kind, s.id = "icmp", kindOf(l.TypeCode.Type(), layers.ICMPv4TypeEchoRequest, layers.ICMPv4TypeEchoReply), l.Id
		case *layers.ICMPv6:
			s.protocol, s.kind = "icmpv6", kindOf(l.TypeCode.Type(), layers.ICMPv6TypeEchoRequest, layers.ICMPv6TypeEchoReply)
		case *layers.ICMPv6Echo:
			s.id = l.Identifier
		case *layers.UDP:
			s.protocol, s.source, s.destination = "udp", port(s.source, uint16(l.SrcPort)), port(s.destination, uint16(l.DstPort))
		case *layers.TCP:
			s.protocol, s.source, s.destination = "tcp", port(s.source, uint16(l.SrcPort)), port(s.destination, uint16(l.DstPort))
			s.stream, s.fin, s.ack = length-4*int(l.DataOffset), l.FIN, l.Ack
			s.end = l.Seq + uint32(s.stream)
			if l.FIN {
				s.end++
			}
		}
	}
	return all
}

// ofFragment completes a fragment of an ICMP message: later ones with what the
// first one says.
func ofFragment(s *sighting, l *layers.IPv4, first map[fragment]sighting) {
	key := fragment{s.source, s.destination, l.Protocol, l.Id}
	if l.FragOffset == 0 && l.Protocol == layers.IPProtocolICMPv4 && len(l.Payload) >= 8 {
		first[key] = sighting{
			protocol: "icmp", kind: kindOf(l.Payload[0], layers.ICMPv4TypeEchoRequest, layers.ICMPv4TypeEchoReply),
			id: binary.BigEndian.Uint16(l.Payload[4:]),
		}
	}
	s.protocol, s.kind, s.id = first[key].protocol, first[key].kind, first[key].id
}

func kindOf(kind, request, reply uint8) string {
	switch kind {
	case request:
		return "request"
	case reply:
		return "reply"
	}
	return "error"
}

func port(address string, port uint16) string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return fmt.Sprintf("%s:%d", address, port)
}

// legs are the stops of a flow by what ICMP messages are on them.
func legs(f *recording.Flow) map[string][]recording.Stop {
	return map[string][]recording.Stop{"request": f.Request, "reply": f.Reply, "error": f.Errors}
}

// at picks the sightings of a flow at a stop.
func at(all []sighting, f *recording.Flow, kind string, stop recording.Stop) (found []sighting) {
	protocol := f.Protocol
	if kind == "error" {
		protocol = "icmp"
		if strings.Contains(stop.Source, ":") {
			protocol = "icmpv6"
		}
	}
	for _, s := range all {
		if s.point != stop.Point || s.tunnel != stop.Tunnel || s.protocol != protocol || s.source != stop.Source || s.destination != stop.Destination {
			continue
		}
		if s.kind != "" && s.kind != kind || kind != "error" && s.id != f.ID {
			continue
		}
		found = append(found, s)
	}
	return found
}

// stream is the number of bytes of TCP data.
func stream(all []sighting) (sum int) {
	for _, s := range all {
		sum += s.stream
	}
	return sum
}

// closed reports whether one side ended a TCP connection and the other one
// acknowledged that.
func closed(there, back []sighting) bool {
	for _, s := range there {
		if !s.fin {
			continue
		}
		for _, answer := range back {
			if answer.ack == s.end {
				return true
			}
		}
	}
	return false
}
