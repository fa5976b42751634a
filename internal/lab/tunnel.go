//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tunnelEnd is one end of a VPN: the tunnel interface that it brings up, and
// the address from which it sends to the other end what goes in there.
type tunnelEnd struct {
	node    *node
	name    string
	outside netip.Addr
}

const (
	tunnelPort = 1194
	// tunnelMTU leaves room for the headers outside.
	tunnelMTU = 1400
)

// tunnel connects two ends by a small VPN: a tun device at each, and between
// them datagrams that carry the packets. Where tun devices may not be had, as
// in the user namespace of somebody who may not open /dev/net/tun, it is a
// VXLAN, and the network's remarks say so.
func (b *builder) tunnel(a, z tunnelEnd) {
	var devices []*os.File
	for _, end := range []tunnelEnd{a, z} {
		b.do(fmt.Sprintf("create tunnel %s in %s", end.name, end.node.name), func() error {
			device, err := end.openTun()
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			if err == nil {
				devices = append(devices, device)
				b.undo(device.Close)
			}
			return err
		})
	}
	if b.err == nil && len(devices) < 2 {
		b.network.Remarks = append(b.network.Remarks, "/dev/net/tun cannot be used here: the VPN's tunnel is a VXLAN in place of a tun device")
		a.vxlan(z.outside)
		z.vxlan(a.outside)
	} else {
		b.relay(a, z, devices)
	}
	a.node.up(a.name)
	z.node.up(z.name)
}

// openTun makes the tun device; it is gone when the file is closed
// (Documentation/networking/tuntap.rst).
func (e tunnelEnd) openTun() (device *os.File, err error) {
	err = e.node.ns.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(e.node.disguise.iface(e.name))
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		device = os.NewFile(uintptr(fd), "/dev/net/tun")
		return nil
	})
	if err != nil {
		return nil, err
	}
	link, err := e.node.link(e.name)
	if err == nil {
		err = e.node.handle.LinkSetMTU(link, tunnelMTU)
	}
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return device, nil
}

// relay carries packets between the devices of two ends until the network is
// closed.
func (b *builder) relay(a, z tunnelEnd, devices []*os.File) {
	var sockets []*net.UDPConn
	for _, end := range []tunnelEnd{a, z} {
		b.do(fmt.Sprintf("open the socket of tunnel %s in %s", end.name, end.node.name), func() error {
			return end.node.ns.Do(func() error {
				socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(b.outside(end)))
				if err == nil {
					sockets = append(sockets, socket)
					b.undo(socket.Close)
				}
				return err
			})
		})
	}
	if b.err != nil {
		return
	}
	for i, other := range []tunnelEnd{z, a} {
		device, socket, to := devices[i], sockets[i], b.outside(other)
		b.network.services.Go(func() {
			packet := make([]byte, 1<<16)
			for {
				length, err := device.Read(packet)
				if err != nil {
					return
				}
				// What cannot be sent is lost, as on any wire.
				_, _ = socket.WriteToUDPAddrPort(packet[:length], to)
			}
		})
		b.network.services.Go(func() {
			packet := make([]byte, 1<<16)
			for {
				length, _, err := socket.ReadFromUDPAddrPort(packet)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil { // else an ICMP error came back
					_, _ = device.Write(packet[:length])
				}
			}
		})
	}
}

// outside is where an end sends from.
func (b *builder) outside(e tunnelEnd) netip.AddrPort {
	return netip.AddrPortFrom(b.disguise.address(e.outside), tunnelPort)
}

// vxlan makes the interface of an end a VXLAN to the other one.
func (e tunnelEnd) vxlan(other netip.Addr) {
	n := e.node
	n.do(fmt.Sprintf("create tunnel %s in %s", e.name, n.name), func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = n.disguise.iface(e.name), tunnelMTU, n.mac()
		return n.handle.LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: 1, Port: tunnelPort, Learning: true,
			SrcAddr: n.disguise.address(e.outside).AsSlice(), Group: n.disguise.address(other).AsSlice(),
		})
	})
}
