package recording_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/lab"
	"github.com/pathtrace/pathtrace/internal/recording"
)

// The multicast groups of NETLINK_NETFILTER that the tools listen to, as bits of
// /proc/net/netlink (include/uapi/linux/netfilter/nfnetlink.h).
const (
	conntrackGroups = 1<<0 | 1<<1 | 1<<2
	traceGroup      = 1 << 8
)

// socket returns the number of bytes that wait in the socket of a tool that
// hears the kernel's events; false while there is no such socket.
func (t *tool) socket() (waiting int, ok bool) {
	groups := uint64(conntrackGroups)
	if t.words[0] == "nft" {
		groups = traceGroup
	}
	var text []byte
	if err := t.space.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netlink")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		// sk Eth Pid Groups Rmem ...
		words := strings.Fields(line)
		if len(words) < 5 || words[1] != strconv.Itoa(unix.NETLINK_NETFILTER) {
			continue
		}
		joined, err := strconv.ParseUint(words[3], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if joined&groups == groups {
			waiting, err = strconv.Atoi(words[4])
			return waiting, err == nil
		}
	}
	return 0, false
}

// busy says what the tool still has to do; nothing when it has read all and
// waits for more.
func (t *tool) busy() string {
	if waiting, _ := t.socket(); waiting > 0 {
		return fmt.Sprintf("%d bytes wait", waiting)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.cmd.Process.Pid))
	if err != nil {
		return err.Error()
	}
	// pid (name) state ...
	if _, state, _ := strings.Cut(string(text), ") "); !strings.HasPrefix(state, "S") {
		return "it runs"
	}
	return ""
}

// hideTun takes /dev/net/tun away until the test ends, as from a user who may
// not open it. It is done to the mounts of this process alone.
func hideTun(t testing.TB) {
	if !private {
		t.Fatal("the mounts are the machine's")
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/dev/net", 0); err != nil {
			t.Error(err)
		}
	})
}

// loggingAll runs f while all namespaces of the machine may write to the
// kernel's log, which only the first one usually may. The sysctl is the first
// one's, so that it cannot be set in f.
func loggingAll(f func() int) int {
	const file = "/proc/sys/net/netfilter/nf_log_all_netns"
	before, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte("1"), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := f()
	if err := os.WriteFile(file, before, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// kernelLog has the kernel log what the rules of iptables-legacy trace. The
// result writes what was logged, as "dmesg" prints it.
func (r *recorder) kernelLog() (write func()) {
	if !r.plan.logged() {
		return func() {}
	}
	if err := r.network.Host.Do(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_log/2", []byte("nf_log_ipv4"), 0o644)
	}); err != nil {
		r.Fatal(err)
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		r.Fatal(err)
	}
	return func() {
		var text strings.Builder
		buffer := make([]byte, 8192)
		for {
			n, err := unix.Read(fd, buffer)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				r.Fatal(err)
			}
			// "level,number,microseconds,flags;message", then lines that begin with a
			// blank (Documentation/ABI/testing/dev-kmsg).
			prefix, message, _ := strings.Cut(string(buffer[:n]), ";")
			message, _, _ = strings.Cut(message, "\n")
			if !strings.HasPrefix(message, "TRACE: ") || !strings.Contains(message, fmt.Sprintf(" ID=%d ", r.plan.flows[0].ID)) {
				continue
			}
			micros, err := strconv.Atoi(strings.Split(prefix, ",")[2])
			if err != nil {
				r.Fatal(err)
			}
			fmt.Fprintf(&text, "[%5d.%06d] %s\n", micros/1e6, micros%1e6, message)
		}
		r.save(recording.TraceFile, []byte(text.String()))
		r.made = append(r.made, made{recording.TraceFile, lab.HostName, "dmesg"})
	}
}
