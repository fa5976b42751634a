package container

import "testing"

// TestEnter wants a command that enters a namespace, or none where the name is
// not one word to a shell.
func TestEnter(t *testing.T) {
	for name, want := range map[string]string{
		"cnt01":        "ip netns exec cnt01",
		"pid 4711":     "nsenter --target 4711 --net",
		"docker 1a2b3": "nsenter --net=/run/docker/netns/1a2b3",
		"a; reboot":    "", "pid $(reboot)": "", "docker ../x": "", "-all": "", "": "",
	} {
		if got := Enter(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
