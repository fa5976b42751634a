package owner_test

import (
	"testing"

	"github.com/pathtrace/pathtrace/internal/owner"
	"github.com/pathtrace/pathtrace/report"
)

// BenchmarkOf names the owners of a rule of each kind. A run does it for every rule
// that a packet met, and again when more is known.
func BenchmarkOf(b *testing.B) {
	for name, r := range map[string]report.Rule{
		"nobody":     {Family: "ip", Table: "filter", Chain: "FORWARD", Text: `-A FORWARD -s 172.17.0.0/16 -p tcp -m comment --comment "as I please" -j DROP`},
		"Docker":     {Family: "ip", Table: "filter", Chain: "DOCKER-FORWARD", Text: "-A DOCKER-FORWARD -i docker0 -j ACCEPT"},
		"masquerade": {Family: "ip", Table: "nat", Chain: "POSTROUTING", Text: "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"},
		"firewalld":  {Family: "inet", Table: "firewalld", Chain: "filter_IN_public", Text: "jump filter_IN_public_allow"},
		"policy":     {Family: "ip", Table: "filter", Chain: "FORWARD", Text: ":FORWARD DROP"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				owner.Of(&r, docker)
			}
		})
	}
}
