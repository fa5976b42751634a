//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pathtrace/pathtrace/internal/netns"
)

// The words for --engine, which are those that reports have.
const (
	dockerEngine     = "docker"
	podmanEngine     = "podman"
	containerdEngine = "containerd"
	nspawnEngine     = "nspawn"
	lxcEngine        = "lxc"
	netnsEngine      = "netns"
)

// Engines are the words that Config.Engine takes.
func Engines() []string {
	return []string{dockerEngine, podmanEngine, containerdEngine, nspawnEngine, lxcEngine, netnsEngine}
}

// finder is one place that knows containers. Where it is not on this machine,
// its methods return an error that is errAbsent.
type finder interface {
	// word is what --engine calls it.
	word() string
	// find returns the containers that have a name, or an id that begins with it.
	find(ctx context.Context, name string) ([]found, error)
	// names returns the names of all containers, also of those that do not run.
	names(ctx context.Context) ([]string, error)
	// running returns the containers that have a process.
	running(ctx context.Context) ([]found, error)
}

// errAbsent says that an engine is not where nothing says that it has to be.
var errAbsent = errors.New("not here")

// found is a container that an engine knows.
type found struct {
	// engine is the word for --engine, owner the user whose engine it is; 0 is the
	// system's.
	engine   string
	owner    int
	id, name string
	// exact says that the name, or the whole id, is the one that was asked for.
	exact bool
	// pid is its first process, 0 when it does not run; state is the engine's word
	// for that: exited, created, …
	pid   int
	state string
	// mode is the network mode as the engine has it: "host", "none",
	// "container:ID", the name of a network; empty when it does not tell.
	mode string
	// shared names who else has its network namespace, where the engine has no
	// mode to tell it by.
	shared string
	// service is the engine's API, nil where it was not found by one; runner is
	// what runs commands in it without.
	service *service
	runner  runner
}

// what says of which engine a container is, for a choice between several.
func (f *found) what() string {
	text := f.engine
	if f.owner != 0 {
		text += fmt.Sprintf(" of user %d", f.owner)
	}
	text += " " + shortID(f.id)
	if f.name != "" && f.name != f.id {
		text += fmt.Sprintf(" %q", f.name)
	}
	return text
}

// shortID is an id as engines print it.
func shortID(id string) string { return id[:min(12, len(id))] }

// minPrefix is the least number of letters of an id that stand for it where no
// daemon decides: fewer are more likely a name that was typed wrong.
const minPrefix = 4

// matches reports whether a name stands for the container with an id and names.
func matches(asked, id string, names ...string) (match, exact bool) {
	exact = asked == id || slices.Contains(names, asked)
	return exact || len(asked) >= minPrefix && strings.HasPrefix(id, asked), exact
}

// AmbiguousError says that several containers have the name, or an id that
// begins with it.
type AmbiguousError struct {
	Name string
	// Matches say of which engine each is, and its id and name.
	Matches []string
	// Engines are the different engines of the matches.
	Engines []string
}

// maxMatches is how many matches an error lists.
const maxMatches = 8

func (e *AmbiguousError) Error() string {
	listed := e.Matches
	if n := len(listed) - maxMatches; n > 0 {
		listed = append(slices.Clone(listed[:maxMatches]), fmt.Sprintf("%d more", n))
	}
	choose := "give more of the id"
	if len(e.Engines) > 1 {
		flags := make([]string, len(e.Engines))
		for i, word := range e.Engines {
			flags[i] = "--engine " + word
		}
		choose = "say " + strings.Join(flags, " or ") + ", or " + choose
	}
	return fmt.Sprintf("%q stands for %d containers: %s; %s", e.Name, len(e.Matches), strings.Join(listed, "; "), choose)
}

// lookup is what the engines answered.
type lookup struct {
	found []found
	// known are names that exist, asked for when nothing was found.
	known []string
	// problems are the engines that could not be asked, in words.
	problems []string
}

// ask asks all engines: daemons at once, so that one that hangs costs its time-out
// and not the sum of all.
func ask(ctx context.Context, engines []finder, name string, all bool) lookup {
	answers := make([]lookup, len(engines))
	var asking sync.WaitGroup
	for i, e := range engines {
		one := func() { answers[i].ask(ctx, e, name, all) }
		if _, daemon := e.(*service); daemon {
			asking.Go(one)
		} else {
			one()
		}
	}
	asking.Wait()
	var sum lookup
	for _, a := range answers {
		sum.found = append(sum.found, a.found...)
		sum.known = append(sum.known, a.known...)
		sum.problems = append(sum.problems, a.problems...)
	}
	sum.found = distinct(sum.found)
	return sum
}

// ask asks one engine. That it is not there is a problem where all are.
func (l *lookup) ask(ctx context.Context, e finder, name string, all bool) {
	var err error
	l.found, err = e.find(ctx, name)
	if err == nil && len(l.found) == 0 {
		l.known, err = e.names(ctx)
	}
	if err != nil && (all || !errors.Is(err, errAbsent)) {
		l.problems = append(l.problems, err.Error())
	}
}

// distinct leaves out what another engine knows, too: Docker's containers are
// containerd's, and Podman has a service beside its processes. The first one
// stays. Where there are containers with just the name, those whose id begins
// with it are not meant.
func distinct(all []found) []found {
	var kept []found
	exact := slices.ContainsFunc(all, func(f found) bool { return f.exact })
	for _, f := range all {
		// Where an id is no more than a name, two of them are two containers.
		twice := slices.ContainsFunc(kept, func(k found) bool { return k.id == f.id && (k.pid == f.pid || k.id != k.name) })
		if !twice && (f.exact || !exact) {
			kept = append(kept, f)
		}
	}
	return kept
}

// engines returns those that a configuration leaves, an engine with an API
// before the one that is found without.
func (c *Config) engines() ([]finder, []string) {
	services, problems := c.services()
	var all []finder
	for _, s := range services {
		all = append(all, s)
	}
	all = append(all, podman{}, containerd{}, nspawn{}, lxc{})
	if c.Engine != "" {
		all = slices.DeleteFunc(all, func(e finder) bool { return e.word() != c.Engine })
	}
	return all, problems
}

// findContainer asks the engines, then the named namespaces.
func findContainer(ctx context.Context, config Config) (*Source, error) {
	if config.Engine != "" && !slices.Contains(Engines(), config.Engine) {
		return nil, fmt.Errorf("unknown container engine %q: %s", config.Engine, strings.Join(Engines(), ", "))
	}
	engines, problems := config.engines()
	answer := ask(ctx, engines, config.Container, config.Engine != "")
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch len(answer.found) {
	case 0:
	case 1:
		return answer.found[0].open(ctx)
	default:
		return nil, ambiguous(config.Container, answer.found)
	}
	if config.Engine == "" || config.Engine == netnsEngine {
		source, err := fromName(config, config.Container)
		if err == nil {
			return source, nil
		}
		// NAMESPACE/POD/CONTAINER is no name of a namespace.
		if !errors.Is(err, fs.ErrNotExist) && !strings.Contains(config.Container, "/") {
			return nil, err
		}
		answer.known = append(answer.known, named(config.RunNetNS)...)
	}
	return nil, &NotFoundError{
		What: "container", Name: config.Container,
		Near: near(config.Container, answer.known), Problems: append(problems, answer.problems...),
	}
}

func ambiguous(name string, all []found) *AmbiguousError {
	e := &AmbiguousError{Name: name}
	for i := range all {
		e.Matches = append(e.Matches, all[i].what())
		if !slices.Contains(e.Engines, all[i].engine) {
			e.Engines = append(e.Engines, all[i].engine)
		}
	}
	return e
}

// open opens the container's namespace by the pid of its first process.
func (f *found) open(ctx context.Context) (*Source, error) {
	if f.pid <= 0 {
		return nil, &NotRunningError{Name: f.name, Engine: f.engine, State: f.state}
	}
	if f.owner != 0 {
		if err := ownedBy(f.pid, f.owner); err != nil {
			return nil, fmt.Errorf("container %q of user %d: %w", f.name, f.owner, err)
		}
	}
	source, err := fromPID(f.pid, &Source{Kind: KindContainer, Name: f.name, Engine: f.engine, ID: f.id})
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", f.name, err)
	}
	source.service, source.runner = f.service, f.runner
	if f.service != nil {
		source.runner = f.service
	}
	source.Note = f.note(ctx, source.NetNS)
	return source, nil
}

// note says whose network namespace it is where that is not the container's own.
func (f *found) note(ctx context.Context, ns *netns.NS) string {
	if current, err := netns.Current(); err == nil {
		defer current.Close() //nolint:errcheck // read-only descriptor
		if current.ID() == ns.ID() {
			return fmt.Sprintf("the container %s is in the network namespace of the host", f.name)
		}
	}
	if id, shared := strings.CutPrefix(f.mode, "container:"); shared {
		name := shortID(id)
		if f.service != nil {
			if owner, err := f.service.inspect(ctx, id); err == nil {
				name = owner.name
			}
		}
		return fmt.Sprintf("%s shares the network namespace of %s", f.name, name)
	}
	if f.shared != "" {
		return fmt.Sprintf("%s shares the network namespace of %s", f.name, f.shared)
	}
	if f.mode == "none" {
		return fmt.Sprintf("%s was started without a network (network mode none)", f.name)
	}
	return ""
}

// ownedBy checks that a process that a user's engine has named is in a user
// namespace of that user: the engine of an ordinary user may say anything.
func ownedBy(pid, uid int) error {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return cause(err)
	}
	defer file.Close() //nolint:errcheck // read-only descriptor
	owner, err := unix.IoctlGetUint32(int(file.Fd()), unix.NS_GET_OWNER_UID)
	if err != nil {
		return fmt.Errorf("ask whose pid %d is: %w", pid, err)
	}
	if int(owner) != uid {
		return fmt.Errorf("its engine names pid %d, which is not a process of that user's containers", pid)
	}
	return nil
}

// Names returns the names that Find would take for Container, or for NetNS
// when only namespaces is set, sorted.
func Names(ctx context.Context, config Config, namespaces bool) []string {
	config.defaults()
	names := named(config.RunNetNS)
	if !namespaces {
		// Completion has nobody to tell a problem to.
		engines, _ := config.engines()
		for _, e := range engines {
			containers, _ := e.names(ctx)
			names = append(names, containers...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
