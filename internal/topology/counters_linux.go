package topology

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// counters reads what the kernel counts in a namespace. What a kernel does not
// have is absent.
func (r *reader) counters(n *Namespace) error {
	n.Counters = make(map[string]uint64)
	return r.inside(func() error {
		// Below thread-self, because /proc/net is the namespace of the thread
		// group's leader.
		err := errors.Join(
			scan("/proc/thread-self/net/snmp", n.pairs()),
			scan("/proc/thread-self/net/netstat", n.pairs()),
			scan("/proc/thread-self/net/snmp6", n.list),
			scan("/proc/thread-self/net/stat/nf_conntrack", n.conntrackCPUs()),
		)
		n.Conntrack.Count, _ = readNumber("/proc/sys/net/netfilter/nf_conntrack_count")
		n.Conntrack.Max, _ = readNumber("/proc/sys/net/netfilter/nf_conntrack_max")
		return err
	})
}

// scan calls f with the words of each line. A file that is not there has none.
func scan(name string, f func([]string)) error {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read counters: %w", err)
	}
	defer file.Close() //nolint:errcheck // read-only
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f(strings.Fields(lines.Text()))
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read counters: %s: %w", name, err)
	}
	return nil
}

// pairs reads a line of names and the line of values that follows it, both
// beginning with a group: "Ip: InReceives …".
func (n *Namespace) pairs() func([]string) {
	var names []string
	return func(words []string) {
		if len(words) == 0 || len(names) == 0 || names[0] != words[0] {
			names = words
			return
		}
		group := strings.TrimSuffix(words[0], ":")
		for i := 1; i < min(len(words), len(names)); i++ {
			n.count(group+names[i], words[i], 10)
		}
		names = nil
	}
}

// list reads a name and a value in each line.
func (n *Namespace) list(words []string) {
	if len(words) == 2 {
		n.count(words[0], words[1], 10)
	}
}

// conntrackCPUs reads a line of names and a line of hexadecimal values for each
// processor.
func (n *Namespace) conntrackCPUs() func([]string) {
	var names []string
	return func(words []string) {
		if names == nil {
			names = words
			return
		}
		for i := range min(len(words), len(names)) {
			if names[i] != "entries" { // the same in each line
				n.count("conntrack_"+names[i], words[i], 16)
			}
		}
	}
}

// count adds a value that was read to a counter. Gauges that can be -1 are
// left out.
func (n *Namespace) count(name, text string, base int) {
	if value, err := strconv.ParseUint(text, base, 64); err == nil {
		n.Counters[name] += value
	}
}

func readNumber(name string) (uint64, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
