//go:build linux

package peer

import (
	"errors"
	"strings"
)

// firewalldState asks firewalld for its state; firewall-cmd would take a second.
var firewalldState = strings.Fields("--system --print-reply --dest=org.fedoraproject.FirewallD1 " +
	"/org/fedoraproject/FirewallD1 org.freedesktop.DBus.Properties.Get string:org.fedoraproject.FirewallD1 string:state")

// Firewalld starts firewalld and the message bus that it is asked over; it is
// told what to do with firewall-cmd, or before it starts with
// firewall-offline-cmd.
func (m *Machine) Firewalld() {
	m.t.Helper()
	m.bus()
	m.Daemon(func() error {
		state, err := m.Try("dbus-send", firewalldState...)
		if err == nil && !strings.Contains(state, `"RUNNING"`) {
			err = errors.New(state)
		}
		return err
	}, "firewalld", "--nofork", "--nopid")
}

// bus starts the system's D-Bus.
func (m *Machine) bus() {
	m.t.Helper()
	m.Run("mkdir", "-p", "/run/dbus")
	m.Daemon(answers(m.Path("/run/dbus/system_bus_socket")), "dbus-daemon", "--system", "--nofork", "--nopidfile")
}
