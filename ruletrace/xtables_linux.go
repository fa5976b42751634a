package ruletrace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// LegacyTables returns the names of the x_tables tables that exist in the
// namespace, for IPv4 and IPv6. Looking makes none, as iptables-legacy would.
// A kernel without x_tables has none.
func LegacyTables(ns *netns.NS) (ipv4, ipv6 []string, err error) {
	err = ns.Do(func() error {
		// Not /proc/net: that is the thread-group leader's namespace.
		for file, into := range map[string]*[]string{"ip_tables_names": &ipv4, "ip6_tables_names": &ipv6} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			switch {
			case errors.Is(err, os.ErrNotExist):
				continue
			case err != nil:
				return fmt.Errorf("list legacy tables: %w", err)
			}
			*into = strings.Fields(string(text))
		}
		return nil
	})
	return ipv4, ipv6, err
}

// The x_tables socket options and structures, include/uapi/linux/netfilter/
// x_tables.h and netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h. They
// are read only for tables that exist: asking for another one makes it.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES
)

type xtInfo struct { // struct ipt_getinfo
	Name       [32]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	NumEntries uint32
	Size       uint32
}

type xtEntries struct { // struct ipt_get_entries
	Name    [32]byte
	Size    uint32
	Entries [0]uint64 // aligned like the counters in them
}

type xtEntry4 struct { // struct ipt_entry
	_            [84]byte // struct ipt_ip
	_            uint32   // nfcache
	TargetOffset uint16
	NextOffset   uint16
	_            uint32 // comefrom
	_            [2]uint64
}

type xtEntry6 struct { // struct ip6t_entry
	_            [136]byte // struct ip6t_ip6
	_            uint32    // nfcache
	TargetOffset uint16
	NextOffset   uint16
	_            uint32 // comefrom
	_            [2]uint64
}

// extension is one match or target of a legacy rule, undecoded.
type extension struct {
	name string
	data []byte
}

// legacyExtensions returns the matches and targets that the rules of an
// existing legacy table use.
func legacyExtensions(ns *netns.NS, ipv6 bool, table string) ([]extension, error) {
	blob, err := legacyBlob(ns, ipv6, table)
	if err != nil {
		return nil, fmt.Errorf("read legacy table %s: %w", table, err)
	}
	return walkExtensions(blob, ipv6)
}

// legacyBlob reads a table's rules as the kernel keeps them.
func legacyBlob(ns *netns.NS, ipv6 bool, table string) (blob []byte, err error) {
	family, level := unix.AF_INET, unix.SOL_IP
	if ipv6 {
		family, level = unix.AF_INET6, unix.SOL_IPV6
	}
	err = ns.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open raw socket: %w", err)
		}
		defer unix.Close(fd) //nolint:errcheck // nothing was written
		for {
			var info xtInfo
			copy(info.Name[:len(info.Name)-1], table)
			if err := getsockopt(fd, level, soGetInfo, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))); err != nil {
				return err
			}
			header := int(unsafe.Offsetof(xtEntries{}.Entries))
			buffer := make([]byte, header+int(info.Size))
			copy(buffer[:len(info.Name)-1], table)
			binary.NativeEndian.PutUint32(buffer[unsafe.Offsetof(xtEntries{}.Size):], info.Size)
			err := getsockopt(fd, level, soGetEntries, buffer)
			if errors.Is(err, unix.EAGAIN) {
				continue // replaced since its size was read
			}
			blob = buffer[header:]
			return err
		}
	})
	return blob, err
}

func getsockopt(fd, level, option int, value []byte) error {
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}

// walkExtensions lists the matches and targets in a table's blob.
func walkExtensions(blob []byte, ipv6 bool) ([]extension, error) {
	offsets, elems := int(unsafe.Offsetof(xtEntry4{}.TargetOffset)), int(unsafe.Sizeof(xtEntry4{}))
	if ipv6 {
		offsets, elems = int(unsafe.Offsetof(xtEntry6{}.TargetOffset)), int(unsafe.Sizeof(xtEntry6{}))
	}
	errLayout := errors.New("unknown layout")
	const extensionHeader = 32 // u16 size, name[29], u8 revision
	var found []extension
	for len(blob) > 0 {
		if len(blob) < elems {
			return nil, errLayout
		}
		target := int(binary.NativeEndian.Uint16(blob[offsets:]))
		next := int(binary.NativeEndian.Uint16(blob[offsets+2:]))
		if target < elems || next < target+extensionHeader || next > len(blob) {
			return nil, errLayout
		}
		for at := elems; at < next; {
			if next-at < extensionHeader {
				return nil, errLayout
			}
			size := int(binary.NativeEndian.Uint16(blob[at:]))
			if size < extensionHeader || size > next-at {
				return nil, errLayout
			}
			name, _, _ := bytes.Cut(blob[at+2:at+2+29], []byte{0})
			found = append(found, extension{string(name), blob[at+extensionHeader : at+size]})
			at += size
		}
		blob = blob[next:]
	}
	return found, nil
}
