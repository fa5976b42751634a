package doctor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/pathtrace/pathtrace/internal/diagnose"
	"github.com/pathtrace/pathtrace/internal/engine"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// Docker is what is known of Docker's networks, also of those that have no
// interface.
type Docker struct {
	Networks []engine.Network
	// Config is the content of daemon.json, nil where there is none.
	Config *DockerDaemon
}

// DockerDaemon are the settings of daemon.json that concern addresses and their
// translation, as they stand there; nil for a switch that does not.
type DockerDaemon struct {
	BIP        string `json:"bip"`
	IPTables   *bool  `json:"iptables"`
	Masquerade *bool  `json:"ip-masq"`
	Pools      []struct {
		Base string `json:"base"`
		Size int    `json:"size"`
	} `json:"default-address-pools"`
}

// ParseDaemon reads daemon.json.
func ParseDaemon(content []byte) (*DockerDaemon, error) {
	config := new(DockerDaemon)
	if err := json.Unmarshal(content, config); err != nil {
		return nil, fmt.Errorf("read daemon.json: %w", err)
	}
	return config, nil
}

func (d *Docker) network(bridge string) *engine.Network {
	i := slices.IndexFunc(d.Networks, func(n engine.Network) bool { return n.Bridge == bridge })
	if i < 0 {
		return nil
	}
	return &d.Networks[i]
}

// dockerName are the names of the bridges that Docker makes, unless it is given
// one.
var dockerName = regexp.MustCompile(`^(docker0|br-[0-9a-f]{12})$`)

// masquerades reports whether Docker translates what leaves a network: it does for
// IPv4 unless it was told not to, and for IPv6 by its version.
func (d *Docker) masquerades(n *network) bool {
	off := func(b *bool) bool { return b != nil && !*b }
	if !n.prefix.Addr().Is4() || d.Config != nil && (off(d.Config.IPTables) || off(d.Config.Masquerade)) {
		return false
	}
	if n.docker != nil {
		return !n.docker.Unmasked
	}
	return dockerName.MatchString(n.link.Name)
}

// taken are the prefixes that Docker has, or will take.
func (d *Docker) taken() []netip.Prefix {
	var all []netip.Prefix
	for _, n := range d.Networks {
		all = append(all, n.Prefixes...)
	}
	if d.Config == nil {
		return all
	}
	texts := []string{d.Config.BIP}
	for _, p := range d.Config.Pools {
		texts = append(texts, p.Base)
	}
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p.Masked())
		}
	}
	return all
}

// daemon checks the addresses that daemon.json speaks of.
func (e *exam) daemon() {
	config := e.in.Docker.Config
	if config == nil {
		return
	}
	if config.BIP != "" {
		e.bip(config.BIP)
	}
	for _, pool := range config.Pools {
		base, err := netip.ParsePrefix(pool.Base)
		if err != nil || pool.Size < base.Bits() || pool.Size > base.Addr().BitLen() {
			e.find(report.Finding{
				Code: DockerConfig, Severity: severe,
				Summary:  fmt.Sprintf("daemon.json has a pool in \"default-address-pools\" that Docker cannot use: base %q, size %d. Docker does not start with it.", pool.Base, pool.Size),
				Evidence: []string{e.fact("setting", topology.HostName, "daemon.json: base %q, size %d", pool.Base, pool.Size)},
			})
			continue
		}
		e.pool(base.Masked(), pool.Size)
	}
}

// bip checks the address of the default bridge.
func (e *exam) bip(text string) {
	evidence := []string{e.fact("setting", topology.HostName, "daemon.json: \"bip\": %q", text)}
	bip, err := netip.ParsePrefix(text)
	if err != nil || bip.Bits() < bip.Addr().BitLen()-1 && bip.Addr() == bip.Masked().Addr() {
		f := report.Finding{Code: DockerConfig, Severity: severe, Evidence: evidence}
		f.Summary = fmt.Sprintf("daemon.json has %q for \"bip\", which has to be the bridge's own address in its network. Docker does not start with it.", text)
		var line []string
		if err == nil {
			line = []string{fmt.Sprintf(`"bip": "%s/%d"`, bip.Addr().Next(), bip.Bits())}
		}
		e.advise(f, "In place of it:", line)
		return
	}
	if r, first := e.rival(bip.Masked(), bip.Bits()); first {
		advice, lines := diagnose.Renumber(e.in.Topology, &topology.Link{Name: "docker0"}, bip, e.allotted()...)
		e.advise(report.Finding{
			Code: diagnose.SubnetOverlap, Severity: warning, Evidence: append(evidence, e.fact("route", topology.HostName, "%s", r.Text)),
			Summary: fmt.Sprintf("daemon.json gives docker0 the network %s, and the route %q takes addresses of it.", bip.Masked(), r.Text),
		}, advice, lines)
	}
}

// pool checks a prefix that networks to come are taken from, each of size bits.
func (e *exam) pool(base netip.Prefix, size int) {
	r, first := e.rival(base, size)
	if r == nil {
		return
	}
	f := report.Finding{
		Code: diagnose.SubnetOverlap, Severity: warning,
		Summary: fmt.Sprintf("Docker takes networks from %s (default-address-pools), and the route %q takes addresses of it: a network that gets these does not work.", base, r.Text),
		Evidence: []string{
			e.fact("setting", topology.HostName, "daemon.json: base %s, size %d", base, size),
			e.fact("route", topology.HostName, "%s", r.Text),
		},
	}
	if !first {
		f.Severity = note
		f.Summary = fmt.Sprintf("Docker takes networks from %s (default-address-pools), of which the route %q has addresses, too. The route of each network comes first as long as it is there.", base, r.Text)
		e.find(f)
		return
	}
	var line []string
	if base.Addr().Is4() && size >= 16 && size <= 28 {
		if free := e.in.Topology.Free(max(16, size-4), e.allotted()...); free.IsValid() {
			line = []string{fmt.Sprintf(`"default-address-pools": [{"base": "%s", "size": %d}]`, free, size)}
		}
	}
	e.advise(f, "Another pool, which nothing known here overlaps:", line)
}

// rival is a route that has addresses in common with a prefix from which
// networks of that size are taken. first says that it would take packets from
// such a network: it is as specific, or more, or a policy rule asks for its table
// first. Routes of container networks are Docker's own.
func (e *exam) rival(within netip.Prefix, size int) (found *topology.Route, first bool) {
	for i := range e.host.Routes {
		r := &e.host.Routes[i]
		own := slices.ContainsFunc(e.networks, func(n network) bool { return n.link.Name == r.Interface })
		if r.Type != "unicast" || own || diagnose.Everywhere(r.Destination) || !r.Destination.Overlaps(within) {
			continue
		}
		if r.Destination.Bits() >= size || e.askedFirst(r.Table, within) {
			return r, true
		}
		if found == nil {
			found = r
		}
	}
	return found, false
}

// askedFirst reports whether a policy rule asks for a table before the main one
// for what is for a prefix.
func (e *exam) askedFirst(table int, within netip.Prefix) bool {
	for i := range e.host.Policy {
		p := &e.host.Policy[i]
		if p.IPv6 != within.Addr().Is6() || p.Action != "lookup" {
			continue
		}
		if p.Table == diagnose.MainTable {
			return false
		}
		if p.Table == table && !p.From.IsValid() && p.MarkMask == 0 && p.Ingress == "" && (!p.To.IsValid() || p.To.Overlaps(within)) {
			return true
		}
	}
	return false
}
