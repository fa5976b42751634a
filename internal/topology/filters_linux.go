package topology

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// xdpModes are the XDP_ATTACHED_* numbers (include/uapi/linux/if_link.h) in
// iproute2's words.
var xdpModes = []string{"", "xdpdrv", "xdpgeneric", "xdpoffload", "xdp"}

func xdpOf(found *netlink.LinkXdp) *XDP {
	if found == nil || found.AttachMode == 0 {
		return nil
	}
	return &XDP{Mode: at(xdpModes, int(found.AttachMode)), ID: found.ProgId}
}

// The numbers of queueing disciplines' statistics (include/uapi/linux/
// gen_stats.h): drops is the third number of struct gnet_stats_queue.
const (
	statsQueue = 3 // TCA_STATS_QUEUE
	dropsAt    = 8
)

// filters reads what tc and tcx filter, and the names of programs. The dump of
// the queueing disciplines is one for all links; filters are asked for where
// there may be some.
func (r *reader) filters(n *Namespace) error {
	messages, err := r.dumpOptional(unix.RTM_GETQDISC, &nl.TcMsg{}, unix.RTM_NEWQDISC)
	if err != nil {
		return fmt.Errorf("read queueing disciplines: %w", err)
	}
	links := make(map[int]*Link, len(n.Links))
	for i := range n.Links {
		links[n.Links[i].Index] = &n.Links[i]
	}
	var errs []error
	for _, message := range messages {
		if len(message) < nl.SizeofTcMsg {
			continue
		}
		link := links[int(nl.DeserializeTcMsg(message).Ifindex)]
		drops, ok := classifies(message)
		if link == nil || !ok {
			continue
		}
		link.FilterDrops = drops
		if link.Filters, err = r.filtersOf(link.Index); err != nil {
			errs = append(errs, fmt.Errorf("read the filters of %s: %w", link.Name, err))
		}
	}
	_ = r.inside(func() error { // a program that cannot be read is one without a name
		for _, link := range links {
			link.programs()
		}
		return nil
	})
	return errors.Join(errs...)
}

// classifies reports whether a queueing discipline is one of those that hold
// filters for what comes in, and how many packets they dropped.
func classifies(message []byte) (drops uint64, ok bool) {
	_ = attributes(message, nl.SizeofTcMsg, func(kind uint16, value []byte) {
		switch kind {
		case nl.TCA_KIND:
			name := strings.TrimRight(string(value), "\x00")
			ok = name == "clsact" || name == "ingress"
		case nl.TCA_STATS2:
			_ = attributes(value, 0, func(kind uint16, value []byte) {
				if kind == statsQueue && len(value) >= dropsAt+4 {
					drops = uint64(binary.NativeEndian.Uint32(value[dropsAt:]))
				}
			})
		}
	})
	return drops, ok
}

// filtersOf lists the filters of a link.
func (r *reader) filtersOf(index int) ([]Filter, error) {
	var all []Filter
	for _, side := range []struct {
		parent uint32
		egress bool
	}{{netlink.HANDLE_MIN_INGRESS, false}, {netlink.HANDLE_MIN_EGRESS, true}} {
		found, err := complete(func() ([]netlink.Filter, error) {
			return r.handle.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}, side.parent)
		})
		if side.egress && errors.Is(err, unix.EINVAL) {
			continue // the discipline "ingress" has no other side
		}
		if err != nil {
			return all, err
		}
		for _, f := range found {
			all = append(all, Filter{Egress: side.egress, Preference: int(f.Attrs().Priority), Text: filterText(f)})
		}
	}
	return all, nil
}

// filterText is a filter in short, in tc's words.
func filterText(f netlink.Filter) string {
	words := []string{f.Type()}
	var actions []netlink.Action
	switch f := f.(type) {
	case *netlink.BpfFilter:
		if f.DirectAction {
			words = append(words, "direct-action")
		}
		if f.Name != "" {
			words = append(words, f.Name)
		}
	case *netlink.U32:
		actions = f.Actions
	case *netlink.MatchAll:
		actions = f.Actions
	case *netlink.Flower:
		actions = f.Actions
	}
	for _, action := range actions {
		word := action.Type()
		if _, ok := action.(*netlink.GenericAction); ok { // gact, which tc calls by its verdict
			word = verdictText(action.Attrs().Action)
		}
		words = append(words, "action "+word)
	}
	return strings.Join(words, " ")
}

func verdictText(verdict netlink.TcAct) string {
	switch verdict {
	case netlink.TC_ACT_SHOT:
		return "drop"
	case netlink.TC_ACT_OK:
		return "pass"
	}
	return verdict.String()
}
