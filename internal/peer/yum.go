//go:build linux

package peer

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// packageSpec describes a package with a file that no compression makes small:
// its download takes some hundred segments.
const packageSpec = `%define __os_install_post %{nil}
%define __check_files %{nil}
Name: hello
Version: 1
Release: 1
Summary: Nothing but a file
License: none
BuildArch: noarch
%description
A file.
%install
mkdir -p %{buildroot}/opt
head -c 300000 /dev/urandom >%{buildroot}/opt/hello
%files
/opt/hello
`

// buildPackage builds it with librpmbuild, which dnf comes with; the program
// rpmbuild does not. The numbers are RPMBUILD_INSTALL, _FILECHECK and
// _PACKAGEBINARY (rpm/rpmbuild.h).
const buildPackage = `
import ctypes, rpm
rpm.addMacro("_topdir", "/tmp/rpm")
class Arguments(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint), ("amount", ctypes.c_uint), ("root", ctypes.c_char_p), ("cookie", ctypes.c_char_p), ("rootdir", ctypes.c_char_p)]
library = ctypes.CDLL("librpmbuild.so.9")
library.rpmSpecParse.restype = library.rpmtsCreate.restype = ctypes.c_void_p
library.rpmSpecBuild.argtypes = [ctypes.c_void_p] * 3
spec = library.rpmSpecParse(b"/tmp/rpm/hello.spec", 0, None)
arguments = Arguments(0, 1 << 2 | 1 << 5 | 1 << 7, None, None, None)
assert library.rpmSpecBuild(library.rpmtsCreate(), spec, ctypes.byref(arguments)) == 0
`

// Repository makes a repository with the package hello, and serves it on HTTP at
// an address of the machine.
func (m *Machine) Repository(address netip.AddrPort) {
	m.t.Helper()
	m.Write("/tmp/rpm/hello.spec", packageSpec)
	m.Run("mkdir", "-p", "/tmp/rpm/BUILD", "/tmp/rpm/RPMS", "/usr/lib/rpm/fileattrs")
	m.Write("/usr/lib/rpm/fileattrs/none.attr", "") // it wants one
	m.Run("python3", "-c", buildPackage)
	m.Run("createrepo_c", "/tmp/rpm/RPMS")
	m.Serve(address, http.FileServer(http.Dir(m.Path("/tmp/rpm/RPMS"))))
}

// Serve answers HTTP requests at an address of the machine until the test ends.
func (m *Machine) Serve(address netip.AddrPort, handler http.Handler) {
	m.t.Helper()
	m.serve(m.Listen(address), handler)
}

// ServeTLS accepts TLS connections, of which the configuration says what becomes.
func (m *Machine) ServeTLS(address netip.AddrPort, config *tls.Config) {
	m.t.Helper()
	m.serve(tls.NewListener(m.Listen(address), config), http.NotFoundHandler())
}

func (m *Machine) serve(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // until it is closed
	m.t.Cleanup(func() {
		_ = server.Close() // the listener's end is all that matters
		serving.Wait()
	})
}

// Listen listens on TCP at an address of the machine.
func (m *Machine) Listen(address netip.AddrPort) net.Listener {
	m.t.Helper()
	var listener net.Listener
	err := m.NetNS.Do(func() (err error) {
		listener, err = net.Listen("tcp", address.String())
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return listener
}

// Tinyproxy starts a proxy that listens at an address, with further lines of its
// configuration.
func (m *Machine) Tinyproxy(address netip.AddrPort, options ...string) {
	m.t.Helper()
	config := fmt.Sprintf("/etc/tinyproxy/%d.conf", address.Port())
	m.Write(config, fmt.Sprintf("Port %d\nListen %s\nMaxClients 20\nTimeout 10\n%s\n", address.Port(), address.Addr(), strings.Join(options, "\n")))
	m.Daemon(m.Listens(address.String()), "tinyproxy", "-d", "-c", config)
}

const yumImage = "yum"

// yumFiles are arguments of docker run: the container has the programs of the
// machine, and the machine's /etc/yum.conf and /etc/yum.repos.d.
var yumFiles = []string{
	"--volume", "/usr:/usr", "--volume", "/etc/yum.conf:/etc/dnf/dnf.conf:ro", "--volume", "/etc/yum.repos.d:/etc/yum.repos.d:ro",
}

// YumContainer starts a container that has yum, with the arguments of docker run
// before the image.
func (d *Docker) YumContainer(name string, args ...string) {
	d.t.Helper()
	d.containerOf(yumImage, "docker", name, slices.Concat(yumFiles, args))
}

// Yum makes the image of containers that have yum.
func (d *Docker) Yum() {
	d.t.Helper()
	const root = "/tmp/yum"
	d.Run("sh", "-euc", `
		ln -sf dnf /usr/bin/yum
		mkdir -p `+root+`
		cd `+root+`
		mkdir usr etc etc/dnf etc/yum.repos.d proc sys dev tmp root var var/lib var/cache var/log run opt
		for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
		cp /etc/passwd /etc/group etc
		echo 'hosts: files dns' >etc/nsswitch.conf
		tar -cf /tmp/yum.tar .
		docker import /tmp/yum.tar `+yumImage)
}
