//go:build linux

package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// exactly runs a command in the demo's network with these capabilities and no
// others, and returns its exit status and all that it printed.
func exactly(t *testing.T, capabilities []string, args ...string) (int, string) {
	t.Helper()
	kept := "-all"
	for _, c := range capabilities {
		kept += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	words := append([]string{"demo", "docker-bridge", "--exec", "--", testenv.Tool(t, "setpriv"), "--bounding-set=" + kept, "--inh-caps=" + kept, "pathtrace"}, args...)
	status, stdout, stderr := runProgram(t, program(t, nil, words...))
	return status, stdout + stderr
}

// needed reads the table of README.md: the capabilities of each command.
func needed(t *testing.T) map[string][]string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "<!-- capabilities -->")
	table, _, found := strings.Cut(table, "<!-- /capabilities -->")
	if !found {
		t.Fatal("README.md has no table of capabilities")
	}
	all := make(map[string][]string)
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		for _, command := range regexp.MustCompile("`([a-z0-9]+)`").FindAllStringSubmatch(cells[1], -1) {
			all[command[1]] = regexp.MustCompile(`CAP_[A-Z_]+`).FindAllString(cells[2], -1)
		}
	}
	return all
}

// TestCapabilities runs each command with exactly the capabilities that README.md
// says it needs, and nothing is missing; and without each of them something is, or
// it cannot run. (The kernel's drops and what programs attempt are not seen in a
// user namespace anyway.)
func TestCapabilities(t *testing.T) {
	t.Parallel()
	isolated(t)
	capabilities := needed(t)
	commands := map[string][]string{
		"ping":      {"8.8.8.8", "--container", "cnt01"},
		"tcp":       {"8.8.8.8:80", "--container", "cnt01"},
		"udp":       {"8.8.8.8:53", "--container", "cnt01"},
		"exec":      {"--container", "cnt01", "--exit-verdict", "--", "bash", "-c", "exec 3<>/dev/tcp/8.8.8.8/80"},
		"watch":     {"--container", "cnt01", "--for", "100ms"},
		"conntrack": {"--container", "cnt01"}, "topology": {"8.8.8.8", "--container", "cnt01"},
		"doctor": {"--container", "cnt01"}, "explain": {"OK"}, "version": nil,
	}
	lacking := regexp.MustCompile(`(?m)^( +|pathtrace: )(capture|conntrack|nft trace|nflog) \S+: (absent|degraded)|needs CAP_|no permission|not permitted|Problem`)
	for command, args := range commands {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			enough, known := capabilities[command]
			if !known {
				t.Fatalf("README.md does not say what %s needs", command)
			}
			words := append([]string{command}, args...)
			if status, out := exactly(t, enough, words...); lacking.MatchString(out) || status == exitCannotRun {
				t.Errorf("with %v: status %d\n%s", enough, status, out)
			}
			for i := range enough {
				fewer := append(append([]string(nil), enough[:i]...), enough[i+1:]...)
				status, out := exactly(t, fewer, words...)
				if status != exitCannotRun && !lacking.MatchString(out) {
					t.Errorf("nothing is missing without %s: status %d\n%s", enough[i], status, out)
				}
				// Who sees no packet does not say that there was none.
				if traces := command == "exec" || command == "watch"; traces && enough[i] == "CAP_NET_RAW" && status != exitCannotRun {
					t.Errorf("%s goes on without %s: status %d\n%s", command, enough[i], status, out)
				}
			}
		})
	}
}
