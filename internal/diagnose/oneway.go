package diagnose

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/report"
	"github.com/pathtrace/pathtrace/ruletrace"
)

// oneWay: an address of the request was translated without conntrack (NPTv6, or
// rules that set addresses), so that a rule of its own has to translate the
// answer back; and the answer came to the same namespace and was not.
func oneWay(s *scene) *cause {
	if s.leg != "reply" || len(s.path.Hops) == 0 {
		return nil
	}
	for i := range s.in.Path.Translations {
		if t := &s.in.Path.Translations[i]; t.Leg == "request" && slices.Contains([]string{"nptv6", "stateless"}, t.Kind) {
			if c := s.untranslated(t); c != nil {
				return c
			}
		}
	}
	return nil
}

// untranslated is the cause when the answer to what a translation sent got past
// the place where it had to be translated back.
func (s *scene) untranslated(t *report.Translation) *cause {
	from, to := addressOf(t.From), addressOf(t.To)
	stays := staysOf(s.path.Hops)
	opposite := map[string]string{"source": "destination", "destination": "source"}[t.Field]
	at := slices.IndexFunc(stays, func(stay stay) bool {
		return stay.netns == t.NetNS && stay.in != "" && (t.Field == "source" && stay.destination == to || t.Field == "destination" && stay.source == to)
	})
	if at < 0 || !s.in.Sensors.Traced[t.NetNS] {
		return nil
	}
	if s.end.Kind == path.Dropped && s.end.NetNS == t.NetNS && at == len(stays)-1 && s.end.Hook != ruletrace.Forward && s.end.Hook != ruletrace.Input {
		return nil // before it could be translated
	}
	c := &cause{
		code: PrefixMismatch, confidence: report.Observed, netns: t.NetNS, iface: stays[at].in, byRule: true, evidence: t.Evidence,
		summary: fmt.Sprintf("%s translated the %s of the request from %s to %s (%s, %s), and did not translate the %s of the answer back.",
			subject(t.NetNS), t.Field, from, to, t.Kind, ruleWords(t.Rule), opposite),
		advice: fmt.Sprintf("This translation keeps no state, so %s needs the reverse rule for answers:", the(t.NetNS)),
		fix:    s.reverse(t, from, to),
	}
	for _, back := range s.in.Path.Translations {
		if back.Leg != "reply" || back.NetNS != t.NetNS || back.Field != opposite || addressOf(back.From) != to {
			continue
		}
		if addressOf(back.To) == from {
			return nil
		}
		c.summary = fmt.Sprintf("%s translated the %s of the request from %s to %s (%s, %s), and the %s of the answer not back to that but to %s (%s).",
			subject(t.NetNS), t.Field, from, to, t.Kind, ruleWords(t.Rule), opposite, addressOf(back.To), ruleWords(back.Rule))
		c.evidence = slices.Concat(c.evidence, back.Evidence)
	}
	if s.end.Kind == path.Dropped {
		c.summary += fmt.Sprintf(" A rule of chain %s then %s it.", chainOf(s.end.Rule), map[bool]string{true: "rejected", false: "dropped"}[s.end.Verdict == ruletrace.Reject])
	}
	return c
}

// prefixes are those of a rule of SNPT (iptables-extensions(8)).
var prefixes = regexp.MustCompile(`-j SNPT --src-pfx (\S+) --dst-pfx (\S+)`)

// reverse are the commands that translate the answers back. Empty when the rule
// that translates the requests is not known or names do not fit into commands.
func (s *scene) reverse(t *report.Translation, from, to netip.Addr) []string {
	if t.Rule == nil || !plainName.MatchString(t.Interface) || !nameable(t.Rule) {
		return nil
	}
	var lines []string
	if m := prefixes.FindStringSubmatch(t.Rule.Text); m != nil {
		inside, err1 := netip.ParsePrefix(m[1])
		outside, err2 := netip.ParsePrefix(m[2])
		if err1 != nil || err2 != nil {
			return nil
		}
		lines = []string{fmt.Sprintf("%s -t mangle -I PREROUTING -d %s -i %s -j DNPT --src-pfx %s --dst-pfx %s", iptables(t.Rule), outside, t.Interface, outside, inside)}
	} else if t.Kind == "stateless" {
		family := addressFamily(to)
		hook, priority, match := "prerouting", "raw", fmt.Sprintf("iifname %s %s daddr %s %s daddr set %s", t.Interface, family, to, family, from)
		if t.Field == "destination" {
			hook, priority, match = "postrouting", "300", fmt.Sprintf("oifname %s %s saddr %s %s saddr set %s", t.Interface, family, to, family, from)
		}
		lines = []string{
			fmt.Sprintf("nft add chain %s %s reverse '{ type filter hook %s priority %s; }'", t.Rule.Family, t.Rule.Table, hook, priority),
			fmt.Sprintf("nft add rule %s %s reverse %s", t.Rule.Family, t.Rule.Table, match),
		}
	}
	for i := range lines {
		ok := false
		if lines[i], ok = s.command(t.NetNS, "%s", lines[i]); !ok {
			return nil
		}
	}
	return lines
}
