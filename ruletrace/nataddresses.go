package ruletrace

import (
	"net/netip"
	"slices"
	"strings"
)

// NATAddresses are the addresses that the rules of a namespace's nat tables can
// translate to, beside addresses of the namespace itself (masquerade, redirect).
type NATAddresses struct {
	Addresses []netip.Addr
	// Complete says that there can be no others: each rule names its addresses.
	Complete bool
}

// natAddresses reads the lines of nat tables.
func natAddresses(lines []string) NATAddresses {
	found := NATAddresses{Complete: true}
	for _, line := range lines {
		words := statements(line)
		for i, word := range words {
			target, plain := "", true
			switch word {
			case "--to-source", "--to-destination":
				target = strings.Join(words[i+1:min(i+2, len(words))], "")
			case "snat", "dnat":
				if i > 0 && (words[i-1] == "jump" || words[i-1] == "goto" || words[i-1] == "status") {
					continue
				}
				target = strings.Join(words[i+1:], " ")
				plain = !strings.ContainsAny(target, "@/") && !slices.Contains(words[i+1:], "prefix") &&
					strings.Count(target, "{") == strings.Count(target, "}") // the list goes on in the next line
			case "NETMAP":
				plain = false
			default:
				continue
			}
			addresses, complete := named(target)
			found.Addresses = append(found.Addresses, addresses...)
			found.Complete = found.Complete && plain && complete
		}
	}
	return found
}

// named reads the addresses of a translation's target; a range names more than
// can be listed.
func named(target string) (addresses []netip.Addr, complete bool) {
	complete = true
	for _, text := range addressText.FindAllString(target, -1) {
		if a, ok := destination(text); ok {
			addresses = append(addresses, a)
		}
	}
	for part := range strings.FieldsSeq(target) {
		low, _, ranged := strings.Cut(part, "-")
		if _, ok := destination(low); ranged && ok {
			complete = false
		}
	}
	return addresses, complete
}
