package nat

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/pathtrace/pathtrace/internal/testenv"
)

// TestStatelessPrefixTranslation shows what conntrack makes of NPTv6 on the
// machine that does it: it looks at a packet before its destination is
// translated back, so it knows no answer. The flow stays unreplied and says
// nothing of a translation, answers are INVALID, and so is what a client sends
// after the answer to its SYN.
func TestStatelessPrefixTranslation(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	ip6tables := testenv.Tool(t, "ip6tables-nft")
	run := func(name string, args ...string) string {
		t.Helper()
		var out []byte
		n.do(t, n.router, func() (err error) {
			if out, err = exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
				err = errors.New(string(out))
			}
			return err
		})
		return string(out)
	}
	const inside, outside = "fd5a::/64", "2001:db8:1::/64"
	run(ip6tables, "-t", "mangle", "-A", "POSTROUTING", "-o", "out", "-s", inside, "-j", "SNPT", "--src-pfx", inside, "--dst-pfx", outside)
	run(ip6tables, "-t", "mangle", "-A", "PREROUTING", "-i", "out", "-d", outside, "-j", "DNPT", "--src-pfx", outside, "--dst-pfx", inside)
	n.rules(t, `table ip6 seen {
	chain prerouting {
		type filter hook prerouting priority -199;
		iifname out icmpv6 type echo-reply ct state invalid counter comment "echo reply"
		iifname out tcp flags & (syn | ack) == syn | ack ct state invalid counter comment "SYN-ACK"
		iifname in tcp flags & (syn | ack) == ack ct state invalid counter comment "ACK"
	}
}`)
	w := watch(t, Config{NetNS: n.router, Name: "router"})
	n.ping(t, client6, server6, 38)
	n.exchange(t, netip.AddrPortFrom(client6, 4000), netip.AddrPortFrom(server6, 80))
	list := events(t, w)
	if !strings.Contains(kinds(list), "NEW") {
		t.Errorf("events %q", kinds(list))
	}
	for _, e := range list {
		if e.Flow.Status.Has(StatusSeenReply) || len(e.Flow.Translations()) > 0 {
			t.Errorf("%v of %s: status %#x, translations %v", e.Kind, e.Flow.Original, uint32(e.Flow.Status), e.Flow.Translations())
		}
	}
	if got := n.tool(t, "-L", "-f", "ipv6", "-p", "icmpv6", "--orig-src", client6.String()); !strings.Contains(got, "[UNREPLIED]") {
		t.Errorf("conntrack lists %s", got)
	}
	for line := range strings.Lines(run(n.nft, "list", "table", "ip6", "seen")) {
		if strings.Contains(line, "counter packets 0 ") {
			t.Errorf("not seen: %s", strings.TrimSpace(line))
		}
	}
}
