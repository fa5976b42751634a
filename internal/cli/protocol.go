package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pathtrace/pathtrace/packet"
)

// protocols are those that have a name; the others have a number.
var protocols = []packet.Proto{packet.ICMP, packet.ICMPv6, packet.TCP, packet.UDP, packet.SCTP}

func protocolNames() (names []string) {
	for _, p := range protocols {
		names = append(names, p.String())
	}
	return names
}

// protocol is a flag that takes an IP protocol by name or number; 0 is none.
type protocol struct{ value packet.Proto }

func (p *protocol) String() string {
	if p.value == 0 {
		return ""
	}
	return p.value.String()
}

func (p *protocol) Set(text string) error {
	for _, known := range protocols {
		if strings.EqualFold(text, known.String()) {
			p.value = known
			return nil
		}
	}
	number, err := strconv.ParseUint(text, 10, 8)
	if err != nil || number == 0 {
		return fmt.Errorf("must be %s or a number from 1 to 255", strings.Join(protocolNames(), ", "))
	}
	p.value = packet.Proto(number)
	return nil
}

func (p *protocol) Type() string { return "PROTO" }
