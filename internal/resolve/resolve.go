//go:build linux

// Package resolve turns a name into an address as the source of a probe would:
// with the hosts file and the resolv.conf of its own root directory, asking
// the name servers from inside its network namespace. It sends DNS queries to
// those servers and changes nothing on the host.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/container"
	"golang.org/x/net/dns/dnsmessage"
)

// Family is the kind of address that is wanted.
type Family int

// The families.
const (
	Any Family = iota
	IPv4
	IPv6
)

// String returns "IPv4", "IPv6" or "IP".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "IP"
}

func (f Family) has(address netip.Addr) bool {
	return f == Any || address.Is6() == (f == IPv6)
}

// Config says what to look up.
type Config struct {
	Source *container.Source
	// Name is a host name or an address, which may have a zone
	// ("fe80::1%eth0").
	Name string
	Want Family
	// Timeout bounds the whole lookup; 0 means 15 s.
	Timeout time.Duration
	// Files are what the source's files say; nil has them read.
	Files *Files
	// Server is asked in place of those that the files name, and what else they say
	// of names does not count; invalid means that it does.
	Server netip.Addr
	// Wait is how long each answer is waited for; 0 means as long as the files say.
	Wait time.Duration
	// Once asks each server once for each question, whatever the files say.
	Once bool
	// Ask sends a query over "udp" or "tcp" to port 53 of a server, and returns the
	// first answer that is accepted; nil has Lookup do it over sockets of its own.
	Ask func(ctx context.Context, network string, server netip.Addr, query []byte, accept func([]byte) bool) ([]byte, error)
	// Heard is told what became of each query; nil tells nobody.
	Heard func(Said)
}

// Result is the address of a name.
type Result struct {
	// Address has no zone; Zone is the interface that was given with it.
	Address netip.Addr
	Zone    string
	// How says where it was found: "hosts file", "DNS server 192.0.2.53";
	// empty when the name was an address.
	How string
	// Server is the name server that knew it, invalid for other ways.
	Server netip.Addr
}

// Kind is why a name has no address.
type Kind int

// The kinds.
const (
	// NoSuchName: a server says that the name does not exist.
	NoSuchName Kind = iota + 1
	// NoAddress: the name exists and has no address of the wanted family.
	NoAddress
	// NoAnswer: no server gave an answer that can be used.
	NoAnswer
)

// Error says why a name has no address.
type Error struct {
	Kind Kind
	// Name is as typed, Source the source's name.
	Name, Source string
	Want         Family
	// Other is an address of the other family, invalid when there is none.
	Other netip.Addr
	// Said are the servers that were asked, with what they said.
	Said []Said
	// Path is the file that names the servers, as the source sees it.
	Path string
}

// Said is what one name server answered to one question.
type Said struct {
	Server netip.Addr
	// Question is the name that was asked for, Type the type of record ("AAAA").
	Question, Type string
	// Addresses are those in the answer.
	Addresses []netip.Addr
	// Answer is empty when there are some; otherwise "NXDOMAIN", "REFUSED", "no answer within 5s",
	// "network is unreachable", …
	Answer string
}

// Traceable reports whether a server was asked and gave no usable answer, so
// that the way of the query is worth a look.
func (e *Error) Traceable() bool { return e.Kind == NoAnswer && e.Query() != nil }

// Query is the DNS query for the first question that a server gave no usable
// answer to, nil when none was asked. It has a random id.
func (e *Error) Query() []byte {
	if len(e.Said) == 0 {
		return nil
	}
	name, err := dnsmessage.NewName(e.Said[0].Question + ".")
	if err != nil {
		return nil
	}
	kind := dnsmessage.TypeAAAA
	if e.Want == IPv4 {
		kind = dnsmessage.TypeA
	}
	query, err := pack(randomID(), dnsmessage.Question{Name: name, Type: kind, Class: dnsmessage.ClassINET}, true)
	if err != nil {
		return nil
	}
	return query
}

func (e *Error) Error() string {
	switch {
	case e.Kind == NoAddress && e.Other.IsValid():
		advice := "ping"
		if e.Want == IPv4 {
			advice = "ping6"
		}
		return fmt.Sprintf("%q has no %s address in %s, but it has %s: use \"pathtrace %s\" for that", e.Name, e.Want, e.Source, e.Other, advice)
	case e.Kind == NoAddress:
		return fmt.Sprintf("%q exists and has no %s address in %s%s", e.Name, e.Want, e.Source, e.said())
	case e.Kind == NoSuchName:
		return fmt.Sprintf("%q does not exist in %s%s", e.Name, e.Source, e.said())
	}
	return fmt.Sprintf("%q cannot be resolved in %s%s", e.Name, e.Source, e.said())
}

// said lists what the servers said, each different answer once.
func (e *Error) said() string {
	var parts []string
	from := ""
	if e.Path != "" {
		from = fmt.Sprintf(" (from %s)", e.Path)
	}
	for _, said := range e.Said {
		text := fmt.Sprintf("%s%s, asked for %q: %s", said.Server, from, said.Question, said.Answer)
		if !slices.Contains(parts, text) {
			parts = append(parts, text)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "; DNS server " + strings.Join(parts, "; DNS server ")
}

// Lookup returns an address for the name. An *Error says that there is none;
// other errors say that the lookup could not be made.
func Lookup(ctx context.Context, config Config) (Result, error) {
	if config.Timeout == 0 {
		config.Timeout = 15 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, config.Timeout)
	defer cancel()
	if result, done, err := literal(config); done {
		return result, err
	}
	if !isHostName(config.Name) {
		return Result{}, fmt.Errorf("%q is neither an address nor a host name", config.Name)
	}
	var files Files
	var err error
	if config.Files != nil {
		files = *config.Files
	} else if files, err = ReadFiles(config.Source, config.Name); err != nil {
		return Result{}, err
	}
	if config.Server.IsValid() {
		files = Files{conf: resolvConf{servers: []netip.Addr{config.Server}, timeout: files.conf.timeout, attempts: files.conf.attempts}}
	}
	if config.Wait > 0 {
		files.conf.timeout = config.Wait
	}
	if config.Once {
		files.conf.attempts = 1
	}
	if address := choose(config, files.Hosts); address.IsValid() {
		return Result{Address: address.WithZone(""), Zone: address.Zone(), How: "hosts file"}, nil
	}
	failure := &Error{Name: config.Name, Source: config.Source.Name, Want: config.Want, Path: files.Path}
	client := &client{config: config, conf: files.conf, failure: failure}
	addresses, server, err := client.lookup(ctx, config)
	if err != nil {
		return Result{}, err
	}
	if address := choose(config, addresses); address.IsValid() {
		return Result{Address: address, How: "DNS server " + server.String(), Server: server}, nil
	}
	if others := append(files.Hosts, addresses...); len(others) > 0 {
		failure.Kind, failure.Other = NoAddress, others[0]
	}
	return Result{}, failure
}

// Files are what the source's own files say about a name and about whom to ask
// for it.
type Files struct {
	// Hosts are the addresses that the hosts file gives the name, HostsPath is
	// that file.
	Hosts     []netip.Addr
	HostsPath string
	// Path is the resolv.conf, which need not exist, and Servers those that it
	// names, at most three; one on the source itself when it names none.
	Path    string
	Servers []netip.Addr
	// Timeout is how long it lets one answer be waited for.
	Timeout time.Duration
	// Behind are the servers that Docker says, in a comment, that its own one
	// asks.
	Behind []netip.Addr

	conf resolvConf
}

// ReadFiles reads the hosts file and the resolv.conf of a source. A missing file
// says nothing.
func ReadFiles(source *container.Source, name string) (Files, error) {
	content, hosts, err := source.ReadEtc("hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Files{}, fmt.Errorf("read the hosts file of %s: %w", source.Name, err)
	}
	conf, path, err := source.ReadEtc("resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Files{}, fmt.Errorf("read the resolv.conf of %s: %w", source.Name, err)
	}
	files := ParseFiles(name, content, conf)
	files.HostsPath, files.Path = hosts, path
	return files, nil
}

// ParseFiles reads what the content of both files says of a name.
func ParseFiles(name string, hosts, conf []byte) Files {
	files := Files{HostsPath: "/etc/hosts", Path: "/etc/resolv.conf", Hosts: parseHosts(hosts, name), conf: parseResolvConf(conf)}
	files.Servers, files.Timeout, files.Behind = files.conf.servers, files.conf.timeout, parseExtServers(conf)
	return files
}

// literal handles a name that is an address.
func literal(config Config) (result Result, done bool, err error) {
	text := config.Name
	if inner, found := strings.CutPrefix(text, "["); found {
		text = strings.TrimSuffix(inner, "]")
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return Result{}, false, nil
	}
	address = address.Unmap()
	result = Result{Address: address.WithZone(""), Zone: address.Zone()}
	switch {
	case !config.Want.has(address):
		return Result{}, true, fmt.Errorf("%s is not an %s address", address, config.Want)
	case address.IsUnspecified():
		return Result{}, true, fmt.Errorf("%s is not the address of a host", address)
	case address.Is6() && address.IsLinkLocalUnicast() && address.Zone() == "":
		return Result{}, true, fmt.Errorf("%s is link-local: name the interface as well, as in %s%%eth0", address, address)
	}
	return result, true, nil
}

// CheckName says why a name cannot be looked up: it is an address already, or no
// host name.
func CheckName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%q is an address: there is no name to look up", name)
	}
	if !isHostName(name) {
		return fmt.Errorf("%q is not a host name", name)
	}
	return nil
}

// isHostName reports whether text may be asked for: labels of 1 to 63 bytes
// without anything that a terminal or a packet could stumble over.
func isHostName(text string) bool {
	text = strings.TrimSuffix(text, ".")
	if text == "" || len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

// choose takes the address that getaddrinfo would put first (RFC 6724, rules
// 1, 5 and 6, for the cases that containers meet): one that the source has a
// route to; then one whose scope is that of the address it would be sent from,
// so that IPv4 is better than IPv6 from a unique local address; then IPv6.
func choose(config Config, addresses []netip.Addr) netip.Addr {
	var best netip.Addr
	bestRank := -1
	for _, address := range addresses {
		if !config.Want.has(address) {
			continue
		}
		rank := 0
		if config.Want == Any {
			if source := sourceFor(config.Source, address); source.IsValid() {
				rank = 4
				if source.IsPrivate() == address.IsPrivate() || address.Is4() {
					rank += 2
				}
			}
			if address.Is6() {
				rank++
			}
		}
		if rank > bestRank {
			best, bestRank = address, rank
		}
	}
	return best
}

// sourceFor asks the kernel which address a packet would be sent from.
func sourceFor(source *container.Source, target netip.Addr) netip.Addr {
	conn, err := dial(context.Background(), source.NetNS, "udp", target)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// lookup asks for each candidate name until one exists.
func (c *client) lookup(ctx context.Context, config Config) ([]netip.Addr, netip.Addr, error) {
	kinds := []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA}
	if config.Want == IPv4 {
		kinds = []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}
	}
	for _, name := range c.conf.candidates(config.Name) {
		question, err := dnsmessage.NewName(name)
		if err != nil || len(name) > 254 {
			continue // too long with this domain of the search list
		}
		var found []netip.Addr
		var server netip.Addr
		var failed error
		for i, kind := range kinds {
			// A name without the wanted family is asked for the other one, to
			// say that it exists.
			addresses, from, err := c.ask(ctx, question, kind)
			if err != nil {
				failed = err
				if i == 0 && config.Want != Any {
					break
				}
				continue
			}
			if len(addresses) > 0 && !server.IsValid() {
				server = from
			}
			found = append(found, addresses...)
			if config.Want != Any && len(found) > 0 {
				break
			}
		}
		switch {
		case len(found) > 0:
			return found, server, nil
		case errors.Is(failed, errNoAnswer):
			c.failure.Kind = NoAnswer
			return nil, netip.Addr{}, c.failure
		case failed != nil && !errors.Is(failed, errNoSuchName):
			return nil, netip.Addr{}, failed
		case failed == nil:
			c.failure.Kind = NoAddress
		case c.failure.Kind == 0:
			c.failure.Kind = NoSuchName
		}
	}
	return nil, netip.Addr{}, nil
}

// Servers are the DNS servers that the source's resolv.conf names, at most
// three; none when it has no such file.
func Servers(source *container.Source) ([]netip.Addr, error) {
	content, _, err := source.ReadEtc("resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseResolvConf(content).servers, nil
}
