//go:build linux

package resolve

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pathtrace/pathtrace/internal/netns"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

var (
	errNoAnswer   = errors.New("no server gave a usable answer")
	errNoSuchName = errors.New("no such name")
)

const (
	// payload is the size of answer that is asked for over UDP: what crosses
	// any path without fragments (DNS flag day 2020).
	payload = 1232
	// maxChain bounds a chain of CNAMEs.
	maxChain = 16
)

// client asks the servers of one resolv.conf.
type client struct {
	config Config
	conf   resolvConf
	// failure collects what was said, for the error.
	failure *Error
}

// ask asks the servers in turn for one type. An empty answer means that the
// name exists without an address of that type.
func (c *client) ask(ctx context.Context, name dnsmessage.Name, kind dnsmessage.Type) ([]netip.Addr, netip.Addr, error) {
	question := dnsmessage.Question{Name: name, Type: kind, Class: dnsmessage.ClassINET}
	for range c.conf.attempts {
		for _, server := range c.conf.servers {
			answer, err := c.exchange(ctx, server, question)
			if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
				return nil, server, ctx.Err()
			}
			said := Said{Server: server, Question: strings.TrimSuffix(name.String(), "."), Type: typeName(kind)}
			if err != nil {
				said.Answer = c.explain(err)
				c.failure.Said = append(c.failure.Said, said)
				if ctx.Err() != nil {
					return nil, server, errNoAnswer
				}
				continue
			}
			switch answer.code {
			case dnsmessage.RCodeSuccess:
				if len(answer.addresses) == 0 {
					said.Answer = "no record of type " + typeName(kind)
					c.failure.Said = append(c.failure.Said, said)
				}
				return answer.addresses, server, nil
			case dnsmessage.RCodeNameError:
				said.Answer = "NXDOMAIN"
				c.failure.Said = append(c.failure.Said, said)
				return nil, server, errNoSuchName
			}
			said.Answer = codeText(answer.code)
			c.failure.Said = append(c.failure.Said, said)
		}
	}
	return nil, netip.Addr{}, errNoAnswer
}

// explain says in words why there is no answer.
func (c *client) explain(err error) string {
	var errno unix.Errno
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return "connection refused (nothing listens on port 53)"
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %v", c.conf.timeout)
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// codeText returns a response code as dig prints it.
func codeText(code dnsmessage.RCode) string {
	switch code {
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	}
	return fmt.Sprintf("response code %d", code)
}

// answer is what a server said about a name.
type answer struct {
	code      dnsmessage.RCode
	truncated bool
	addresses []netip.Addr
}

// exchange asks one server, over TCP when the answer does not fit into UDP,
// and without EDNS when the server does not know it.
func (c *client) exchange(ctx context.Context, server netip.Addr, question dnsmessage.Question) (answer, error) {
	network := "udp"
	if c.conf.tcp {
		network = "tcp"
	}
	got, err := c.once(ctx, network, server, question, true)
	if err == nil && (got.code == dnsmessage.RCodeFormatError || got.code == dnsmessage.RCodeNotImplemented) {
		got, err = c.once(ctx, network, server, question, false)
	}
	if err == nil && got.truncated && network == "udp" {
		return c.once(ctx, "tcp", server, question, true)
	}
	return got, err
}

func (c *client) once(ctx context.Context, network string, server netip.Addr, question dnsmessage.Question, edns bool) (got answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.conf.timeout)
	defer cancel()
	id := randomID()
	query, err := pack(id, question, edns)
	if err != nil {
		return answer{}, fmt.Errorf("make a DNS query: %w", err)
	}
	// What is not the answer to this question was sent by somebody else.
	accept := func(message []byte) bool {
		parsed, ok := parse(message, id, question)
		if ok {
			got = parsed
		}
		return ok
	}
	ask := c.config.Ask
	if ask == nil {
		ask = c.send
	}
	_, err = ask(ctx, network, server, query, accept)
	if c.config.Heard != nil {
		c.config.Heard(Said{
			Server: server, Question: strings.TrimSuffix(question.Name.String(), "."), Type: typeName(question.Type),
			Addresses: got.addresses, Answer: c.words(got, question.Type, err),
		})
	}
	return got, err
}

// words say what became of a query that gave no address; empty when it did.
func (c *client) words(got answer, kind dnsmessage.Type, err error) string {
	switch {
	case err != nil:
		return c.explain(err)
	case got.truncated:
		return "truncated: the answer does not fit into a datagram"
	case got.code == dnsmessage.RCodeNameError:
		return "NXDOMAIN"
	case got.code != dnsmessage.RCodeSuccess:
		return codeText(got.code)
	case len(got.addresses) == 0:
		return "no record of type " + typeName(kind)
	}
	return ""
}

func typeName(kind dnsmessage.Type) string { return strings.TrimPrefix(kind.String(), "Type") }

// send asks over a socket of its own.
func (c *client) send(ctx context.Context, network string, server netip.Addr, query []byte, accept func([]byte) bool) ([]byte, error) {
	conn, err := dial(ctx, c.config.Source.NetNS, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // the answer was read, or nothing
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		// A length stands before each message (RFC 1035, section 4.2.2).
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buffer := make([]byte, 1<<16)
	for {
		n, err := read(conn, network, buffer)
		if err != nil {
			return nil, err
		}
		if accept(buffer[:n]) {
			return buffer[:n], nil
		}
		if network == "tcp" {
			return nil, errors.New("an answer that cannot be understood")
		}
	}
}

func randomID() uint16 {
	var random [2]byte
	_, _ = rand.Read(random[:]) // never fails
	return binary.NativeEndian.Uint16(random[:])
}

func read(conn net.Conn, network string, buffer []byte) (int, error) {
	if network == "udp" {
		return conn.Read(buffer)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, buffer[:binary.BigEndian.Uint16(length[:])])
}

func pack(id uint16, question dnsmessage.Question, edns bool) ([]byte, error) {
	builder := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	if err := errors.Join(builder.StartQuestions(), builder.Question(question)); err != nil {
		return nil, err
	}
	if edns {
		var header dnsmessage.ResourceHeader
		if err := errors.Join(header.SetEDNS0(payload, dnsmessage.RCodeSuccess, false),
			builder.StartAdditionals(), builder.OPTResource(header, dnsmessage.OPTResource{})); err != nil {
			return nil, err
		}
	}
	return builder.Finish()
}

// parse reads the answer to a question. It is not ok when the message is none.
func parse(message []byte, id uint16, question dnsmessage.Question) (answer, bool) {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil || header.ID != id || !header.Response {
		return answer{}, false
	}
	asked, err := parser.Question()
	switch {
	case errors.Is(err, dnsmessage.ErrSectionDone) && header.RCode == dnsmessage.RCodeFormatError:
		return answer{code: header.RCode}, true // need not repeat what it did not understand
	case err != nil || asked.Type != question.Type || asked.Class != question.Class ||
		!strings.EqualFold(asked.Name.String(), question.Name.String()):
		return answer{}, false
	}
	got := answer{code: header.RCode, truncated: header.Truncated}
	if err := parser.SkipAllQuestions(); err != nil {
		return answer{}, false
	}
	aliases := make(map[string]string)
	addresses := make(map[string][]netip.Addr)
	for {
		record, err := parser.Answer()
		if err != nil {
			// The end, or a truncated message: what was read counts.
			break
		}
		owner := strings.ToLower(record.Header.Name.String())
		switch body := record.Body.(type) {
		case *dnsmessage.CNAMEResource:
			aliases[owner] = strings.ToLower(body.CNAME.String())
		case *dnsmessage.AResource:
			addresses[owner] = append(addresses[owner], netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			addresses[owner] = append(addresses[owner], netip.AddrFrom16(body.AAAA).Unmap())
		}
	}
	name := strings.ToLower(question.Name.String())
	for range maxChain {
		next, found := aliases[name]
		if !found {
			break
		}
		name = next
	}
	for _, address := range addresses[name] {
		if address.Is6() == (question.Type == dnsmessage.TypeAAAA) {
			got.addresses = append(got.addresses, address)
		}
	}
	return got, true
}

// dial opens a socket in the namespace. The interface of a link-local server
// is looked up there, too: package net remembers those of the whole process.
func dial(ctx context.Context, ns *netns.NS, network string, server netip.Addr) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		if zone := server.Zone(); zone != "" {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return fmt.Errorf("no interface %q", zone)
			}
			server = server.WithZone(strconv.Itoa(link.Index))
		}
		// The dialer makes the socket in this goroutine, as there is one
		// address only.
		conn, err = new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
		return err
	})
	return conn, err
}
