// Package ruletrace learns from the kernel which rules a packet met. It arms a
// namespace with an nftables table that the kernel removes when pathtrace's
// socket closes, and reads nftables trace and, where legacy iptables tables
// exist, NFLOG TRACE.
//
// It needs CAP_NET_ADMIN in the network namespace's user namespace. What it
// changes on the host: the arming table, and net.netfilter.nf_log while it
// holds NFLOG group 0.
package ruletrace

import (
	"time"

	"github.com/pathtrace/pathtrace/packet"
)

// Backend is the tool whose syntax a rule is printed in.
type Backend string

// The backends, as reports print them.
const (
	NFT            Backend = "nft"
	IPTablesNFT    Backend = "iptables-nft"
	IPTablesLegacy Backend = "iptables-legacy"
)

// Hook is a netfilter hook in the kernel's words.
type Hook string

// The hooks.
const (
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
	IngressHook Hook = "ingress"
	EgressHook  Hook = "egress"
)

// Verdict is what a rule, or a policy, decided.
type Verdict string

// The verdicts. Reject is a drop that tells the sender.
const (
	VerdictUnknown Verdict = ""
	Accept         Verdict = "accept"
	Drop           Verdict = "drop"
	Reject         Verdict = "reject"
	Continue       Verdict = "continue"
	Jump           Verdict = "jump"
	Goto           Verdict = "goto"
	Return         Verdict = "return"
	Queue          Verdict = "queue"
	Stolen         Verdict = "stolen"
)

// HitKind tells a rule's hit from the end of a chain and from its policy.
type HitKind string

// The kinds.
const (
	HitRule   HitKind = "rule"
	HitReturn HitKind = "return"
	HitPolicy HitKind = "policy"
)

// Rule is a rule, or a base chain's policy, as its owner would find it.
type Rule struct {
	Backend Backend
	// Family is nftables' word: ip, ip6, inet, bridge, arp, netdev.
	Family, Table, Chain string
	// Number counts from 1 within the chain; 0 when not known, and for a
	// policy.
	Number int
	// Handle is nftables'; 0 for legacy rules and policies.
	Handle uint64
	// Text is the line as the administrator's own tool prints it; for a policy
	// "policy drop" (nft) or ":FORWARD DROP" (iptables).
	Text    string
	Comment string
}

// Hit is one packet that met one rule, the end of a chain, or a policy.
type Hit struct {
	NetNS string
	// Seq is the message's place in its netlink socket; nftables hits share the
	// numbering with conntrack events, legacy hits have their own.
	Seq uint64
	// Time is zero where the kernel gives none: nftables, and legacy in
	// OUTPUT and POSTROUTING.
	Time time.Time
	// Uptime is when a line of a saved log was written, as the time since that
	// machine was started; 0 where it is not told.
	Uptime time.Duration
	Kind   HitKind
	// Legacy says that the hit came from NFLOG TRACE; then Rule.Number is known
	// at once, otherwise Rule.Handle.
	Legacy bool
	// Rule has what the kernel told; Resolve fills in the rest.
	Rule Rule
	// Verdict is VerdictUnknown for legacy hits until they are resolved.
	Verdict Verdict
	// Target is the chain of a jump or goto.
	Target string
	// Hook and Priority are the base chain's. nftables does not tell the hook:
	// Resolve finds it in the ruleset. They are those of the base chain that
	// the packet was in also when the rule sits in a user chain.
	Hook     Hook
	Priority int
	// ChainType is the base chain's: filter, nat or route; for legacy tables
	// "nat" in the table nat and "filter" elsewhere.
	ChainType string
	// Base is the base chain that the packet was in: Rule.Chain itself, or the
	// one from which it came to the user chain Rule.Chain. It is empty where
	// neither the trace nor the ruleset tells.
	Base string
	// Ingress and Egress are interface names, empty where not known.
	Ingress, Egress string
	// BridgePort is the physical ingress port that NFLOG tells for bridged
	// packets, BridgeOutPort the egress one.
	BridgePort, BridgeOutPort string
	// Header is what was decoded of the packet. nftables gives 20 bytes of
	// transport header and no payload, and only with the first message of each
	// base chain; later hits of the same TraceID in that chain repeat it.
	Header packet.Header
	// Mark is the packet's netfilter mark: behind the rule for nftables, before
	// it for legacy tables. Policy rules of routing may ask for it.
	Mark uint32
	// TraceID is nftables'. It changes between hooks and is reused: a hint.
	TraceID uint32
	// ConntrackID is the flow's id (nat.Flow.ID), 0 where not told. State and
	// Reply are conntrack's view of the packet ("new", "established",
	// "related", "invalid", "untracked"); State is empty where not told.
	ConntrackID uint32
	State       string
	Reply       bool
}

// BaseChain is a chain that a hook calls.
type BaseChain struct {
	Backend             Backend
	Family, Table, Name string
	// Type is filter, nat or route.
	Type     string
	Hook     Hook
	Priority int
	// Policy is VerdictUnknown where it could not be read.
	Policy Verdict
	// Devices are those whose packets the chain is for, in the hooks ingress and
	// egress.
	Devices []string
}
