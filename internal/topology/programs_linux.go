package topology

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// programs reads the names of a link's XDP program, and what is attached by tcx,
// of which netlink tells nothing. It needs CAP_SYS_ADMIN outside of user
// namespaces; without it, names are empty and tcx is not seen.
func (l *Link) programs() {
	if l.XDP != nil {
		l.XDP.Name = programName(ebpf.ProgramID(l.XDP.ID))
	}
	if l.Kind == "loopback" {
		return
	}
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: attach})
		if err != nil {
			return
		}
		for _, p := range found.Programs {
			l.Filters = append(l.Filters, Filter{
				Egress: attach == ebpf.AttachTCXEgress, Text: fmt.Sprintf("tcx program %d %s", p.ID, programName(p.ID)),
			})
		}
	}
}

// programName is what a program is called, empty when it cannot be read.
func programName(id ebpf.ProgramID) string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer program.Close() //nolint:errcheck // it was only asked
	info, err := program.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
