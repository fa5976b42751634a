//go:build linux

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/testenv"
	"github.com/pathtrace/pathtrace/report"
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
//	cure config|commands ARGUMENT...
//
// that runs doctor, does what the errors propose, and runs doctor again, until it
// finds none; then it runs pathtrace with the arguments. With "config" it does
// what the first line for daemon.json makes Docker do, in place of the commands.
func cure(args []string) int {
	t := treatment{Probe: -1}
	for round := 0; ; round++ {
		c, status, err := checkupOf(nil)
		if err != nil {
			t.Failed = err.Error()
			break
		}
		t.Checkups, t.Status = append(t.Checkups, *c), append(t.Status, status)
		lines := fixes(c, args[0] == "config")
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

// checkupOf runs doctor.
func checkupOf(args []string) (*report.Checkup, int, error) {
	out, err := exec.Command("pathtrace", append([]string{"doctor", "-o", "json"}, args...)...).Output()
	status := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status, err = exit.ExitCode(), nil
	}
	c := new(report.Checkup)
	if err == nil {
		err = json.Unmarshal(out, c)
	}
	return c, status, err
}

// fixes are the commands of all errors, or those that do what Docker would with a
// line of daemon.json.
func fixes(c *report.Checkup, config bool) []string {
	var lines []string
	if !c.Failed() {
		return nil
	}
	for _, f := range c.Findings {
		for _, line := range f.Fix {
			bip, is := strings.CutPrefix(line, `"bip": "`)
			switch {
			case config && is:
				return renumbered(netip.MustParsePrefix(strings.TrimSuffix(bip, `"`)))
			case !config && f.Severity == "error" && !strings.HasPrefix(line, `"`) && !slices.Contains(lines, line):
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// renumbered are the commands that give docker0 another network, and the
// container of vpn-overlap an address in it.
func renumbered(bip netip.Prefix) []string {
	in := "ip netns exec cnt01 "
	return []string{
		"ip addr flush dev docker0 scope global", "ip addr add " + bip.String() + " dev docker0",
		in + "ip addr flush dev eth0 scope global", fmt.Sprintf("%sip addr add %s/%d dev eth0", in, bip.Addr().Next(), bip.Bits()),
		in + "ip route add default via " + bip.Addr().String() + " dev eth0",
		fmt.Sprintf("iptables-nft -t nat -A POSTROUTING -s %s ! -o docker0 -j MASQUERADE", bip.Masked()),
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
// all others doctor has to be silent.
var sicknesses = map[string]map[string]sickness{
	"ipv6-masquerade": {
		"shadowed-policy": sickWith("FILTER_POLICY_DROP", "SHADOWED_ACCEPT"),
		"forward-policy":  sickWith("FILTER_POLICY_DROP"), "no-nat66": sickWith("NAT_MISSING"), "no-nat66-nearby": sickWith("NAT_MISSING"),
		"no-forwarding": sickWith("FORWARDING_OFF"), "no-default-route@cnt01": sickWith("DNS_FAILED", "NO_DEFAULT_ROUTE"),
		"no-default-route": sickWith("NO_ROUTE").noCure(), "link-down@cnt01": sickWith("LINK_DOWN").noCure(), "veth-down": sickWith("LINK_DOWN"),
		"port-removed": sickWith("LINK_DOWN"), "uplink-down": sickWith("LINK_DOWN").noCure(), "port-listening": sickWith("BRIDGE_PORT_BLOCKED"),
		"wrong-gateway@cnt01": sickWith("NEIGHBOUR_UNREACHABLE"), "blackhole-route": sickWith("DNS_FAILED").noCure(),
		"unreachable-route@cnt01": sickWith("DNS_FAILED").noCure(), "address-tentative@cnt01": sickWith("ADDRESS_TENTATIVE"),
		"address-duplicate@cnt01": sickWith("ADDRESS_TENTATIVE", "MARTIAN").noCure(),
	},
	"docker-bridge": {
		"forward-policy": sickWith("FILTER_POLICY_DROP"), "shadowed-policy": sickWith("SHADOWED_ACCEPT"), "no-masquerade": sickWith("NAT_MISSING"), "no-masquerade-br": sickWith("NAT_MISSING"),
		"no-forwarding": sickWith("FORWARDING_OFF"), "no-default-route@cnt01": sickWith("NO_DEFAULT_ROUTE"), "no-default-route": sickWith("NO_ROUTE").noCure(),
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
	"netns-by-hand": {
		"forward-policy": sickWith("FILTER_POLICY_DROP"), "shadowed-policy": sickWith("SHADOWED_ACCEPT"), "established-only": sickWith("FILTER_DROP"),
		"no-forwarding": sickWith("FORWARDING_OFF"), "no-forwarding-ingress": sickWith("FORWARDING_OFF"),
		"no-masquerade": sickWith("NAT_MISSING"), "no-nat": sickWith("NAT_MISSING"), "no-default-route@mynamespace": sickWith("NO_DEFAULT_ROUTE"),
		"link-down@mynamespace": sickWith("LINK_DOWN"), "veth-down": sickWith("LINK_DOWN"), "uplink-down": sickWith("LINK_DOWN").noCure(),
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
