package topology

import (
	"fmt"
	"slices"
)

// Changes tells in words which interfaces of a snapshot are gone in a later one,
// have another name, or went down: somebody stopped a container or changed the
// network meanwhile.
func Changes(before, after *Snapshot) []string {
	if before == nil || after == nil {
		return nil
	}
	var all []string
	for i := range before.Namespaces {
		was := &before.Namespaces[i]
		is := after.Namespace(was.Name)
		if is == nil {
			continue
		}
		all = append(all, was.changes(is)...)
	}
	return all
}

func (n *Namespace) changes(now *Namespace) []string {
	var all []string
	for i := range n.Links {
		was := &n.Links[i]
		is := now.at(was.Index)
		switch {
		case is == nil:
			all = append(all, fmt.Sprintf("The interface %s of %s went away meanwhile.", was.Name, n.Name))
		case is.Name != was.Name:
			all = append(all, fmt.Sprintf("The interface %s of %s was renamed to %s meanwhile.", was.Name, n.Name, is.Name))
		case was.Up && !is.Up:
			all = append(all, fmt.Sprintf("The interface %s of %s went down meanwhile.", was.Name, n.Name))
		}
	}
	if len(all) > 0 && !slices.ContainsFunc(now.Links, func(l Link) bool { return l.Kind != "loopback" }) {
		return []string{fmt.Sprintf("All interfaces of %s went away meanwhile: it was stopped, or moved to another network.", n.Name)}
	}
	return all
}

// at is the link with an index, nil for none.
func (n *Namespace) at(index int) *Link {
	for i := range n.Links {
		if n.Links[i].Index == index {
			return &n.Links[i]
		}
	}
	return nil
}
