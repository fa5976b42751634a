package container

import "strings"

// Enter is what has to stand before a command so that it runs in a namespace
// with a name as topology.Candidate has it: that of "ip netns", "pid N" or
// "docker ID". It is empty for a name that a shell would not take for one word,
// or a program for an option.
func Enter(name string) string {
	if pid, found := strings.CutPrefix(name, "pid "); found && plainWord(pid) {
		return "nsenter --target " + pid + " --net"
	}
	if id, found := strings.CutPrefix(name, "docker "); found && plainWord(id) {
		return "nsenter --net=/run/docker/netns/" + id
	}
	if !plainWord(name) {
		return ""
	}
	return "ip netns exec " + name
}

func plainWord(name string) bool {
	return name != "" && name[0] != '-' && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}
