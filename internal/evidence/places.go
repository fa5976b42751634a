package evidence

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// places are where the packets of a bundle were seen.
type places struct {
	// points are the places of the interfaces, numbers how many packets each
	// namespace has so far.
	points  map[int32]capture.Point
	numbers map[string]uint64
}

func newPlaces() places {
	return places{points: make(map[int32]capture.Point), numbers: make(map[string]uint64)}
}

// point takes what a record says of an interface.
func (r *places) point(one *record) error {
	if len(r.points) == maxRead {
		return fmt.Errorf("more than %d interfaces", maxRead)
	}
	var point capture.Point
	if err := json.Unmarshal(one.Data, &point); err != nil {
		return err
	}
	r.points[int32(one.ID)] = point
	return nil
}

// sighting is a packet of the file, without its frame. An error says that it could
// not be decoded.
func (r *places) sighting(p *capture.Record, from *capture.FileInterface) (capture.Sighting, error) {
	point, ok := r.points[p.Interface]
	if !ok {
		at := max(strings.LastIndexByte(from.Name, '/'), 0)
		point = capture.Point{NetNS: from.Name[:at], Interface: strings.TrimPrefix(from.Name[at:], "/"), Role: capture.RoleOther}
	}
	r.numbers[point.NetNS]++
	s := capture.Sighting{
		Point: point, Time: time.Unix(0, p.Time), Direction: p.Direction, Number: r.numbers[point.NetNS], Length: int(p.Length),
	}
	var err error
	s.Header, err = packet.Decode(p.Link, p.Data, s.Length)
	return s, err
}
