//go:build linux

package peer

// FRR starts daemons of FRR's, zebra first; they are told what to do with vtysh.
func (m *Machine) FRR(daemons ...string) {
	m.t.Helper()
	m.Run("install", "-d", "-o", "frr", "-g", "frr", "/run/frr")
	for _, daemon := range daemons {
		m.Daemon(answers(m.Path("/run/frr/"+daemon+".vty")), "/usr/lib/frr/"+daemon)
	}
}
