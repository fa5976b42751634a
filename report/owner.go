package report

import "strings"

// String says the owner in words: "Docker, network app, MASQUERADE"; empty for
// none.
func (o Owner) String() string {
	if o.Tool == "" {
		return ""
	}
	words := []string{o.Name()}
	add := func(kind, name string) {
		if name != "" {
			words = append(words, kind+name)
		}
	}
	add("network ", o.Network)
	if o.Network == "" {
		add("bridge ", o.Bridge)
	}
	add("zone ", o.Zone)
	add("policy ", o.Policy)
	add("service ", o.Service)
	add("", o.Purpose)
	return strings.Join(words, ", ")
}

// Name is the program's name as people write it.
func (o Owner) Name() string {
	if name := map[string]string{"docker": "Docker", "podman": "Podman", "cni": "CNI"}[o.Tool]; name != "" {
		return name
	}
	return o.Tool
}
