package offline

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pathtrace/pathtrace/capture"
	"github.com/pathtrace/pathtrace/packet"
)

// Source is a capture file that is to be read.
type Source struct {
	// Path is where it is, and Name how reports call it; empty for Path.
	Path, Name string
	// Point names the place of its packets, "cnt01" or "cnt01/eth0"; empty for
	// what the file says, or its own name.
	Point string
}

func (s *Source) name() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Path
}

// points names one capture and its places.
type points struct {
	// file is what the capture is called: the last part of its name, all of it
	// where that is another one's, too.
	file string
	// given is what the user calls its place, base the file's name for a place.
	given, base string
	// several says that there are other captures, whose interfaces may have the
	// same names.
	several bool
}

// pointsOf prepares the names of each source.
func pointsOf(sources []Source) []points {
	files, bases := make(map[string]int), make(map[string]int)
	for i := range sources {
		file := filepath.Base(sources[i].name())
		files[file]++
		bases[baseOf(file)]++
	}
	all := make([]points, len(sources))
	for i := range sources {
		p := points{file: filepath.Base(sources[i].name()), given: sources[i].Point, several: len(sources) > 1}
		p.base = baseOf(p.file)
		if bases[p.base] > 1 {
			p.base = baseOf(sources[i].name())
		}
		if files[p.file] > 1 {
			p.file = sources[i].name()
		}
		all[i] = p
	}
	return all
}

// baseOf is a file's name without what says that it is a capture.
func baseOf(name string) string {
	for _, suffix := range []string{".gz", ".zst", ".pcapng", ".pcap", ".cap", ".dmp"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && base != "" && !strings.HasSuffix(base, "/") {
			name = base
		}
	}
	return name
}

// Machine is what the machine of a saved run is called where there are several: as
// its file.
func Machine(file string) string { return baseOf(filepath.Base(file)) }

// point names an interface: by namespace and interface where both are known,
// and with one name in the interface's place otherwise. A bundle's interfaces
// are called "namespace/name".
func (p *points) point(index int, of capture.FileInterface) capture.Point {
	netns, name := splitPoint(of.Name)
	if name == "" && index > 0 {
		name = fmt.Sprintf("if%d", index)
	}
	switch given, iface := splitPoint(p.given); {
	case p.given == "" && netns == "" && (of.Name == "" || p.several):
		netns = p.base
	case p.given == "":
	case given == "": // a plain name
		netns = iface
	default:
		netns = given
		if index == 0 {
			name = iface
		}
	}
	if name == "" {
		netns, name = "", netns
	}
	return capture.Point{NetNS: netns, Interface: name, Index: index}
}

// splitPoint splits "namespace/interface"; the name of an interface has no
// slash.
func splitPoint(s string) (netns, iface string) {
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return "", s
}

// machine is the name of the machine that a bundle comes from, where there are
// several; empty for other captures.
func (p *points) machine(interfaces []capture.FileInterface) string {
	if p.several && slices.ContainsFunc(interfaces, isRecords) {
		return p.base
	}
	return ""
}

// isRecords reports whether an interface holds the records of a bundle, which
// are no packets.
func isRecords(of capture.FileInterface) bool {
	return of.Name == "pathtrace" && of.Link == linkUser0
}

// linkUser0 is LINKTYPE_USER0, for private use.
const linkUser0 packet.LinkType = 147

// prefix is what the names of a capture's places begin with: the whole name
// where there is one place.
func (p *points) prefix(interfaces []capture.FileInterface) string {
	if len(interfaces) == 1 {
		return p.point(0, interfaces[0]).String()
	}
	if p.given != "" || !p.several {
		return p.given
	}
	return p.base
}
