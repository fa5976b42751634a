package topology

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// maxSurvey is how many namespaces a survey looks into: each costs about a
// millisecond, and who has more is helped by looking at one container.
const maxSurvey = 256

// Survey takes a snapshot without following a packet: of the source, of the
// host, and of the namespaces that their links lead to. Without a source these
// are all of the host's; with one, those behind the host's ways out, and those
// behind the source's own links. Target and Zone of the configuration do not
// count. left is how many namespaces were left out because there are too many.
// The caller closes the handles.
func Survey(ctx context.Context, config Config) (snapshot *Snapshot, handles *Handles, left int, err error) {
	w := &walker{snapshot: &Snapshot{Steps: []Step{}}, visited: make(map[visit]bool)}
	handles = &Handles{walker: w}
	if err := w.begin(config); err != nil {
		return nil, nil, 0, errors.Join(err, handles.Close())
	}
	source, err := w.enter(w.source)
	if err != nil {
		return nil, nil, 0, errors.Join(fmt.Errorf("look into %s: %w", w.source.name, err), handles.Close())
	}
	w.include(source)
	if host, err := w.enter(w.host); err != nil {
		w.problem("look into %s: %v", HostName, err)
	} else {
		w.include(host)
		left = w.around(ctx, host, func(link *Link) bool { return source == host || host.namespace.leadsOut(link) })
	}
	if w.source != w.host {
		left += w.around(ctx, source, func(*Link) bool { return true })
	}
	if ctx.Err() != nil {
		return nil, nil, 0, errors.Join(ctx.Err(), handles.Close())
	}
	w.advertised()
	w.finish()
	w.rest()
	return w.snapshot, handles, left, nil
}

// around includes the namespaces that links of one lead to, and returns how many
// were too many.
func (w *walker) around(ctx context.Context, p *place, want func(*Link) bool) (left int) {
	omitted := make(map[int]bool)
	for i := range p.namespace.Links {
		link := &p.namespace.Links[i]
		wire, found := p.wires[link.Index]
		if !found || wire.nsid < 0 || !want(link) {
			continue
		}
		if ctx.Err() != nil {
			return 0
		}
		if len(w.way) >= maxSurvey {
			omitted[wire.nsid] = true
			continue
		}
		if far, _ := w.across(end{place: p, link: link}); far != nil {
			w.include(far)
		}
	}
	return len(omitted)
}

// advertised reads whether links follow router advertisements, where that
// matters: in namespaces that forward. No dump has it.
func (w *walker) advertised() {
	for _, place := range w.way {
		if !place.namespace.All.ForwardIPv6 {
			continue
		}
		err := place.reader.inside(func() error {
			for i := range place.namespace.Links {
				link := &place.namespace.Links[i]
				link.Settings.AcceptRA = numberIn("/proc/sys/net/ipv6/conf/" + link.Name + "/accept_ra")
			}
			return nil
		})
		if err != nil {
			w.problem("%s: read accept_ra: %v", place.namespace.Name, err)
		}
	}
}

// numberIn reads a switch; 0 when it is not there.
func numberIn(path string) int {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	value, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	return value
}

// Unsettled reports whether something in the snapshot is about to change by
// itself within seconds: an address whose duplicate address detection has not
// ended, a bridge port that listens or learns, or that is disabled until the
// bridge hears of its carrier.
func (s *Snapshot) Unsettled() bool {
	return slices.ContainsFunc(s.Namespaces, func(n Namespace) bool {
		return slices.ContainsFunc(n.Links, func(l Link) bool {
			if l.Port != nil && l.Up && l.Carrier && slices.Contains([]string{"listening", "learning", "disabled"}, l.Port.State) {
				return true
			}
			for _, flags := range l.AddressFlags {
				if l.Carrier && slices.Contains(flags, "tentative") && !slices.Contains(flags, "dadfailed") {
					return true
				}
			}
			return false
		})
	})
}

// Around adds the namespaces that the links of those of the snapshot lead to
// without a bridge between, and those behind them, until there are limit of them
// in all: the routers of a machine, but not all the containers of a bridge. It
// returns the names of those that it added; the snapshot that Discover returned is
// brought up to date.
func (h *Handles) Around(ctx context.Context, limit int) (added []string) {
	w := h.walker
	before := len(w.way)
	defer w.rest()
	for i := 0; i < len(w.way) && len(w.way) < limit && ctx.Err() == nil; i++ {
		w.around(ctx, w.way[i], func(l *Link) bool { return l.Bridge == "" && len(w.way) < limit })
	}
	w.finish()
	for _, place := range w.way[before:] {
		added = append(added, place.namespace.Name)
	}
	return added
}
