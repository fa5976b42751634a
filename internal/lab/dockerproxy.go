//go:build linux

package lab

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// ProxyName is the name of the program that answers for ports that Docker
// publishes where no DNAT rule does.
const ProxyName = "docker-proxy"

// ProxyMain makes this process be docker-proxy, or the part of dockerd that
// answers DNS queries, and does not return, when it was started by that name, as
// Build does. A program that calls Build calls it first.
func ProxyMain() {
	name := filepath.Base(os.Args[0])
	var err error
	switch name {
	case ProxyName:
		err = runProxy(os.Args[1:])
	case ResolverName:
		err = runResolver(os.Args[1:])
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err) //nolint:errcheck // nowhere left to tell
		os.Exit(1)
	}
	os.Exit(0)
}

// runProxy passes connections on until standard input ends, as it does when the
// process that holds its other end does.
func runProxy(args []string) error {
	flags := flag.NewFlagSet(ProxyName, flag.ContinueOnError)
	_ = flags.String("proto", "tcp", "")
	from, fromPort := flags.String("host-ip", "", ""), flags.String("host-port", "", "")
	to, toPort := flags.String("container-ip", "", ""), flags.String("container-port", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	network := "tcp4"
	if strings.Contains(*from, ":") {
		network = "tcp6"
	}
	listener, err := net.Listen(network, net.JoinHostPort(*from, *fromPort))
	if err != nil {
		return err
	}
	if err := sayReady(); err != nil {
		return err
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go passOn(client, net.JoinHostPort(*to, *toPort))
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// sayReady tells the process that started this one, as docker-proxy does.
func sayReady() error {
	ready := os.NewFile(3, "ready")
	_, err := io.WriteString(ready, "0\n")
	return errors.Join(err, ready.Close())
}

// passOn carries one connection over another one. When the second cannot be
// made the client sees the first one end.
func passOn(client net.Conn, target string) {
	defer client.Close() //nolint:errcheck // its end is all there is to tell
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close() //nolint:errcheck // the client has seen its end
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client)
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(client, server)
	_ = client.(*net.TCPConn).CloseWrite()
	<-done
}

// dockerProxy runs a process in the namespace that listens on a port and passes
// connections on to a target. It has the name and the command line of Docker's,
// and like that it makes a connection to the target for each that it accepts.
func (n *node) dockerProxy(port uint16, target netip.AddrPort) {
	target = netip.AddrPortFrom(n.disguise.address(target.Addr()), target.Port())
	n.do(fmt.Sprintf("run %s in %s", ProxyName, n.name), func() error {
		return n.playing(ProxyName, nil, "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", strconv.Itoa(int(port)),
			"-container-ip", target.Addr().String(), "-container-port", strconv.Itoa(int(target.Port())))
	})
}

// playing starts this program as another one in the namespace, with files that it
// finds from number 4 on, and returns when that says that it is ready. It ends
// with the network, and with the process that built it.
func (n *node) playing(name string, files []*os.File, args ...string) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close() //nolint:errcheck // all that matters was read
	cmd := &exec.Cmd{
		Args: append([]string{name}, args...), Env: []string{}, Stderr: os.Stderr, ExtraFiles: append([]*os.File{write}, files...),
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, write.Close())
	}
	if err := errors.Join(n.startAs(cmd, name), write.Close()); err != nil {
		return errors.Join(err, stdin.Close())
	}
	n.undo(func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it says that the process was killed
		return err
	})
	if ready, err := io.ReadAll(read); err != nil || string(ready) != "0\n" {
		return fmt.Errorf("it does not get ready (this program has to call lab.ProxyMain): %w", err)
	}
	return nil
}

// startAs starts this program in the namespace by another name, which is what
// the kernel calls the process. The link that has the name is gone when it runs.
func (n *node) startAs(cmd *exec.Cmd, name string) error {
	dir, err := os.MkdirTemp("", "pathtrace-lab")
	if err != nil {
		return err
	}
	cmd.Path = filepath.Join(dir, name)
	if err = os.Symlink("/proc/self/exe", cmd.Path); err == nil {
		err = n.ns.Do(cmd.Start)
	}
	return errors.Join(err, os.RemoveAll(dir))
}
