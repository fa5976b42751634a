//go:build linux

package lab

import (
	"errors"
	"net"
	"sync"
)

// connections are those that a listener accepted, so that closing the network
// ends them.
type connections struct {
	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

// add keeps a connection; it reports false, and closes it, when there are to be
// no more.
func (c *connections) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return false
	}
	c.open[conn] = true
	return true
}

func (c *connections) done(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[conn] {
		delete(c.open, conn)
		_ = conn.Close()
	}
}

func (c *connections) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var err error
	for conn := range c.open {
		err = errors.Join(err, conn.Close())
	}
	clear(c.open)
	return err
}

// acceptAll serves each connection until the listener is closed.
func acceptAll(listener net.Listener, all *connections, serve func(net.Conn)) {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		if !all.add(conn) {
			return
		}
		serving.Go(func() {
			defer all.done(conn)
			serve(conn)
		})
	}
}
