//go:build linux

package live

import (
	"context"
	"fmt"
	"sync"

	"github.com/pathtrace/pathtrace/internal/attempt"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/report"
)

// attempts is the sensor of what the source's programs want to send to. Without it
// nothing is known of what never became a packet.
type attempts struct {
	sensor  *attempt.Sensor // nil when it could not start
	counted attempt.Stats   // when it was drained
	mu      sync.Mutex
	err     error // why it is not ok
}

func watchAttempts(source *netns.NS, log func(string, ...any)) *attempts {
	log("attach BPF programs that see which addresses programs of the source connect and send to (removed by the kernel when pathtrace ends)")
	a := &attempts{}
	a.sensor, a.err = attempt.Open(source)
	return a
}

// start lets the sensor deliver until watch is done and it is drained.
func (a *attempts) start(watch context.Context, sensing *sync.WaitGroup, to *gatherer) {
	if a.sensor == nil {
		return
	}
	sensing.Go(func() {
		err := a.sensor.Run(watch, to.attempt)
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.err == nil {
			a.err = err
		}
	})
}

// count keeps what the drained sensor has counted.
func (a *attempts) count() {
	if a.sensor != nil {
		a.counted = a.sensor.Stats()
	}
}

func (a *attempts) close() error {
	if a.sensor == nil {
		return nil
	}
	return a.sensor.Close()
}

// describe is the sensor's line in the report.
func (a *attempts) describe() report.Sensor {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := report.Sensor{Name: "connection attempts", State: "ok", Optional: true, Received: a.counted.Received, Lost: a.counted.Lost}
	if a.err != nil {
		s.Reason = a.err.Error()
	}
	switch {
	case a.sensor == nil:
		s.State = "absent"
	case s.Lost > 0:
		s.State, s.Reason = "degraded", fmt.Sprintf("%d lost", s.Lost)
	case a.err != nil:
		s.State = "degraded"
	}
	return s
}
