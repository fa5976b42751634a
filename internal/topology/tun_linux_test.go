package topology

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/testenv"
)

// TestTunRole: a tun device is a tunnel, whatever the library calls its kind.
func TestTunRole(t *testing.T) {
	testenv.Root(t) // /dev/net/tun is often root's
	s := newSpace(t)
	var tun *os.File
	err := s.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			testenv.Skip(t, "/dev/net/tun: "+err.Error())
		}
		tun = os.NewFile(uintptr(fd), "tun")
		request, err := unix.NewIfreq("tun7")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if tun != nil {
		defer tun.Close() //nolint:errcheck // takes the interface with it
	}
	s.must(err)
	snapshot, _ := discover(t, Config{Host: s.NS, Candidates: []Candidate{}})
	if link := snapshot.Namespaces[0].Link("tun7"); link == nil || link.Kind != "tun" || link.Role != capture.RoleTunnel {
		t.Errorf("tun7 is %+v", link)
	}
}
