package resolve

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// parseHosts returns the addresses that a hosts file (hosts(5)) gives a name,
// in the order of the file.
func parseHosts(content []byte, name string) []netip.Addr {
	name = strings.TrimSuffix(name, ".")
	var found []netip.Addr
	for line := range bytes.Lines(content) {
		text, _, _ := strings.Cut(string(line), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		address, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, alias := range fields[1:] {
			if strings.EqualFold(strings.TrimSuffix(alias, "."), name) {
				found = append(found, address.Unmap())
				break
			}
		}
	}
	return found
}

// resolvConf is what resolv.conf(5) says, within the limits that glibc has.
type resolvConf struct {
	servers  []netip.Addr
	search   []string
	ndots    int
	timeout  time.Duration
	attempts int
	// tcp asks over TCP only ("use-vc"). "rotate" means nothing to a single
	// lookup.
	tcp bool
}

// The limits of glibc (resolv.h).
const (
	maxServers  = 3  // MAXNS
	maxNdots    = 15 // RES_MAXNDOTS
	maxTimeout  = 30 // RES_MAXRETRANS
	maxAttempts = 5  // RES_MAXRETRY
	// maxSearch is none of glibc's; it bounds the number of queries.
	maxSearch = 32
)

func parseResolvConf(content []byte) resolvConf {
	conf := resolvConf{ndots: 1, timeout: 5 * time.Second, attempts: 2}
	for line := range bytes.Lines(content) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if server, err := netip.ParseAddr(fields[1]); err == nil && len(conf.servers) < maxServers {
				conf.servers = append(conf.servers, server.Unmap())
			}
		case "domain":
			conf.search = fields[1:2]
		case "search": // the last of domain and search counts
			conf.search = fields[1:]
		case "options":
			for _, option := range fields[1:] {
				conf.option(option)
			}
		}
	}
	conf.search = conf.search[:min(len(conf.search), maxSearch)]
	if len(conf.servers) == 0 {
		conf.servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return conf
}

// parseExtServers returns the servers of a comment that Docker writes into a
// container's resolv.conf (libnetwork/internal/resolvconf in moby), as in
// "# ExtServers: [192.0.2.53 host(127.0.0.53)]": those with host are asked from
// the host's namespace. A name in it that is no address counts for nothing.
func parseExtServers(content []byte) []netip.Addr {
	var servers []netip.Addr
	for line := range bytes.Lines(content) {
		_, list, found := strings.Cut(string(line), "# ExtServers: [")
		if !found {
			continue
		}
		for word := range strings.FieldsSeq(strings.TrimRight(list, "]\n\r ")) {
			server, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(word, "host("), ")"))
			if err == nil && len(servers) < maxServers {
				servers = append(servers, server.Unmap())
			}
		}
	}
	return servers
}

func (c *resolvConf) option(option string) {
	name, value, _ := strings.Cut(option, ":")
	number, err := strconv.Atoi(value)
	known := err == nil && number >= 0
	switch {
	case name == "use-vc":
		c.tcp = true
	case name == "ndots" && known:
		c.ndots = min(number, maxNdots)
	case name == "timeout" && known:
		c.timeout = time.Duration(min(max(number, 1), maxTimeout)) * time.Second
	case name == "attempts" && known:
		c.attempts = min(max(number, 1), maxAttempts)
	}
}

// candidates are the names to ask for, in order: a name with a dot at its end
// as it is; one with many dots as it is first; others with the search list
// first.
func (c *resolvConf) candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var names []string
	for _, domain := range c.search {
		if domain = strings.Trim(domain, "."); domain != "" {
			names = append(names, name+"."+domain+".")
		}
	}
	if strings.Count(name, ".") >= c.ndots {
		return append([]string{name + "."}, names...)
	}
	return append(names, name+".")
}
