package offline

import (
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
	"github.com/pathtrace/pathtrace/report"
)

// captures puts what is known of the files into the report's form.
func (in *Input) captures() []report.Capture {
	all := make([]report.Capture, 0, len(in.Captures)+len(in.Refused))
	for i := range in.Captures {
		c := &in.Captures[i]
		r := report.Capture{File: c.Name, Point: c.Point, Format: c.Format, LinkType: c.linkTypes(), Offset: in.offset(i)}
		if p := c.Problem; p != nil {
			r.Problem, r.Skipped = p.String(), p.Skipped
		}
		var places []report.CapturePlace
		var first, last int64
		for k := range in.Result.Places {
			p := &in.Result.Places[k]
			if p.Capture != i {
				continue
			}
			r.Packets, r.Bytes = r.Packets+p.Packets, r.Bytes+p.Bytes
			places = append(places, report.CapturePlace{Place: in.place(k), Packets: p.Packets, Bytes: p.Bytes})
			if p.First != 0 && (first == 0 || p.First < first) {
				first = p.First
			}
			last = max(last, p.Last)
		}
		r.Started, r.Finished = timeOf(first), timeOf(last)
		if places = append(places, in.silent(i)...); len(places) > 1 {
			r.Places = places
		}
		all = append(all, r)
	}
	for _, refused := range in.Refused {
		all = append(all, report.Capture{File: refused.Name, Problem: refused.Err.Error()})
	}
	return all
}

// silent are the interfaces of a capture that saw nothing.
func (in *Input) silent(index int) []report.CapturePlace {
	c := &in.Captures[index]
	if c.points == nil {
		return nil
	}
	heard := make(map[capture.Point]bool)
	for i := range in.Result.Places {
		if p := &in.Result.Places[i]; p.Capture == index {
			heard[p.Point] = true
		}
	}
	var all []report.CapturePlace
	for i, of := range c.Interfaces {
		// Packets of a capture of all interfaces are named by the interface in them.
		if p := c.points.point(i, of); !heard[p] && !isRecords(of) && of.Link != packet.LinkSLL2 && of.Link != packet.LinkSLL {
			all = append(all, report.CapturePlace{Place: report.Place{Capture: c.Name, Machine: c.Machine, NetNS: p.NetNS, Interface: p.Interface}})
		}
	}
	return all
}

// linkTypes names the link types of a capture, each once.
func (c *Capture) linkTypes() string {
	var names []string
	for _, i := range c.Interfaces {
		if name := i.Link.String(); !isRecords(i) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// offset is how a capture's clock stands to that of the reference; nil for the
// reference itself.
func (in *Input) offset(i int) *report.Offset {
	if i == 0 || i >= len(in.Clocks) {
		return nil
	}
	c := &in.Clocks[i]
	o := &report.Offset{Reference: in.Captures[0].Name, Confidence: report.Assumed}
	if !c.Known {
		return o
	}
	o.Reference = in.Captures[c.Reference].Name
	o.Low, o.High, o.Shared, o.Drift = float64(c.Low)/1e9, float64(c.High)/1e9, c.Shared, c.Drift/1e9
	if c.Bounded {
		o.Confidence = report.Reconstructed
	}
	return o
}
