//go:build linux

package live

import (
	"context"
	"fmt"
	"sync"

	"github.com/pathtrace/pathtrace/internal/skbdrop"
	"github.com/pathtrace/pathtrace/internal/topology"
	"github.com/pathtrace/pathtrace/report"
)

// drops is the sensor of the kernel's own drops, one for all namespaces. What
// it cannot see takes a reason away and proves nothing, so that a run without
// it is as good as before.
type drops struct {
	sensor  *skbdrop.Sensor // nil when it could not start
	counted skbdrop.Stats   // when it was drained
	mu      sync.Mutex
	err     error // why it is not ok
}

func openDrops(topo *topology.Snapshot, probes *probes, cfg *Config) *drops {
	config := skbdrop.Config{Proto: probes.proto(), Ports: probes.ports()}
	if probes.ping != nil {
		config.Nonce = probes.ping.Nonce
	}
	for _, m := range probes.beyond {
		config.Ports = append(config.Ports, m.TargetPort)
	}
	return watchDrops(topo, config, cfg.Log)
}

// watchDrops opens the sensor for the namespaces of a snapshot.
func watchDrops(topo *topology.Snapshot, config skbdrop.Config, log func(string, ...any)) *drops {
	config.Namespaces = make(map[uint32]string)
	for i := range topo.Namespaces {
		config.Namespaces[uint32(topo.Namespaces[i].ID)] = topo.Namespaces[i].Name
	}
	log("attach a BPF program to the tracepoint kfree_skb (removed by the kernel when pathtrace ends)")
	d := &drops{}
	d.sensor, d.err = skbdrop.Open(config)
	return d
}

// add has the sensor see a further namespace.
func (d *drops) add(ns *topology.Namespace) {
	if d.sensor != nil {
		d.fail(d.sensor.Add(uint32(ns.ID), ns.Name))
	}
}

// start lets the sensor deliver to the collector until watch is done and it is
// drained.
func (d *drops) start(watch context.Context, sensing *sync.WaitGroup, to sink) {
	if d.sensor != nil {
		sensing.Go(func() { d.fail(d.sensor.Run(watch, to.drop)) })
	}
}

func (d *drops) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
}

// count keeps what the drained sensor has counted.
func (d *drops) count() {
	if d.sensor != nil {
		d.counted = d.sensor.Stats()
	}
}

func (d *drops) close() error {
	if d.sensor == nil {
		return nil
	}
	return d.sensor.Close()
}

// describe is the sensor's line in the report.
func (d *drops) describe() report.Sensor {
	s := report.Sensor{Name: "kernel drops", State: "ok", Optional: true}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sensor == nil {
		s.State = "absent"
	} else {
		s.Received, s.Lost = d.counted.Received, d.counted.Lost
		if s.Lost > 0 {
			s.State, s.Reason = "degraded", fmt.Sprintf("%d lost", s.Lost)
		}
	}
	if d.err != nil {
		s.Reason = d.err.Error()
		if d.sensor != nil {
			s.State = "degraded"
		}
	}
	return s
}
