package ruletrace

import (
	"encoding/binary"
	"net/netip"

	vishnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Packets by hand: what a router may meet includes packets that no socket of a
// test would send.

// ipv4 returns a packet; flags is the word with the fragment offset.
func ipv4Packet(protocol byte, src, dst netip.Addr, flags uint16, payload []byte) []byte {
	p := make([]byte, 20, 20+len(payload))
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(p[4:], 77)
	binary.BigEndian.PutUint16(p[6:], flags)
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	return append(p, payload...)
}

func ipv6Packet(next byte, src, dst netip.Addr, payload []byte) []byte {
	p := make([]byte, 40, 40+len(payload))
	p[0], p[6], p[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())
	return append(p, payload...)
}

func icmpMessage(kind, code byte, id uint16, data ...byte) []byte {
	p := []byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}
	return append(p, data...)
}

func tcpSegment(src, dst uint16, flags byte) []byte {
	p := make([]byte, 20)
	binary.BigEndian.PutUint16(p, src)
	binary.BigEndian.PutUint16(p[2:], dst)
	p[12], p[13] = 5<<4, flags
	return p
}

func udpDatagram(src, dst uint16, data ...byte) []byte {
	p := make([]byte, 8)
	binary.BigEndian.PutUint16(p, src)
	binary.BigEndian.PutUint16(p[2:], dst)
	binary.BigEndian.PutUint16(p[4:], uint16(8+len(data)))
	return append(p, data...)
}

// inject sends packets from an interface of the namespace to the interface peer
// of another.
func (s space) inject(link string, to space, peer string, packets ...[]byte) {
	s.t.Helper()
	var mac []byte
	to.do(func() error {
		l, err := vishnetlink.LinkByName(peer)
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	})
	s.do(func() error {
		l, err := vishnetlink.LinkByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // test
		for _, packet := range packets {
			etherType := uint16(unix.ETH_P_IP)
			if packet[0]>>4 == 6 {
				etherType = unix.ETH_P_IPV6
			}
			address := &unix.SockaddrLinklayer{Protocol: etherType<<8 | etherType>>8, Ifindex: l.Attrs().Index, Halen: 6}
			copy(address.Addr[:], mac)
			if err := unix.Sendto(fd, packet, 0, address); err != nil {
				return err
			}
		}
		return nil
	})
}
