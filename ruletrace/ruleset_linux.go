package ruletrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The nftables listing is read here and not with the library's GetRules: that
// one drops expressions it does not know and gives up on a rule that it cannot
// parse, and a ruleset that somebody else wrote must never stop us.

// chain is one chain of nftables as the kernel lists it.
type chain struct {
	family, table, name string
	// base is false for a chain without a hook; the rest is then zero.
	base     bool
	typ      string
	hook     Hook
	priority int
	policy   Verdict
	// devices are those whose packets the chain is for, in the hooks ingress and
	// egress.
	devices []string
	// owned says that the table belongs to an arming of pathtrace, of this run
	// or of another.
	owned bool
}

// rule is one rule as the kernel lists it.
type rule struct {
	family, table, chain string
	handle               uint64
	exprs                []expression
	userdata             []byte
}

// expression is one of a rule's expressions, undecoded.
type expression struct {
	name string
	data []byte
}

func nftMessage(command uint8) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | uint16(command))
}

// nfgenmsg is struct nfgenmsg: family, version, resource id (big-endian).
func nfgenmsg(family uint8, resource uint16) []byte {
	return []byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
}

// errStop ends a dump early, without an error.
var errStop = errors.New("stop")

// dump runs one listing and hands each element to each. It reports whether the
// ruleset changed meanwhile.
func dump(c *netlink.Conn, command, family uint8, attributes []netlink.Attribute, each func(family uint8, d *netlink.AttributeDecoder) error) (interrupted bool, err error) {
	body, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return false, err
	}
	if _, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: nftMessage(command), Flags: netlink.Request | netlink.Dump},
		Data:   append(nfgenmsg(family, 0), body...),
	}); err != nil {
		return false, err
	}
	stopped := false
	for m, received := range c.ReceiveIter() {
		switch {
		case received != nil:
			return interrupted, received
		case stopped || err != nil || len(m.Data) < 4:
			continue // read to the end: the next request needs an empty socket
		}
		interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		err = func() error {
			d, err := netlink.NewAttributeDecoder(m.Data[4:])
			if err != nil {
				return err
			}
			d.ByteOrder = binary.BigEndian
			return errors.Join(each(m.Data[0], d), d.Err())
		}()
		if errors.Is(err, errStop) {
			stopped, err = true, nil
		}
	}
	return interrupted, err
}

// consistently repeats a listing that the ruleset changed under. The third
// answer is used as it is.
func consistently(list func() (interrupted bool, err error)) error {
	for range 3 {
		if interrupted, err := list(); err != nil || !interrupted {
			return err
		}
	}
	return nil
}

// hookDevices is NFTA_HOOK_DEVS, a list of NFTA_DEVICE_NAME.
const hookDevices = 4

// dormantTables lists the tables whose chains the kernel keeps out of the hooks
// (NFT_TABLE_F_DORMANT): no packet meets them.
func dormantTables(c *netlink.Conn) (map[chainKey]bool, error) {
	var dormant map[chainKey]bool
	err := consistently(func() (bool, error) {
		dormant = make(map[chainKey]bool)
		return dump(c, unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil, func(family uint8, d *netlink.AttributeDecoder) error {
			table, asleep := chainKey{family: familyName(family)}, false
			for d.Next() {
				switch d.Type() {
				case unix.NFTA_TABLE_NAME:
					table.table = d.String()
				case unix.NFTA_TABLE_FLAGS:
					asleep = d.Uint32()&unix.NFT_TABLE_F_DORMANT != 0
				}
			}
			if asleep {
				dormant[table] = true
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	return dormant, nil
}

// dumpChains lists every chain of the namespace, without those of dormant tables.
func dumpChains(c *netlink.Conn) ([]chain, error) {
	dormant, err := dormantTables(c)
	if err != nil {
		return nil, err
	}
	var chains []chain
	each := func(family uint8, d *netlink.AttributeDecoder) error {
		ch := chain{family: familyName(family)}
		var hook uint32
		for d.Next() {
			switch d.Type() {
			case unix.NFTA_CHAIN_TABLE:
				ch.table = d.String()
			case unix.NFTA_CHAIN_NAME:
				ch.name = d.String()
			case unix.NFTA_CHAIN_TYPE:
				ch.typ = d.String()
			case unix.NFTA_CHAIN_POLICY:
				ch.policy = verdictOf(int32(d.Uint32()))
			case unix.NFTA_CHAIN_HOOK:
				d.Nested(func(n *netlink.AttributeDecoder) error {
					n.ByteOrder = binary.BigEndian
					ch.base = true
					for n.Next() {
						switch n.Type() {
						case unix.NFTA_HOOK_HOOKNUM:
							hook = n.Uint32()
						case unix.NFTA_HOOK_PRIORITY:
							ch.priority = int(int32(n.Uint32()))
						case unix.NFTA_HOOK_DEV:
							ch.devices = append(ch.devices, n.String())
						case hookDevices:
							n.Nested(func(d *netlink.AttributeDecoder) error {
								for d.Next() {
									ch.devices = append(ch.devices, d.String())
								}
								return nil
							})
						}
					}
					return nil
				})
			}
		}
		if ch.base {
			slices.Sort(ch.devices) // a list of one is told in both ways
			ch.devices = slices.Compact(ch.devices)
			ch.hook = hookOf(family, hook)
			if ch.policy == VerdictUnknown {
				ch.policy = Accept
			}
		}
		if dormant[chainKey{family: ch.family, table: ch.table}] {
			return nil
		}
		ch.owned = strings.HasPrefix(ch.table, tablePrefix)
		chains = append(chains, ch)
		return nil
	}
	err = consistently(func() (bool, error) {
		chains = nil
		return dump(c, unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil, each)
	})
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	return chains, nil
}

// dumpRules lists the rules of a chain in their order, or of all chains of a
// table when chain is empty.
func dumpRules(c *netlink.Conn, family uint8, table, chain string) ([]rule, error) {
	filter := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(table + "\x00")}}
	if chain != "" {
		filter = append(filter, netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: []byte(chain + "\x00")})
	}
	var rules []rule
	err := consistently(func() (bool, error) {
		rules = nil
		return dump(c, unix.NFT_MSG_GETRULE, family, filter, func(family uint8, d *netlink.AttributeDecoder) error {
			rules = append(rules, decodeRule(family, d))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules of nftables chain %s %s: %w", table, chain, err)
	}
	return rules, nil
}

// anyRule reports whether a rule of the namespace satisfies want.
func anyRule(c *netlink.Conn, want func(rule) bool) (bool, error) {
	found := false
	_, err := dump(c, unix.NFT_MSG_GETRULE, unix.NFPROTO_UNSPEC, nil, func(family uint8, d *netlink.AttributeDecoder) error {
		if found = want(decodeRule(family, d)); found {
			return errStop
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("list nftables rules: %w", err)
	}
	return found, nil
}

func decodeRule(family uint8, d *netlink.AttributeDecoder) rule {
	r := rule{family: familyName(family)}
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_RULE_TABLE:
			r.table = d.String()
		case unix.NFTA_RULE_CHAIN:
			r.chain = d.String()
		case unix.NFTA_RULE_HANDLE:
			r.handle = d.Uint64()
		case unix.NFTA_RULE_USERDATA:
			r.userdata = d.Bytes()
		case unix.NFTA_RULE_EXPRESSIONS:
			d.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(n *netlink.AttributeDecoder) error {
						var e expression
						for n.Next() {
							switch n.Type() {
							case unix.NFTA_EXPR_NAME:
								e.name = n.String()
							case unix.NFTA_EXPR_DATA:
								e.data = n.Bytes()
							}
						}
						r.exprs = append(r.exprs, e)
						return nil
					})
				}
				return nil
			})
		}
	}
	return r
}

// generation returns the ruleset's generation, which each change raises.
func generation(c *netlink.Conn) (uint32, error) {
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: nftMessage(unix.NFT_MSG_GETGEN), Flags: netlink.Request},
		Data:   nfgenmsg(unix.NFPROTO_UNSPEC, 0),
	})
	if err != nil {
		return 0, fmt.Errorf("read the nftables generation: %w", err)
	}
	for _, m := range answers {
		if len(m.Data) < 4 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("read the nftables generation: %w", err)
		}
		d.ByteOrder = binary.BigEndian
		for d.Next() {
			if d.Type() == unix.NFTA_GEN_ID {
				return d.Uint32(), d.Err()
			}
		}
	}
	return 0, errors.New("read the nftables generation: the kernel told none")
}
