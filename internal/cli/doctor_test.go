//go:build linux

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/container"
	"github.com/pathtrace/pathtrace/internal/doctor"
	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// treatment is what the program "cure" did in a network.
type treatment struct {
	// Checkups are what doctor said, first and after each round of fixes.
	Checkups []report.Checkup
	Status   []int
	// Commands are the fixes that were run, Failed is the error of one.
	Commands []string
	Failed   string
	// Probe is the exit status of the probe at the end, -1 for none.
	Probe int
}

// maxRounds bounds the rounds of fixes: one may uncover the next error.
const maxRounds = 3

// cure is the program
//
//	cure config|commands|warnings ARGUMENT...
//
// that runs doctor, does what the errors propose, and runs doctor again, until it
// finds none; then it runs pathtrace with the arguments. With "config" it does
// what the first line for daemon.json makes Docker do, in place of the commands,
// with "warnings" what these propose.
func cure(args []string) int {
	t := treatment{Probe: -1}
	for round := 0; ; round++ {
		c, status, err := checkupOf(nil)
		if err != nil {
			t.Failed = err.Error()
			break
		}
		t.Checkups, t.Status = append(t.Checkups, *c), append(t.Status, status)
		lines := fixes(c, args[0])
		if round == maxRounds || len(lines) == 0 {
			break
		}
		if t.Commands = append(t.Commands, lines...); !runAll(&t, lines) {
			break
		}
	}
	if len(args) > 1 {
		cmd := exec.Command("pathtrace", args[1:]...)
		_ = cmd.Run() // the status says all
		t.Probe = cmd.ProcessState.ExitCode()
	}
	if err := json.NewEncoder(os.Stdout).Encode(t); err != nil {
		return 2
	}
	return 0
}

// checkupOf runs doctor, and wants what it saves to give what it printed: of one
// output in eight, as that is half of the time that the tests of doctor take.
func checkupOf(args []string) (*report.Checkup, int, error) {
	dir, err := os.MkdirTemp("", "cure")
	if err != nil {
		return nil, 0, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // left in a folder for temporary files
	bundle := filepath.Join(dir, "doctor.pcapng")
	out, status, err := outputOf(append([]string{"doctor", "-o", "json", "--save", bundle}, args...)...)
	if err != nil {
		return nil, 0, err
	}
	if crc32.ChecksumIEEE([]byte(out))%8 == 0 {
		again, sameStatus, err := outputOf("analyze", bundle, "-o", "json")
		if err != nil {
			return nil, 0, err
		}
		if again != out || sameStatus != status {
			return nil, 0, fmt.Errorf("what was saved differs, status %d and %d: %s", status, sameStatus, cmp.Diff(out, again))
		}
	}
	c := new(report.Checkup)
	return c, status, json.Unmarshal([]byte(out), c)
}

// outputOf runs pathtrace.
func outputOf(args ...string) (out string, status int, err error) {
	printed, err := exec.Command("pathtrace", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status, err = exit.ExitCode(), nil
	}
	return string(printed), status, err
}

// fixes are the commands of all errors, or of all warnings, or those that do what
// Docker would with a line of daemon.json.
func fixes(c *report.Checkup, what string) []string {
	var lines []string
	config, severity := what == "config", "error"
	if what == "warnings" {
		severity = "warning"
	} else if !c.Failed() {
		return nil
	}
	for _, f := range c.Findings {
		if subnet := newNetwork.FindStringSubmatch(f.Summary); config && subnet != nil {
			p := netip.MustParsePrefix(subnet[1])
			return renumbered("br-5f1c3a9d2b7e", "cnt03", netip.PrefixFrom(p.Addr().Next(), p.Bits()))
		}
		for _, line := range f.Fix {
			bip, is := strings.CutPrefix(line, `"bip": "`)
			switch {
			case config && is:
				return renumbered("docker0", "cnt01", netip.MustParsePrefix(strings.TrimSuffix(bip, `"`)))
			case !config && f.Severity == severity && !strings.HasPrefix(line, `"`) && !slices.Contains(lines, line):
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// newNetwork is what a finding proposes for a network of a user's.
var newNetwork = regexp.MustCompile(`docker network create --subnet (\S+) NAME`)

// renumbered are the commands that give a bridge of the lab another network, and
// its only container that is probed an address in it.
func renumbered(bridge, container string, bip netip.Prefix) []string {
	in := "ip netns exec " + container + " "
	return []string{
		"ip addr flush dev " + bridge + " scope global", "ip addr add " + bip.String() + " dev " + bridge,
		in + "ip addr flush dev eth0 scope global", fmt.Sprintf("%sip addr add %s/%d dev eth0", in, bip.Addr().Next(), bip.Bits()),
		in + "ip route add default via " + bip.Addr().String() + " dev eth0",
		fmt.Sprintf("iptables-nft -t nat -A POSTROUTING -s %s ! -o %s -j MASQUERADE", bip.Masked(), bridge),
	}
}

func runAll(t *treatment, lines []string) bool {
	for _, line := range lines {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			t.Failed = fmt.Sprintf("%s: %v: %s", line, err, out)
			return false
		}
	}
	return true
}

// treat runs cure in a network of the lab.
func treat(t *testing.T, scenario lab.Scenario, options lab.Options, args ...string) *treatment {
	t.Helper()
	for _, tool := range append(scenario.Tools(options), "nft", "iptables-legacy", "iptables-nft") {
		testenv.Tool(t, tool)
	}
	command := []string{"demo", scenario.Name, "--seed", strconv.FormatUint(options.Seed, 10)}
	if options.Break != "" {
		command = append(command, "--break", options.Break)
	}
	if options.Backend != "" {
		command = append(command, "--backend", string(options.Backend))
	}
	if options.Opaque {
		command = append(command, "--opaque")
	}
	_, stdout, stderr := runProgram(t, program(t, nil, append(append(command, "--exec", "--", "cure"), args...)...))
	got := new(treatment)
	if err := json.Unmarshal([]byte(stdout), got); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, stderr)
	}
	if len(got.Checkups) == 0 {
		t.Fatalf("%v: %s", command, got.Failed)
	}
	for i := range got.Checkups {
		checkPromises(t, &got.Checkups[i], got.Status[i])
	}
	return got
}

// checkPromises holds a checkup against what every one promises.
func checkPromises(t *testing.T, c *report.Checkup, status int) {
	t.Helper()
	if want := map[bool]int{true: exitFailed, false: exitOK}[c.Failed()]; status != want {
		t.Errorf("exit status %d, want %d: %q", status, want, errorsOf(c))
	}
	known, used := make(map[string]bool), make(map[string]bool)
	for _, e := range c.Evidence {
		known[e.ID] = true
	}
	for _, f := range c.Findings {
		if f.Code == "" || f.Summary == "" || len(f.Evidence) == 0 || f.Fix == nil || !slices.Contains([]string{"error", "warning", "note"}, f.Severity) {
			t.Errorf("a finding is not complete: %+v", f)
		}
		for _, id := range f.Evidence {
			used[id] = true
			if !known[id] {
				t.Errorf("%s: there is no evidence %s", f.Code, id)
			}
		}
		if advised := strings.HasSuffix(f.Summary, ":"); advised != (len(f.Fix) > 0) {
			t.Errorf("%s announces %d commands by %q", f.Code, len(f.Fix), f.Summary)
		}
	}
	for id := range known {
		if !used[id] {
			t.Errorf("evidence %s supports nothing", id)
		}
	}
	if len(c.Unchecked) > 0 {
		t.Errorf("not checked: %v", c.Unchecked)
	}
}

// errorsOf are the codes of the errors, each once.
func errorsOf(c *report.Checkup) []string {
	codes := []string{}
	for _, f := range c.Findings {
		if f.Severity == "error" {
			codes = append(codes, f.Code)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// TestDoctorHealthy: in a network that works there is no error, whoever wrote its
// rules, whatever its names and addresses are.
func TestDoctorHealthy(t *testing.T) {
	t.Parallel()
	isolated(t)
	for _, scenario := range lab.Scenarios() {
		for _, backend := range scenario.Backends {
			for _, seed := range []uint64{0, 1, 2, 3} {
				options := lab.Options{Backend: backend, Seed: seed, Opaque: scenario.Opaque && seed == 2}
				t.Run(fmt.Sprintf("%s %s %d", scenario.Name, backend, seed), func(t *testing.T) {
					t.Parallel()
					got := treat(t, scenario, options, "commands")
					for _, f := range got.Checkups[0].Findings {
						if f.Severity == "error" {
							t.Errorf("%s: %s", f.Code, f.Summary)
						}
					}
				})
			}
		}
	}
}

// sickness is what doctor has to say of a fault, and whether what it proposes
// heals.
type sickness struct {
	codes []string
	// incurable faults have no command that mends them, or none that pathtrace
	// can know.
	incurable bool
}

func sickWith(codes ...string) sickness { return sickness{codes: codes} }

func (s sickness) noCure() sickness {
	s.incurable = true
	return s
}

// sicknesses are the faults that can be seen without a packet, by scenario. Of
// all others doctor has to be silent, or gives a warning: the host of
// ipv6-masquerade has private addresses of IPv6 only, so that its default route
// may be missing on purpose, and the router of netns-by-hand is not visible, so
// that it may know the way back to what is not translated.
var sicknesses = map[string]map[string]sickness{
	"ipv6-masquerade": {
		"shadowed-policy": sickWith("FILTER_POLICY_DROP", "SHADOWED_ACCEPT"),
		"forward-policy":  sickWith("FILTER_POLICY_DROP"), "no-nat66": sickWith("NAT_MISSING"), "no-nat66-nearby": sickWith("NAT_MISSING"),
		"no-forwarding": sickWith("FORWARDING_OFF"), "no-default-route@cnt01": sickWith("DNS_FAILED", "NO_DEFAULT_ROUTE"),
		"link-down@cnt01": sickWith("LINK_DOWN").noCure(), "veth-down": sickWith("LINK_DOWN"),
		"port-removed": sickWith("LINK_DOWN"), "uplink-down": sickWith("LINK_DOWN").noCure(), "port-listening": sickWith("BRIDGE_PORT_BLOCKED"),
		"wrong-gateway@cnt01": sickWith("NEIGHBOUR_UNREACHABLE"), "blackhole-route": sickWith("DNS_FAILED").noCure(),
		"unreachable-route@cnt01": sickWith("DNS_FAILED").noCure(), "address-tentative@cnt01": sickWith("ADDRESS_TENTATIVE"),
		"no-ipv6@cnt01":           sickWith("DNS_FAILED").noCure(),
		"address-duplicate@cnt01": sickWith("ADDRESS_TENTATIVE", "MARTIAN").noCure(),
	},
	"docker-bridge": {
		"forward-policy": sickWith("FILTER_POLICY_DROP"), "shadowed-policy": sickWith("SHADOWED_ACCEPT"), "no-masquerade": sickWith("NAT_MISSING"), "no-masquerade-br": sickWith("NAT_MISSING"),
		"no-forwarding": sickWith("FORWARDING_OFF"), "no-default-route@cnt01": sickWith("NO_DEFAULT_ROUTE"), "no-default-route": sickWith("NO_ROUTE").noCure(),
		"stray-route":     sickWith("SUBNET_OVERLAP"),
		"link-down@cnt01": sickWith("LINK_DOWN"), "veth-down": sickWith("LINK_DOWN"), "port-removed": sickWith("LINK_DOWN"), "bridge-down": sickWith("LINK_DOWN"),
		"uplink-down": sickWith("LINK_DOWN").noCure(), "uplink-no-carrier": sickWith("LINK_DOWN").noCure(), "port-learning": sickWith("BRIDGE_PORT_BLOCKED"),
		"wrong-gateway@cnt01": sickWith("NEIGHBOUR_UNREACHABLE"), "blackhole-route": sickWith("DNS_FAILED").noCure(),
		"prohibit-rule": sickWith("DNS_FAILED").noCure(), "address-twice": sickWith("MARTIAN").noCure(),
	},
	"vpn-overlap": {
		"forward-policy": sickWith("FILTER_POLICY_DROP"), "bridge-route-gone": sickWith("SUBNET_OVERLAP"), "bridge-route-gone-strict": sickWith("SUBNET_OVERLAP"),
		"same-prefix": sickWith("SUBNET_OVERLAP"), "same-prefix-strict": sickWith("SUBNET_OVERLAP"),
		"two-halves": sickWith("SUBNET_OVERLAP"), "two-halves-strict": sickWith("SUBNET_OVERLAP"),
		"policy-rule": sickWith("SUBNET_OVERLAP"), "policy-rule-strict": sickWith("SUBNET_OVERLAP"),
		"gateway-unknown": sickWith("SUBNET_OVERLAP"), "forward-policy-taken": sickWith("SUBNET_OVERLAP"),
	},
	"pipework-ospf": {
		"forward-policy": sickWith("FILTER_POLICY_DROP"), "port-listening": sickWith("BRIDGE_PORT_BLOCKED"), "port-learning": sickWith("BRIDGE_PORT_BLOCKED"),
		"port-learning-later": sickWith("BRIDGE_PORT_BLOCKED"),
	},
	"netns-by-hand": {
		"forward-policy": sickWith("FILTER_POLICY_DROP"), "shadowed-policy": sickWith("SHADOWED_ACCEPT"), "established-only": sickWith("FILTER_DROP"),
		"no-forwarding": sickWith("FORWARDING_OFF"), "no-forwarding-ingress": sickWith("FORWARDING_OFF"),
		"not-begun": sickWith("LINK_DOWN").noCure(), "no-route-yet": sickWith("NO_DEFAULT_ROUTE"), "no-way-back": sickWith("NO_ROUTE").noCure(),
		"no-default-route@mynamespace": sickWith("NO_DEFAULT_ROUTE"), "link-down@mynamespace": sickWith("LINK_DOWN"), "veth-down": sickWith("LINK_DOWN"), "uplink-down": sickWith("LINK_DOWN").noCure(),
		"uplink-no-carrier": sickWith("LINK_DOWN").noCure(), "no-address": sickWith("NEIGHBOUR_UNREACHABLE"),
		"wrong-gateway@mynamespace": sickWith("NEIGHBOUR_UNREACHABLE"), "address-on-port": sickWith("ADDRESS_ON_BRIDGE_PORT"),
		"bridge-down": sickWith("LINK_DOWN"), "port-listening": sickWith("BRIDGE_PORT_BLOCKED"), "no-default-route": sickWith("NO_ROUTE").noCure(),
		"blackhole-route": sickWith("DNS_FAILED").noCure(), "blackhole-reply": sickWith("ROUTE_BLACKHOLE").noCure(),
		"unreachable-route": sickWith("DNS_FAILED").noCure(), "prohibit-rule": sickWith("DNS_FAILED").noCure(),
		"blackhole-route@mynamespace": sickWith("DNS_FAILED").noCure(), "address-twice": sickWith("MARTIAN").noCure(),
	},
}

// TestDoctorFaults breaks each network in each way. Doctor names what it can see,
// and nothing else; what it proposes heals: it is content afterwards, and the
// fault's own probe is answered.
func TestDoctorFaults(t *testing.T) {
	t.Parallel()
	isolated(t)
	for _, scenario := range lab.Scenarios() {
		for name := range sicknesses[scenario.Name] {
			if !slices.ContainsFunc(scenario.Faults, func(f lab.Fault) bool { return f.Name == name }) {
				t.Errorf("%s has no fault %s", scenario.Name, name)
			}
		}
		for i, fault := range scenario.Faults {
			options := lab.Options{Break: fault.Name, Backend: scenario.Backends[i%len(scenario.Backends)]}
			t.Run(scenario.Name+" "+fault.Name, func(t *testing.T) {
				t.Parallel()
				// What doctor reads is the same for an ordinary user in namespaces of his
				// own, and there are many faults: each is for one of the two runs.
				if fault.Root || i%2 == 0 {
					testenv.Root(t)
				} else {
					testenv.Ordinary(t)
				}
				sick := sicknesses[scenario.Name][fault.Name]
				args := []string{"commands"}
				if len(sick.codes) > 0 && !sick.incurable {
					args = append(args, scenario.ProbeOf(fault.Name).Args()...)
				}
				healed(t, treat(t, scenario, options, args...), sick)
			})
		}
	}
}

// healed compares what was found with what is wrong, and wants it to be mended.
func healed(t *testing.T, got *treatment, sick sickness) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, sick.codes...), errorsOf(&got.Checkups[0])); diff != "" {
		t.Fatalf("errors (-want +got):\n%s\n%+v", diff, got.Checkups[0].Findings)
	}
	if len(sick.codes) == 0 || sick.incurable {
		return
	}
	last := got.Checkups[len(got.Checkups)-1]
	if got.Failed != "" || len(got.Commands) == 0 || last.Failed() || got.Probe != exitOK {
		t.Errorf("after %q: %s, errors %+v, the probe ends with %d", got.Commands, got.Failed, last.Findings, got.Probe)
	}
}

// TestDoctorRenumber does what the line for daemon.json would have Docker do.
func TestDoctorRenumber(t *testing.T) {
	t.Parallel()
	isolated(t)
	scenario, err := lab.Find("vpn-overlap")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bridge-route-gone", "same-prefix", "two-halves", "policy-rule", "bridge-route-gone-strict", "same-prefix-strict", "two-halves-strict", "policy-rule-strict"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			healed(t, treat(t, scenario, lab.Options{Break: name}, append([]string{"config"}, scenario.ProbeOf(name).Args()...)...), sickWith("SUBNET_OVERLAP"))
		})
	}
}

// TestDoctorSubnet does what is proposed for a network of a user's that somebody
// else's routes take: it is made again with other addresses.
func TestDoctorSubnet(t *testing.T) {
	t.Parallel()
	isolated(t)
	const taken = `ip route add 172.18.0.0/17 via 203.0.113.254 && ip route add 172.18.128.0/17 via 203.0.113.254 && exec cure config ping 8.8.8.8 --netns cnt03`
	_, stdout, stderr := runProgram(t, program(t, nil, "demo", "docker-bridge", "--exec", "--", "sh", "-c", taken))
	got := new(treatment)
	if err := json.Unmarshal([]byte(stdout), got); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	healed(t, got, sickWith("SUBNET_OVERLAP"))
	if !slices.ContainsFunc(got.Checkups[0].Findings, func(f report.Finding) bool {
		return len(f.Fix) == 1 && strings.HasPrefix(f.Fix[0], `"default-address-pools": [{"base": "`)
	}) {
		t.Errorf("no pool is proposed: %+v", got.Checkups[0].Findings)
	}
}

// TestNameContainers: what has a number only is called by its container's name,
// also by those that lead to it, and can still be entered.
func TestNameContainers(t *testing.T) {
	t.Parallel()
	in := doctor.Input{
		Topology: &topology.Snapshot{Source: topology.HostName, Namespaces: []topology.Namespace{
			{Name: topology.HostName, ID: 1, Links: []topology.Link{{Name: "veth1", Peer: &topology.Peer{NetNS: "pid 4711"}}, {Name: "veth2", Peer: &topology.Peer{NetNS: "blue"}}}},
			{Name: "pid 4711", ID: 2},
			{Name: "blue", ID: 3},
			{Name: "pid 4713", ID: 4},
		}},
		Enter:   map[string]string{"pid 4711": "nsenter --target 4711 --net", "blue": "ip netns exec blue"},
		Servers: map[string][]netip.Addr{"pid 4711": {netip.MustParseAddr("8.8.8.8")}},
		Rules:   map[string]*ruletrace.Ruleset{topology.HostName: {}, "pid 4711": {}},
		Unread:  map[string]string{"pid 4711": "operation not permitted"},
		Missing: []report.Unchecked{{Check: "DNS servers", Reason: "pid 4713: no such file"}},
	}
	nameContainers(&in, []container.Running{
		{Name: "web", PID: 4711, NetNS: 2}, {Name: "named", PID: 4712, NetNS: 3}, {Name: "web", PID: 4713, NetNS: 4}, {Name: "db", PID: 4713, NetNS: 4},
	})
	var names []string
	for _, ns := range in.Topology.Namespaces {
		names = append(names, ns.Name)
	}
	if want := []string{"host", "web", "blue", "db"}; !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	links := in.Topology.Namespaces[0].Links
	if links[0].Peer.NetNS != "web" || links[1].Peer.NetNS != "blue" || in.Enter["web"] != "nsenter --target 4711 --net" || in.Enter["blue"] != "ip netns exec blue" ||
		len(in.Servers["web"]) != 1 || in.Rules["web"] == nil || len(in.Rules) != 2 || in.Unread["web"] == "" || len(in.Unread) != 1 || in.Missing[0].Reason != "db: no such file" {
		t.Errorf("%+v, %+v", in, links[0].Peer)
	}
}

// TestDoctorWarnings does what warnings propose: they are gone.
func TestDoctorWarnings(t *testing.T) {
	t.Parallel()
	isolated(t)
	for _, tt := range []struct {
		code   string
		demo   []string
		change string
		// probe is sent at the end; empty for none.
		probe string
	}{
		{"MTU_EXCEEDED", []string{"vpn-overlap", "--break", "redirect-gateway"}, "true", ""},
		{"BRIDGE_FILTERED", []string{"docker-bridge"}, "iptables-nft -D FORWARD -i docker0 -o docker0 -j ACCEPT", "ping 172.17.0.3 --netns cnt01"},
		{"FORWARDING_OFF", []string{"docker-bridge"}, "ip link add br-0123456789ab type bridge && ip addr add 172.29.0.1/16 dev br-0123456789ab && ip link set br-0123456789ab up && sysctl -w net.ipv4.conf.br-0123456789ab.forwarding=0 >&2", ""},
		{"RA_IGNORED", []string{"ipv6-masquerade"}, "ip -6 route del default && sysctl -w net.ipv6.conf.ens192.accept_ra=1 >&2", ""},
		{"NAT_MISSING", []string{"netns-by-hand", "--break", "no-masquerade"}, "true", "ping 8.8.8.8 --netns mynamespace"},
		{"NAT_MISSING", []string{"netns-by-hand", "--break", "no-nat"}, "true", "ping 8.8.8.8 --netns mynamespace"},
		{"NAT_MISSING", []string{"ipv6-masquerade", "--opaque", "--break", "no-nat66"}, "true", "ping6 2001:4860:4860::8888 --netns cnt01"},
	} {
		t.Run(tt.code, func(t *testing.T) {
			t.Parallel()
			script := tt.change + " && exec cure warnings " + tt.probe
			_, stdout, stderr := runProgram(t, program(t, nil, append(append([]string{"demo"}, tt.demo...), "--exec", "--", "sh", "-c", script)...))
			got := new(treatment)
			if err := json.Unmarshal([]byte(stdout), got); err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			warned := func(c report.Checkup) bool {
				return slices.ContainsFunc(c.Findings, func(f report.Finding) bool { return f.Severity == "warning" && f.Code == tt.code })
			}
			last := got.Checkups[len(got.Checkups)-1]
			if !warned(got.Checkups[0]) || warned(last) || got.Failed != "" || tt.probe != "" && got.Probe != exitOK {
				t.Errorf("first %+v\nafter %q, %s: %+v\nthe probe ends with %d", got.Checkups[0].Findings, got.Commands, got.Failed, last.Findings, got.Probe)
			}
		})
	}
}

// routedPair is a container whose address is led to by a pair that is no port of
// any bridge.
const routedPair = `
ip netns add pod && ip link add cali1 type veth peer name eth0 netns pod && ip addr add 169.254.0.1/32 dev cali1 && ip link set cali1 up &&
ip -n pod addr add ADDRESS/32 dev eth0 && ip -n pod link set eth0 up && ip -n pod route add 169.254.0.1 dev eth0 &&
ip -n pod route add default via 169.254.0.1 dev eth0 && ip route add ADDRESS dev cali1`

// TestDoctorContent: what a host has on purpose is no error, and a packet gets
// where it is meant to.
func TestDoctorContent(t *testing.T) {
	t.Parallel()
	isolated(t)
	for _, tt := range []struct {
		name, scenario, change, probe string
	}{
		{"a routed container in the network of docker0", "docker-bridge", strings.ReplaceAll(routedPair, "ADDRESS", "172.17.0.50"), "ping 172.17.0.50"},
		{
			"a routed container in the network of a bridge that is left over", "docker-bridge",
			"ip link add cni0 type bridge && ip addr add 10.244.0.1/24 dev cni0 && ip link set cni0 up && " + strings.ReplaceAll(routedPair, "ADDRESS", "10.244.0.9"), "ping 10.244.0.9",
		},
		{
			"a dormant table", "docker-bridge",
			"nft add table inet asleep '{ flags dormant; }' && nft add chain inet asleep forward '{ type filter hook forward priority 10; policy drop; }'", "ping 8.8.8.8 --netns cnt01",
		},
		{"a VPN takes a part of a network that nobody is in", "docker-bridge", "ip route add 172.17.5.0/24 via 203.0.113.254", "ping 8.8.8.8 --netns cnt01"},
		{
			"a network of IPv6 on a host without", "docker-bridge",
			"ip addr add fc00:f853:ccd:e793::1/64 dev docker0 nodad && ip -n cnt01 addr add fc00:f853:ccd:e793::2/64 dev eth0 nodad && ip -n cnt01 -6 route add default via fc00:f853:ccd:e793::1", "ping 8.8.8.8 --netns cnt01",
		},
		{
			"a second way out without carrier", "docker-bridge",
			"ip link add wwan0 type veth peer name modem && ip addr add 10.99.0.2/30 dev wwan0 && ip link set wwan0 up && ip route add default via 10.99.0.1 dev wwan0 metric 2000", "ping 8.8.8.8 --netns cnt01",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			script := tt.change + " && exec cure commands " + tt.probe
			_, stdout, stderr := runProgram(t, program(t, nil, "demo", tt.scenario, "--exec", "--", "sh", "-c", script))
			got := new(treatment)
			if err := json.Unmarshal([]byte(stdout), got); err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if c := &got.Checkups[0]; c.Failed() || got.Probe != exitOK {
				t.Errorf("errors %q, the probe ends with %d: %+v", errorsOf(c), got.Probe, c.Findings)
			}
		})
	}
}

// besideUFW are the rules of podman, which accept and masquerade, beside those of
// ufw, which accept pings and answers.
const besideUFW = `
nft delete table ip nat && nft delete table inet filter && nft -f - <<END
table inet netavark {
	chain nv {
		ip daddr 172.19.0.0/24 accept
		ip daddr != 224.0.0.0/4 masquerade
	}
	chain NETAVARK-FORWARD {
		type filter hook forward priority filter; policy accept;
		ct state invalid drop
		ip daddr 172.19.0.0/24 ct state { established, related } accept
		ip saddr 172.19.0.0/24 accept
	}
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00002000 == 0x00002000 masquerade
		ip saddr 172.19.0.0/24 jump nv
	}
}
END
iptables-nft -P FORWARD DROP
iptables-nft -N ufw-before-forward
iptables-nft -A FORWARD -j ufw-before-forward
iptables-nft -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
iptables-nft -A ufw-before-forward -m limit --limit 3/min -j LOG --log-prefix "[UFW BLOCK] "
exec cure commands tcp 8.8.8.8:80 --netns mynamespace
`

// TestDoctorBesideUFW: the rules that look right are not those that decide.
func TestDoctorBesideUFW(t *testing.T) {
	t.Parallel()
	isolated(t)
	testenv.Tool(t, "iptables-nft")
	_, stdout, stderr := runProgram(t, program(t, nil, "demo", "netns-by-hand", "--exec", "--", "sh", "-c", besideUFW))
	got := new(treatment)
	if err := json.Unmarshal([]byte(stdout), got); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	healed(t, got, sickWith("SHADOWED_ACCEPT"))
	const want = "That chain is ufw's; that of nft, inet netavark NETAVARK-FORWARD, accepts it"
	if summary := got.Checkups[0].Findings[0].Summary; !strings.Contains(summary, want) || !strings.Contains(summary, "pings may pass") {
		t.Errorf("%s\nwant %s", summary, want)
	}
}
