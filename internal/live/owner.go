//go:build linux

package live

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/answer"
	"github.com/pathtrace/pathtrace/internal/netns"
	"github.com/pathtrace/pathtrace/internal/socket"
	"github.com/pathtrace/pathtrace/internal/traffic"
	"github.com/pathtrace/pathtrace/packet"
)

const (
	// maxDescendants bounds how many processes of a command are looked at.
	maxDescendants = 1 << 10
	// A socket that is there has a holder, who cannot be looked into while it begins
	// another program: it is looked for so often, so far apart.
	holderTries = 3
	holderStep  = 2 * time.Millisecond
)

// owners finds whose flow it is: of a command that runs, or of another process.
// Where the attempt was seen that it came of, that tells; otherwise the process
// that has the socket, unless that was closed before somebody looked.
type owners struct {
	ns *netns.NS
	// command is the first process of the command, 0 before it has begun.
	command func() int
}

// of finds the owner of a flow.
func (o *owners) of(ctx context.Context, f traffic.Flow) answer.Owner {
	command := o.command()
	if command == 0 {
		return answer.Owner{}
	}
	if f.PID != 0 {
		name := ownerName(socket.Process{PID: f.PID, Command: f.Command})
		return answer.Owner{Name: name, Other: !slices.Contains(descendants(command), f.PID) && alive(f.PID)}
	}
	for range holderTries {
		inode := o.inode(f.Tuple)
		if inode == 0 {
			break
		}
		if p, ok := socket.Holders(ctx, []uint32{inode}, descendants(command)...)[inode]; ok {
			return answer.Owner{Name: ownerName(p)}
		}
		if p, ok := socket.Holders(ctx, []uint32{inode})[inode]; ok {
			return answer.Owner{Name: ownerName(p), Other: true}
		}
		time.Sleep(holderStep)
	}
	return answer.Owner{Name: f.Command}
}

func ownerName(p socket.Process) string { return fmt.Sprintf("%s (pid %d)", p.Command, p.PID) }

// alive reports whether a process is still there: of one that has ended nobody
// can tell who started it.
func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// inode is that of the socket, 0 where there is none any more.
func (o *owners) inode(t packet.Tuple) uint32 {
	if t.Proto != packet.TCP && t.Proto != packet.UDP {
		return 0
	}
	// A datagram's socket need not be connected.
	for _, connected := range []bool{true, false} {
		if !connected && t.Proto == packet.TCP {
			break
		}
		sockets, err := socket.List(o.ns, socket.Query{Proto: t.Proto, Local: t.SrcPort, Connected: connected})
		if err != nil {
			return 0
		}
		for i := range sockets {
			local := sockets[i].Local
			if local.Port() == t.SrcPort && (local.Addr() == t.Src || local.Addr().IsUnspecified()) {
				return sockets[i].Inode
			}
		}
	}
	return 0
}

// descendants are a process and those that it started, and those that these did.
func descendants(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all) && len(all) < maxDescendants; i++ {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		if err != nil {
			continue
		}
		for _, list := range lists {
			content, err := os.ReadFile(list)
			if err != nil {
				continue // it has ended
			}
			for word := range strings.FieldsSeq(string(content)) {
				if child, err := strconv.Atoi(word); err == nil {
					all = append(all, child)
				}
			}
		}
	}
	return all
}
