package ruletrace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/packet"
)

// Traffic is all that a source sends, and what comes back: what an arming is for
// in place of the one flow of a Match, when flows are not known before they begin.
//
// In each namespace the packets from and to Own are traced, and those of which
// conntrack says that they belong to a flow that one of these opened. Behind a NAT
// they have one of the addresses Near, which others may have, too. Who was sent to
// is remembered by the kernel, so that what comes back is known by where it comes
// from, also where a NAT that keeps no state has still to translate it.
//
// Each direction of a flow has a budget of its own, which grows again by one
// packet a second, and all of a namespace share another one; packets beyond that
// are counted (Arming.Untraced).
type Traffic struct {
	Own, Near []netip.Addr
}

// The budgets: of a direction of a flow, of all packets of the source in one
// namespace, and of those that may be somebody else's. Rates are by the second.
const (
	flowRate, flowBurst     = 1, 4
	ownRate, ownBurst       = 400, 1000
	looseRate, looseBurst   = 50, 250
	maxTracked              = 1 << 14
	maxRemembered           = 1 << 12
	rememberedFor           = time.Minute
	flowsRememberedFor      = 30 * time.Second
	setOwn, setNear, setFar = "own", "near", "far"
	setFlows                = "flows"
)

// set is a set of a part.
type set struct {
	name     string
	key      nftables.SetDatatype
	elements []netip.Addr
	// dynamic sets are filled by rules; their elements end after timeout.
	dynamic bool
	timeout time.Duration
	size    uint32
}

// words is the set in nft's syntax.
func (s *set) words() string {
	if s.dynamic {
		return fmt.Sprintf("set %s { type %s; flags dynamic,timeout; timeout %s; size %d; }", s.name, s.key.Name, s.timeout, s.size)
	}
	texts := make([]string, len(s.elements))
	for i, a := range s.elements {
		texts[i] = a.String()
	}
	return fmt.Sprintf("set %s { type %s; elements = { %s }; }", s.name, s.key.Name, strings.Join(texts, ", "))
}

// add adds the set to a table. id tells it from the others of a batch: without one
// nftables v0.3.0 counts in a variable of all connections, without a lock.
func (s *set) add(c *nftables.Conn, t *nftables.Table, id uint32) error {
	elements := make([]nftables.SetElement, len(s.elements))
	for i, a := range s.elements {
		elements[i].Key = a.AsSlice()
	}
	return c.AddSet(&nftables.Set{
		Table: t, ID: id, Name: s.name, KeyType: s.key, Dynamic: s.dynamic, HasTimeout: s.dynamic, Timeout: s.timeout, Size: s.size,
	}, elements)
}

// version is one IP version of a traffic in one table. Its sets have names of
// their own, since a bridge and a device see both versions.
type version struct {
	layout
	own, near []netip.Addr
	suffix    string
	// gate is what the rules of a table of both versions need first.
	gate *selector
}

// versions are those that a traffic has addresses of.
func (t *Traffic) versions() []version {
	var all []version
	for _, v := range []version{{layout: layout4, suffix: "4"}, {layout: layout6, suffix: "6"}} {
		of := func(addresses []netip.Addr) []netip.Addr {
			var same []netip.Addr
			for _, a := range addresses {
				if a = a.WithZone(""); a.Is6() == (v.suffix == "6") && !slices.Contains(same, a) {
					same = append(same, a)
				}
			}
			return same
		}
		v.own = of(t.Own)
		for _, a := range of(t.Near) {
			if !slices.Contains(v.own, a) {
				v.near = append(v.near, a)
			}
		}
		if len(v.own) > 0 {
			all = append(all, v)
		}
	}
	return all
}

// parts are the tables for a traffic beside the chains that others have. track
// says where connection tracking is on.
func (t *Traffic) parts(chains []chain, track map[string]bool) []part {
	var all []part
	versions := t.versions()
	for _, v := range versions {
		family := "ip"
		if v.suffix == "6" {
			family = "ip6"
		}
		p := part{table: nftables.Table{Family: nftables.TableFamily(familyNumber(family))}}
		p.version(v, "")
		p.hook(lowest(chains, family, Prerouting, Output), []Hook{Prerouting, Output}, []version{v})
		if track[family] {
			p.tracked(v)
			p.translated(v, lowest(chains, family, Forward))
		}
		all = append(all, p)
	}
	both := func(family nftables.TableFamily) part {
		p := part{table: nftables.Table{Family: family}}
		for i := range versions {
			v := &versions[i]
			gate := flow{layout: v.layout}.ofVersion()
			v.gate = &gate
			p.version(*v, "")
		}
		return p
	}
	if slices.ContainsFunc(chains, func(ch chain) bool { return ch.family == "bridge" && ch.base && !ch.owned }) {
		p := both(nftables.TableFamilyBridge)
		p.hook(lowest(chains, "bridge", Prerouting, Output), []Hook{Prerouting}, versions)
		all = append(all, p)
	}
	if places := devicePlaces(chains); len(places) > 0 {
		p := both(nftables.TableFamilyNetdev)
		for i, at := range places {
			p.chains = append(p.chains, armingChain{
				name: fmt.Sprintf("%s-%d", at.hook, i), hook: at.hook, device: at.device, priority: at.priority, rules: entries(versions),
			})
		}
		all = append(all, p)
	}
	return all
}

// version adds the sets and chains of one IP version.
func (p *part) version(v version, prefix string) {
	address, words := nftables.TypeIPAddr, uint32(2)
	if v.suffix == "6" {
		address, words = nftables.TypeIP6Addr, 8
	}
	// A key of both addresses and both ports is a row of 32-bit words.
	var row []nftables.SetDatatype
	for range words + 1 {
		row = append(row, nftables.TypeMark)
	}
	key := nftables.TypeIP6Addr
	key.Name, key.Bytes = fmt.Sprintf("saddr . daddr . ports (%d words)", len(row)), uint32(4*len(row))
	p.sets = append(p.sets,
		set{name: prefix + setFlows + v.suffix, key: key, dynamic: true, timeout: flowsRememberedFor, size: maxTracked})
	if prefix == "" {
		p.sets = append(p.sets,
			set{name: setOwn + v.suffix, key: address, elements: v.own},
			set{name: setFar + v.suffix, key: address, dynamic: true, timeout: rememberedFor, size: maxRemembered})
		if len(v.near) > 0 {
			p.sets = append(p.sets, set{name: setNear + v.suffix, key: address, elements: v.near})
		}
	}
	for _, strength := range []struct {
		name        string
		rate, burst uint32
	}{{"own", ownRate, ownBurst}, {"loose", looseRate, looseBurst}} {
		trace := prefix + "trace-" + strength.name + v.suffix
		p.chains = append(p.chains,
			rateChain(trace, strength.rate, strength.burst),
			armingChain{name: prefix + strength.name + v.suffix, rules: []selector{
				v.within(prefix+setFlows+v.suffix, true).and(jump(trace)),
				v.within(prefix+setFlows+v.suffix, false).and(jump(trace)),
				accept,
			}})
	}
	if prefix == "" {
		p.chains = append(p.chains, armingChain{name: "version" + v.suffix, rules: v.rules()})
	}
}

// hook adds base chains.
func (p *part) hook(priority int, hooks []Hook, versions []version) {
	for _, hook := range hooks {
		p.chains = append(p.chains, armingChain{name: string(hook), hook: hook, priority: priority, rules: entries(versions)})
	}
}

// entries lead to the rules of each version.
func entries(versions []version) []selector {
	var rules []selector
	for _, v := range versions {
		rule := jump("version" + v.suffix)
		if v.gate != nil {
			rule = v.gate.and(rule)
		}
		rules = append(rules, rule)
	}
	return rules
}

// rules sort the packets of a version. Most of what others send leaves them after
// four look-ups.
func (v version) rules() []selector {
	rules := []selector{
		v.in(v.srcAt, setOwn).and(v.remember()),
		v.in(v.srcAt, setOwn).and(jump("own" + v.suffix)),
		v.in(v.dstAt, setOwn).and(jump("own" + v.suffix)),
		v.in(v.srcAt, setFar).and(jump("loose" + v.suffix)),
	}
	if len(v.near) > 0 {
		rules = append(rules,
			v.in(v.srcAt, setNear).and(v.remember()),
			v.in(v.srcAt, setNear).and(jump("loose"+v.suffix)),
			v.in(v.dstAt, setNear).and(jump("loose"+v.suffix)))
	}
	return rules
}

// tracked adds the chains behind connection tracking: a flow's packets have its
// original source there whatever NAT has still to do.
func (p *part) tracked(v version) {
	const prefix = "ct-"
	p.version(v, prefix)
	original := func(name string) selector {
		return selector{
			text: fmt.Sprintf("ct original saddr @%s", name+v.suffix),
			exprs: []expr.Any{
				&expr.Ct{Register: unix.NFT_REG_1, Key: expr.CtKeySRC}, // direction 0 is IP_CT_DIR_ORIGINAL
				&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: name + v.suffix},
			},
		}
	}
	rules := []selector{original(setOwn).and(jump(prefix + "own" + v.suffix))}
	if len(v.near) > 0 {
		rules = append(rules, original(setNear).and(jump(prefix+"loose"+v.suffix)))
	}
	for _, hook := range []Hook{Prerouting, Output} {
		p.chains = append(p.chains, armingChain{name: prefix + string(hook), hook: hook, priority: conntrackPriority, rules: rules})
	}
}

// translated adds the chain for what others open to the source and is for one of its
// addresses only since its destination was translated: it is traced from forward on.
func (p *part) translated(v version, priority int) {
	const prefix = "nat-"
	p.version(v, prefix)
	opening := selector{
		text: fmt.Sprintf("ct direction original ct original daddr != @%s", setOwn+v.suffix),
		exprs: []expr.Any{
			&expr.Ct{Register: unix.NFT_REG_1, Key: expr.CtKeyDIRECTION},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{0}}, // IP_CT_DIR_ORIGINAL
			&expr.Ct{Register: unix.NFT_REG_1, Key: expr.CtKeyDST},
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: setOwn + v.suffix, Invert: true},
		},
	}
	p.chains = append(p.chains, armingChain{
		name: prefix + string(Forward), hook: Forward, priority: priority,
		rules: []selector{v.in(v.dstAt, setOwn).and(opening).and(jump(prefix + "own" + v.suffix))},
	})
}

// in looks an address of the IP header up in a set.
func (v version) in(at int, name string) selector {
	length := uint32(4)
	if v.suffix == "6" {
		length = 16
	}
	word := map[int]string{v.srcAt: "saddr", v.dstAt: "daddr"}[at]
	return selector{
		text: fmt.Sprintf("%s @%s", word, name+v.suffix),
		exprs: []expr.Any{
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(at), Len: length},
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: name + v.suffix},
		},
	}
}

// remember puts the destination among those that were sent to.
func (v version) remember() selector {
	length := uint32(4)
	if v.suffix == "6" {
		length = 16
	}
	return selector{
		text: fmt.Sprintf("update @%s { daddr }", setFar+v.suffix),
		exprs: []expr.Any{
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(v.dstAt), Len: length},
			&expr.Dynset{SrcRegKey: unix.NFT_REG_1, SetName: setFar + v.suffix, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: rememberedFor},
		},
	}
}

// within matches as long as the budget of the packet's direction of its flow
// lasts. An ICMP message has its type and code in place of ports.
func (v version) within(name string, icmp bool) selector {
	addresses, ports := uint32(8), uint32(4)
	protocol, op := "!=", expr.CmpOpNeq
	if v.suffix == "6" {
		addresses = 32
	}
	if icmp {
		ports, protocol, op = 2, "==", expr.CmpOpEq
	}
	const first = unix.NFT_REG32_00
	load := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: []byte{byte(v.icmp)}},
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(v.srcAt), Len: addresses},
		&expr.Payload{DestRegister: first + addresses/4, Base: expr.PayloadBaseTransportHeader, Len: ports},
		&expr.Dynset{
			SrcRegKey: first, SetName: name, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: flowsRememberedFor,
			Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: flowRate, Unit: expr.LimitTimeSecond, Burst: flowBurst}},
		},
	}
	return selector{
		text: fmt.Sprintf("meta l4proto %s %s update @%s { saddr . daddr . @th,0,%d limit rate %d/second burst %d packets }",
			protocol, packet.Proto(v.icmp), name, ports*8, flowRate, flowBurst),
		exprs: load,
	}
}

// rateChain traces what comes to it as long as the budget lasts, and counts the
// rest.
func rateChain(name string, rate, burst uint32) armingChain {
	return armingChain{name: name, rules: []selector{
		{
			text: fmt.Sprintf("limit rate %d/second burst %d packets meta nftrace set 1 accept", rate, burst),
			exprs: []expr.Any{
				&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: burst},
				&expr.Immediate{Register: unix.NFT_REG_1, Data: []byte{1}},
				&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: unix.NFT_REG_1},
				&expr.Verdict{Kind: expr.VerdictAccept},
			},
		},
		{text: "counter accept", exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}},
	}}
}

// Untraced counts the packets of a traffic for which the namespace's budget was
// used up.
func (a *Arming) Untraced() (uint64, error) {
	var sum uint64
	for i := range a.parts {
		p := &a.parts[i]
		for _, ch := range p.chains {
			if !strings.Contains(ch.name, "trace-") {
				continue
			}
			rules, err := a.conn.GetRules(&p.table, &nftables.Chain{Name: ch.name, Table: &p.table})
			if err != nil {
				return sum, fmt.Errorf("read how much %s did not trace: %w", a.name, err)
			}
			for _, r := range rules {
				for _, e := range r.Exprs {
					if c, ok := e.(*expr.Counter); ok {
						sum += c.Packets
					}
				}
			}
		}
	}
	return sum, nil
}
