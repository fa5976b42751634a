package flows

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/packet"
)

// TestUnacknowledged: what is sent again after a silence was not acknowledged
// unless an acknowledgement of it was seen, or a reset.
func TestUnacknowledged(t *testing.T) {
	t.Parallel()
	const ack, push = packet.ACK, packet.ACK | packet.PSH
	syn := segment{from: "10.0.0.1:40000", to: "192.0.2.7:80", proto: packet.TCP, flags: packet.SYN, seq: 999, ttl: 64, id: 1}
	synAck := syn.answer(packet.SYN|packet.ACK, 4999, 1000, 0)
	there := func(id uint16, flags packet.TCPFlags, seq, acked uint32, data int) segment {
		s := syn
		s.id, s.flags, s.seq, s.ack, s.data = id, flags, seq, acked, data
		return s
	}
	back := func(id uint16, flags packet.TCPFlags, seq, acked uint32, data int) segment {
		return there(id, 0, 0, 0, 0).answer(flags, seq, acked, data)
	}
	start := []segment{syn, synAck, there(2, ack, 1000, 5000, 0), there(3, push, 1000, 5000, 100)}
	tests := map[string]struct {
		all   []segment
		after []int64 // when those behind start came, in milliseconds
		want  *Unacknowledged
	}{
		"never":     {[]segment{there(4, push, 1000, 5000, 100), there(5, push, 1000, 5000, 100)}, []int64{300, 900}, &Unacknowledged{}},
		"at last":   {[]segment{there(4, push, 1000, 5000, 100), back(4, ack, 5000, 1100, 0)}, []int64{300, 900}, nil},
		"in part":   {[]segment{there(4, push, 1000, 5000, 100), back(4, ack, 5000, 1050, 0)}, []int64{300, 900}, &Unacknowledged{}},
		"overtaken": {[]segment{there(5, push, 1200, 5000, 100), there(4, push, 1100, 5000, 100)}, []int64{10, 11}, nil},
		"reset":     {[]segment{there(4, push, 1000, 5000, 100), back(4, packet.RST, 5000, 0, 0)}, []int64{300, 900}, nil},
		"only its end": {
			[]segment{back(4, ack, 5000, 1100, 0), there(4, ack|packet.FIN, 1100, 5000, 0), there(5, ack|packet.FIN, 1100, 5000, 0)},
			[]int64{10, 20, 900},
			nil,
		},
		"of the answer": {
			[]segment{back(4, push, 5000, 1100, 70), back(5, push, 5000, 1100, 70), there(4, ack, 1100, 5000, 0)},
			[]int64{10, 400, 401},
			&Unacknowledged{Reply: true},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := at(0, 0, start...)
			for i, s := range tt.all {
				all = append(all, sent{at: tt.after[i], segment: s})
			}
			r := joined(t, all...)
			if len(r.Flows) != 1 {
				t.Fatalf("%d flows", len(r.Flows))
			}
			if diff := cmp.Diff(tt.want, r.Flows[0].Unacknowledged); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	half := []sent{{at: 0, segment: syn}, {at: 1, segment: synAck}, {at: 1001, segment: back(5, packet.SYN|packet.ACK, 4999, 1000, 0)}}
	if got := joined(t, half...).Flows[0].Unacknowledged; got == nil || !got.Reply {
		t.Errorf("an answer to a SYN that nobody acknowledged: %+v", got)
	}
}
