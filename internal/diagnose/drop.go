package diagnose

import (
	"fmt"

	"github.com/pathtrace/pathtrace/internal/path"
	"github.com/pathtrace/pathtrace/internal/skbdrop"
)

// dropWords say what the kernel's reasons mean (include/net/dropreason-core.h).
var dropWords = map[string]string{
	skbdrop.NetfilterDrop:      "netfilter dropped it",
	"IP_INNOROUTES":            "there is no route to its destination",
	"IP_OUTNOROUTES":           "there is no route to its destination",
	"IP_INADDRERRORS":          "this host does not forward it",
	"IP_RPFILTER":              "the reverse-path check refused its source",
	"IP_LOCAL_SOURCE":          "its source is an address of this host",
	"IP_INVALID_SOURCE":        "its source is not allowed here",
	"IP_INVALID_DEST":          "its destination is not allowed here",
	"IP_LOCALNET":              "its destination is a loopback address",
	"IP_INHDR":                 "its IP header was refused, or its TTL ended",
	"IP_CSUM":                  "its IP checksum is wrong",
	"ICMP_CSUM":                "its ICMP checksum is wrong",
	"TCP_CSUM":                 "its TCP checksum is wrong",
	"NEIGH_FAILED":             "the next hop did not answer for its hardware address",
	"NEIGH_QUEUEFULL":          "too many packets wait for the hardware address of the next hop",
	"QUEUE_PURGE":              "the queue that it waited in was emptied",
	"NEIGH_CREATEFAIL":         "the table of neighbours is full",
	"PKT_TOO_BIG":              "it is larger than the MTU of the way on",
	"TC_INGRESS":               "a traffic control filter dropped it on arrival",
	"TC_EGRESS":                "a traffic control filter dropped it on leaving",
	"QDISC_DROP":               "the queue of the interface is full or refused it",
	"XDP":                      "an XDP program dropped it",
	"BRIDGE_INGRESS_STP_STATE": "the bridge port does not forward (spanning tree)",
	"DEV_READY":                "the interface is not up",
	"FULL_RING":                "the buffer of the interface is full",
	"SOCKET_FILTER":            "a filter of the socket dropped it",
	"SOCKET_RCVBUFF":           "the receive buffer of the socket is full",
	"XFRM_POLICY":              "an IPsec policy forbids it",
	"NOMEM":                    "there was no memory",
	skbdrop.NotSpecified:       "it gives no reason",
}

// dropSummary says in sentences where and why the kernel dropped a packet that
// was seen last at one place and had to be seen next at another.
func dropSummary(in *Input, what, last string, end *path.End) string {
	d := end.Drop
	because := d.Reason
	if words, ok := dropWords[d.Reason]; ok {
		because = fmt.Sprintf("%s (%s)", words, d.Reason)
	}
	at := ""
	if d.Function != "" {
		at = " in " + d.Function
	}
	text := fmt.Sprintf("%s was dropped by the kernel between %s and %s%s: %s.", what, last, end.Next, at, because)
	if d.Reason == skbdrop.NetfilterDrop {
		if in.Sensors.Traced[end.NetNS] {
			return text + " No rule that can be traced did it: some rules are out of sight: those of a device (netdev), of what a bridge sends (bridge, output), and those that come before the trace begins."
		}
		return text + " Rules could not be traced there, so which one did it is not known."
	}
	return text
}
