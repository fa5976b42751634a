package ruletrace

import (
	"fmt"
	"strings"
)

// savedTable is one table of iptables-save's output.
type savedTable struct {
	name   string
	chains map[string]*savedChain
}

// savedChain is one chain of it.
type savedChain struct {
	// policy is ACCEPT or DROP, and "-" for a user chain.
	policy string
	// rules are the -A lines, in their order, without counters.
	rules []string
}

// parseSave reads the output of iptables-save and its relatives. Lines that it
// does not understand are left out, as the tools' own comments are.
func parseSave(text string) map[string]*savedTable {
	tables := map[string]*savedTable{}
	var table *savedTable
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if table == nil && !strings.HasPrefix(line, "*") {
			continue
		}
		switch {
		case strings.HasPrefix(line, "*"):
			table = &savedTable{name: line[1:], chains: map[string]*savedChain{}}
			tables[table.name] = table
		case line == "COMMIT":
			table = nil
		case strings.HasPrefix(line, ":"):
			if name, rest, ok := strings.Cut(line[1:], " "); ok {
				policy, _, _ := strings.Cut(rest, " ")
				table.chains[name] = &savedChain{policy: policy}
			}
		default:
			if strings.HasPrefix(line, "[") { // -c: [packets:bytes] -A …
				_, line, _ = strings.Cut(line, "] ")
			}
			rest, ok := strings.CutPrefix(line, "-A ")
			if !ok {
				continue
			}
			name, _, _ := strings.Cut(rest, " ")
			if chain := table.chains[name]; chain != nil {
				chain.rules = append(chain.rules, line)
			}
		}
	}
	return tables
}

// savedVerdict says what a rule's target decides, and for a jump or goto which
// chain follows. It is VerdictUnknown for a target that it does not know.
func (t *savedTable) savedVerdict(rule string) (verdict Verdict, target string) {
	return savedVerdict(rule, func(name string) bool { return t.chains[name] != nil })
}

func savedVerdict(rule string, isChain func(string) bool) (verdict Verdict, target string) {
	name, flag := savedTarget(words(rule))
	switch {
	case name == "":
		return Continue, ""
	case flag == "-g" || flag == "--goto":
		return Goto, name
	case isChain(name):
		return Jump, name
	}
	switch name {
	case "ACCEPT", "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP":
		return Accept, ""
	case "DROP":
		return Drop, ""
	case "REJECT":
		return Reject, ""
	case "RETURN":
		return Return, ""
	case "QUEUE", "NFQUEUE":
		return Queue, ""
	case "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DNPT", "DSCP", "ECN", "HL", "HMARK",
		"IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "SNPT", "TCPMSS",
		"TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG":
		return Continue, ""
	}
	return VerdictUnknown, ""
}

// tell fills in what the table says about a hit that has a number: the rule's
// text, verdict and comment, or the policy's. A "policy" or "return" that is in
// truth the chain's last rule becomes a rule's hit; see Resolver.Resolve. reason
// is not empty when the table does not agree with the hit.
func (t *savedTable) tell(hit *Hit) (reason string) {
	rule := &hit.Rule
	chain := t.chains[rule.Chain]
	switch {
	case chain == nil:
		return "the chain is no longer there"
	case rule.Number >= 1 && rule.Number <= len(chain.rules):
		hit.Kind = HitRule
		rule.Text = chain.rules[rule.Number-1]
		rule.Comment = savedComment(rule.Text)
		hit.Verdict, hit.Target = t.savedVerdict(rule.Text)
	case hit.Kind == HitPolicy:
		rule.Number = 0
		rule.Text = fmt.Sprintf(":%s %s", rule.Chain, chain.policy)
		hit.Verdict = policyVerdict(chain.policy)
	case hit.Kind == HitReturn:
		rule.Number = 0
		hit.Verdict = Return
	default:
		return "the rule is no longer there"
	}
	return ""
}

// policyVerdict turns iptables' word for a policy into a verdict.
func policyVerdict(policy string) Verdict {
	switch policy {
	case "ACCEPT":
		return Accept
	case "DROP":
		return Drop
	}
	return VerdictUnknown
}

// savedComment returns a rule's comment.
func savedComment(rule string) string {
	comment, _ := option(words(rule), "--comment")
	return comment
}
