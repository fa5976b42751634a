package nat

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/packet"
)

func tcp(src, dst string) packet.Tuple {
	from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return packet.Tuple{Proto: packet.TCP, Src: from.Addr(), SrcPort: from.Port(), Dst: to.Addr(), DstPort: to.Port()}
}

func echo(typ uint8, id uint16, src, dst string) packet.Tuple {
	return packet.Tuple{
		Proto: packet.ICMPv6, ICMPType: typ, ICMPID: id,
		Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst),
	}
}

var flows = []struct {
	name         string
	flow         Flow
	translations []Translation
	// sent and answered are what NAT makes of the original and the reply tuple.
	sent, answered packet.Tuple
}{
	{
		name: "not translated",
		flow: Flow{
			Original: tcp("[fd5a::2]:4000", "[2001:db8::2]:80"),
			Reply:    tcp("[2001:db8::2]:80", "[fd5a::2]:4000"),
		},
		sent:     tcp("[fd5a::2]:4000", "[2001:db8::2]:80"),
		answered: tcp("[2001:db8::2]:80", "[fd5a::2]:4000"),
	},
	{
		name: "masquerade keeps the port",
		flow: Flow{
			Original: tcp("10.1.0.2:4000", "192.0.2.2:80"),
			Reply:    tcp("192.0.2.2:80", "192.0.2.1:4000"),
		},
		translations: []Translation{{Source, "10.1.0.2:4000", "192.0.2.1:4000"}},
		sent:         tcp("192.0.2.1:4000", "192.0.2.2:80"),
		answered:     tcp("192.0.2.2:80", "10.1.0.2:4000"),
	},
	{
		name: "only the source port",
		flow: Flow{
			Original: tcp("10.1.0.2:4000", "192.0.2.2:80"),
			Reply:    tcp("192.0.2.2:80", "10.1.0.2:1027"),
		},
		translations: []Translation{{Source, "10.1.0.2:4000", "10.1.0.2:1027"}},
		sent:         tcp("10.1.0.2:1027", "192.0.2.2:80"),
		answered:     tcp("192.0.2.2:80", "10.1.0.2:4000"),
	},
	{
		name: "redirect to another port",
		flow: Flow{
			Original: tcp("[fd5a::2]:4000", "[2001:db8::2]:80"),
			Reply:    tcp("[2001:db8::2]:8080", "[fd5a::2]:4000"),
		},
		translations: []Translation{{Destination, "[2001:db8::2]:80", "[2001:db8::2]:8080"}},
		sent:         tcp("[fd5a::2]:4000", "[2001:db8::2]:8080"),
		answered:     tcp("[2001:db8::2]:80", "[fd5a::2]:4000"),
	},
	{
		name: "hairpin: both ends",
		flow: Flow{
			Original: tcp("10.1.0.2:4000", "203.0.113.1:8080"),
			Reply:    tcp("10.1.0.3:80", "10.1.0.1:1027"),
		},
		translations: []Translation{
			{Destination, "203.0.113.1:8080", "10.1.0.3:80"},
			{Source, "10.1.0.2:4000", "10.1.0.1:1027"},
		},
		sent:     tcp("10.1.0.1:1027", "10.1.0.3:80"),
		answered: tcp("203.0.113.1:8080", "10.1.0.2:4000"),
	},
	{
		name: "echo masqueraded",
		flow: Flow{
			Original: echo(128, 38, "fd5a::2", "2001:db8::2"),
			Reply:    echo(129, 38, "2001:db8::2", "2001:db8::1"),
		},
		translations: []Translation{{Source, "fd5a::2", "2001:db8::1"}},
		sent:         echo(128, 38, "2001:db8::1", "2001:db8::2"),
		answered:     echo(129, 38, "2001:db8::2", "fd5a::2"),
	},
	{
		name: "echo id alone",
		flow: Flow{
			Original: echo(128, 77, "fd5a::2", "2001:db8::2"),
			Reply:    echo(129, 26338, "2001:db8::2", "fd5a::2"),
		},
		translations: []Translation{{Source, "fd5a::2 id 77", "fd5a::2 id 26338"}},
		sent:         echo(128, 26338, "fd5a::2", "2001:db8::2"),
		answered:     echo(129, 77, "2001:db8::2", "fd5a::2"),
	},
	{
		name: "echo masqueraded on a collision",
		flow: Flow{
			Original: echo(128, 77, "fd5a::3", "2001:db8::2"),
			Reply:    echo(129, 26338, "2001:db8::2", "2001:db8::1"),
		},
		translations: []Translation{{Source, "fd5a::3 id 77", "2001:db8::1 id 26338"}},
		sent:         echo(128, 26338, "2001:db8::1", "2001:db8::2"),
		answered:     echo(129, 77, "2001:db8::2", "fd5a::3"),
	},
}

func TestTranslations(t *testing.T) {
	for _, tt := range flows {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.translations, tt.flow.Translations()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestApply(t *testing.T) {
	for _, tt := range flows {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := tt.flow.Apply(tt.flow.Original); !ok || got != tt.sent {
				t.Errorf("original: %v, %v; want %v", got, ok, tt.sent)
			}
			if got, ok := tt.flow.Apply(tt.flow.Reply); !ok || got != tt.answered {
				t.Errorf("reply: %v, %v; want %v", got, ok, tt.answered)
			}
			if len(tt.translations) != 0 {
				if got, ok := tt.flow.Apply(tt.sent); ok {
					t.Errorf("a translated tuple was translated again, to %v", got)
				}
			}
		})
	}
}

func TestMatches(t *testing.T) {
	type want struct {
		tuple     packet.Tuple
		reply, ok bool
	}
	for _, tt := range flows {
		t.Run(tt.name, func(t *testing.T) {
			// Between prerouting and postrouting only the destination is new.
			forward := tt.flow.Original
			forward.Dst, forward.DstPort = tt.sent.Dst, tt.sent.DstPort
			back := tt.flow.Reply
			back.Dst, back.DstPort = tt.answered.Dst, tt.answered.DstPort
			stranger := tt.flow.Original
			stranger.Src = netip.MustParseAddr("2001:db8::bad")
			wants := []want{
				{tt.flow.Original, false, true},
				{forward, false, true},
				{tt.sent, false, true},
				{tt.flow.Reply, true, true},
				{back, true, true},
				{tt.answered, true, true},
				{stranger, false, false},
			}
			if tt.flow.Original.Proto.IsICMP() {
				// The responder's own echo request with the same id is another flow.
				request := tt.answered
				request.ICMPType = packet.EchoRequestV6
				wants = append(wants, want{request, false, false})
			}
			for _, w := range wants {
				if reply, ok := tt.flow.Matches(w.tuple); reply != w.reply || ok != w.ok {
					t.Errorf("%v: reply %v, ok %v; want %v, %v", w.tuple, reply, ok, w.reply, w.ok)
				}
			}
		})
	}
}
