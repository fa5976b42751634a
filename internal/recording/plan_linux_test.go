package recording_test

import (
	"fmt"
	"strings"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/recording"
)

// plan is a recording to be made.
type plan struct {
	name string
	// note says what is to be seen in it.
	note     string
	scenario string
	options  lab.Options
	// before are commands that somebody types on the host first.
	before []string
	// noTun says that there is no /dev/net/tun.
	noTun bool
	// points are where tcpdump listens, "namespace/interface"; "FILE=point" names
	// the file, which is compressed as its name says, and "FILE=point,point" makes
	// one file of several.
	points string
	// dump are further arguments of tcpdump.
	dump string
	// trace is what is traced on the host, as a match of nft, or of
	// iptables-legacy where the rules are its.
	trace string
	// gateway are further tables of the end.
	gateway []log
	flows   []flow
	// translations are those that are not the scenario's own probe's.
	translations []lab.Translation
}

// log is a file that a tool writes in a namespace.
type log struct {
	file, netns string
	words       []string
}

// flow is an exchange to be recorded. Its outcome, translations and numbers are
// filled in.
type flow struct {
	recording.Flow
	send func(*recorder)
	// broken says that it ends as the truth of the network's fault says. Others
	// are answered, unless end says otherwise.
	broken bool
	end    lab.Truth
	// uneven says that its packets are cut differently at its stops.
	uneven bool
}

// again says that the recording can be made again by any root, without changing
// what is not the network's.
func (p *plan) again() bool { return !p.noTun && !p.logged() }

// logged says that the trace goes to the kernel's log.
func (p *plan) logged() bool { return p.trace != "" && p.options.Backend == lab.IPTablesLegacy }

// armed is what nft reads to trace.
func (p *plan) armed() string {
	return fmt.Sprintf("table inet trace { chain prerouting { type filter hook prerouting priority -350; %s meta nftrace set 1; }; }", p.trace)
}

func (p *plan) files() (all []recording.File) {
	for word := range strings.FieldsSeq(p.points) {
		name, points, ok := strings.Cut(word, "=")
		if !ok {
			name, points = part(word), word
		}
		all = append(all, recording.File{Name: name, Points: strings.Split(points, ",")})
	}
	return all
}

// packer is the command that compresses a file in place.
func packer(file string) string {
	switch {
	case strings.HasSuffix(file, ".gz"):
		return "gzip -n"
	case strings.HasSuffix(file, ".zst"):
		return "zstd -q --rm"
	}
	return ""
}

// logs are written while packets are sent.
func (p *plan) logs() []log {
	all := []log{{recording.ConntrackFile, lab.HostName, strings.Fields("conntrack -E -o timestamp,id,extended")}}
	if p.trace != "" && !p.logged() {
		all = append(all, log{recording.TraceFile, lab.HostName, strings.Fields("nft monitor trace")})
	}
	return all
}

// lists are written afterwards.
func (p *plan) lists(backend lab.Backend) []log {
	family, save := "ipv4", string(backend)+"-save"
	if strings.HasPrefix(p.flows[0].Protocol, "icmpv6") {
		family, save = "ipv6", strings.Replace(save, "ip", "ip6", 1)
	}
	all := []log{{recording.TableFile, lab.HostName, strings.Fields("conntrack -L -o id,extended -f " + family)}}
	switch backend {
	case lab.NFT:
		all = append(all, log{recording.RulesFile, lab.HostName, strings.Fields("nft list ruleset")})
	case lab.IPTablesNFT:
		all = append(all, log{recording.RulesFile, lab.HostName, []string{save}},
			log{recording.RulesetFile, lab.HostName, strings.Fields("nft -a list ruleset")})
	case lab.IPTablesLegacy:
		all = append(all, log{recording.RulesFile, lab.HostName, []string{save}})
	}
	return append(all, p.gateway...)
}

// way are the stops of a leg. Each part is "SOURCE > DESTINATION: POINTS", where
// packets pass; "POINT*2" sees each twice, and "POINT[TUNNEL]" in a tunnel.
func way(packets int, parts ...string) (all []recording.Stop) {
	for _, text := range parts {
		addresses, points, _ := strings.Cut(text, ": ")
		source, destination, _ := strings.Cut(addresses, " > ")
		for point := range strings.SplitSeq(points, ", ") {
			stop := recording.Stop{Point: point, Source: source, Destination: destination, Packets: packets}
			if name, times, ok := strings.Cut(point, "*"); ok {
				stop.Point = name
				stop.Packets *= len(strings.Repeat("x", int(times[0]-'0')))
			}
			if name, tunnel, ok := strings.Cut(point, "["); ok {
				stop.Point, stop.Tunnel = name, strings.TrimSuffix(tunnel, "]")
			}
			all = append(all, stop)
		}
	}
	return all
}

// pinged is a flow of pings.
func pinged(id uint16, from, target string, answered bool, request, reply []recording.Stop) flow {
	f := flow{send: ping(id, from, target, 56, answered)}
	f.What, f.Protocol, f.ID, f.Request, f.Reply = fmt.Sprintf("%d pings of %s from %s", pings, target, from), "icmp", id, request, reply
	if strings.Contains(target, ":") {
		f.Protocol = "icmpv6"
	}
	return f
}

// exchanged is a flow over TCP or UDP.
func exchanged(what, protocol string, send func(*recorder), request, reply []recording.Stop) flow {
	f := flow{send: send}
	f.What, f.Protocol, f.Request, f.Reply = what, protocol, request, reply
	return f
}

// dockerNAT is a rule of Docker's in table nat.
func dockerNAT(chain, text string) lab.Rule {
	return lab.Rule{Backend: lab.IPTablesNFT, Family: "ip", Table: "nat", Chain: chain, Text: "-A " + chain + " " + text}
}
