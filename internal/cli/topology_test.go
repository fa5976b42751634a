//go:build linux

package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/internal/topology"
)

// TestPrintTopology draws what a user is to see: the bridge with the ports
// that matter, states that are not as they should be, and no noise.
func TestPrintTopology(t *testing.T) {
	prefix := netip.MustParsePrefix
	snapshot := &topology.Snapshot{
		Source: "cnt01", Target: netip.MustParseAddr("192.0.2.9"), Problems: []string{"host: read routes: \x1b[2J"},
		Steps: []topology.Step{
			{NetNS: "cnt01", Target: netip.MustParseAddr("192.0.2.9"), Route: "default via 172.17.0.1 dev eth0", Policy: "32766: from all lookup main"},
			{NetNS: "host", Target: netip.MustParseAddr("192.0.2.9"), Route: "default dev tun0 table 42", Policy: "100: from all lookup 42", Undetermined: "it depends"},
			{NetNS: "host", Target: netip.IPv6Unspecified()},
		},
		Namespaces: []topology.Namespace{
			{Name: "cnt01", Links: []topology.Link{
				{Name: "lo", Kind: "loopback", Role: capture.RoleLoopback, Up: true, Carrier: true, MTU: 65536, Addresses: []netip.Prefix{prefix("127.0.0.1/8")}},
				{Name: "tunl0", Kind: "ipip", Role: capture.RoleTunnel, MTU: 1480},
				{
					Name: "eth0", Kind: "veth", Role: capture.RoleContainer, Up: true, Carrier: true, MTU: 1500,
					Addresses:    []netip.Prefix{prefix("172.17.0.2/16"), prefix("fd00::2/64")},
					AddressFlags: map[netip.Addr][]string{netip.MustParseAddr("fd00::2"): {"tentative"}},
					Peer:         &topology.Peer{NetNS: "host", Interface: "veth0"},
				},
			}},
			{Name: "host", All: topology.Settings{ForwardIPv4: true}, Links: []topology.Link{
				{Name: "docker0", Kind: "bridge", Role: capture.RoleBridge, Up: true, MTU: 1500},
				{
					Name: "veth0", Kind: "veth", Role: capture.RoleVeth, Bridge: "docker0", Up: true, Carrier: true, MTU: 1500,
					Port: &topology.Port{State: "learning"}, Peer: &topology.Peer{NetNS: "cnt01", Interface: "eth0"},
				},
				{Name: "veth1", Kind: "veth", Role: capture.RoleVeth, Bridge: "docker0", Up: true, Carrier: true, MTU: 1500, Peer: &topology.Peer{NetNS: "pid 7"}},
				{Name: "veth2", Kind: "veth", Role: capture.RoleVeth, Bridge: "docker0", Up: true, Carrier: true, MTU: 1500, Peer: &topology.Peer{}},
				{Name: "eth0", Role: capture.RoleUplink, MTU: 1500},
			}},
		},
	}
	const want = `cnt01 -> web\x1b (192.0.2.9)

cnt01
|- eth0            container up         mtu 1500  -> host/veth0
|     172.17.0.2/16
|     fd00::2/64 tentative
` + "`" + `- to 192.0.2.9: default via 172.17.0.1 dev eth0

host  forwards IPv4
|- docker0         bridge    no-carrier mtu 1500
|  |- veth0           veth      up         mtu 1500  port learning  -> cnt01/eth0
|  |- veth2           veth      up         mtu 1500  -> a namespace that cannot be seen
|  ` + "`" + `- 1 more port, not on the way
|- eth0            uplink    down       mtu 1500
|- to 192.0.2.9: default dev tun0 table 42
|     by policy rule 100: from all lookup 42
|     not certain: it depends
` + "`" + `- to default: no route

not read: host: read routes: \x1b[2J
`
	var out bytes.Buffer
	if err := printTopology(&out, snapshot, "web\x1b (192.0.2.9)", asciiDrawing); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	boxes := strings.NewReplacer("|- ", "├─ ", "`- ", "└─ ", "|  ", "│  ", "->", "→").Replace(want)
	out.Reset()
	if err := printTopology(&out, snapshot, "web\x1b (192.0.2.9)", boxDrawing); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(boxes, out.String()); diff != "" {
		t.Errorf("box drawing (-want +got):\n%s", diff)
	}
}

func TestTopologyDemo(t *testing.T) {
	t.Parallel()
	isolated(t)
	status, stdout, stderr := runProgram(t, program(t, nil, "demo", "ipv6-masquerade", "--",
		"topology", "dns.google", "-6", "--container", "cnt01", "-o", "json"))
	if status != exitOK {
		t.Fatalf("status %d: %s", status, stderr)
	}
	var snapshot topology.Snapshot
	if err := json.Unmarshal([]byte(stdout), &snapshot); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, step := range snapshot.Steps {
		names = append(names, step.NetNS)
	}
	if want := []string{"cnt01", "host", "router", "gateway"}; !slices.Equal(names, want) || snapshot.Source != "cnt01" {
		t.Errorf("steps of %s in %q, want %q", snapshot.Source, names, want)
	}
	if got := snapshot.Namespace("host").Link("ens192"); got == nil || got.Role != capture.RoleUplink {
		t.Errorf("ens192 is %+v", got)
	}
}

// TestSourceErrors: each way to ask for no place ends with status 2 and a word
// about what was wrong.
func TestSourceErrors(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--container", ""}, "--container names nothing"},
		{[]string{"--netns="}, "--netns names nothing"},
		{[]string{"--pid", "0"}, "--pid names nothing"},
		{[]string{"--pid", "-3"}, "--pid names nothing"},
		{[]string{"--pid", "1", "--netns", "a"}, "none of the others can be"},
		{[]string{"--container", "no such thing"}, `no container "no such thing"`},
		{[]string{"--container", "no such thing", "--engine", "docker"}, "no docker daemon at /nonexistent/docker.sock"},
		{[]string{"--netns", "/etc/passwd"}, "not a network namespace"},
		{[]string{"--pid", "1073741824"}, "no process has pid 1073741824"},
	} {
		var errs bytes.Buffer
		env := &environment{out: io.Discard, err: &errs}
		status := run(t.Context(), append([]string{"topology"}, tt.args...), env)
		if status != exitCannotRun || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%q: status %d, %q; want %q", tt.args, status, errs.String(), tt.want)
		}
	}
}
