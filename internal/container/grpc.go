//go:build linux

package container

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// rpc is a connection to a daemon that speaks gRPC on a Unix socket: one message
// is asked and one answered (gRPC over HTTP/2, PROTOCOL-HTTP2.md of grpc/grpc). It
// is all that is needed here, and a small part of gRPC's own library.
type rpc struct {
	conn *http.ClientConn
	// header is sent with each call.
	header http.Header
}

// dialRPC connects to a socket. Each call has the header, too.
func dialRPC(ctx context.Context, socket string, header http.Header) (*rpc, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Protocols:   new(http.Protocols),
	}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client, err := transport.NewClientConn(ctx, "http", "localhost:80")
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	r := &rpc{conn: client, header: header.Clone()}
	r.header.Set("Content-Type", "application/grpc")
	r.header.Set("Te", "trailers")
	return r, nil
}

func (r *rpc) close() { _ = r.conn.Close() }

// rpcError is a status other than OK.
type rpcError struct {
	code    int // codes.md of grpc/grpc: 5 not found, 7 no permission, …
	message string
}

func (e *rpcError) Error() string { return fmt.Sprintf("%q (gRPC status %d)", e.message, e.code) }

// rpcPrefix is what stands before a message: whether it is compressed, and its
// length in 32 bits, big-endian.
const rpcPrefix = 5

// call calls a method, /PACKAGE.SERVICE/METHOD.
func (r *rpc) call(ctx context.Context, method string, ask message) (message, error) {
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(ask)))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+method, bytes.NewReader(append(body, ask...)))
	if err != nil {
		return nil, err
	}
	request.Header = r.header
	response, err := r.conn.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	// The status comes behind the message, or with the header where there is none.
	end := response.Trailer
	if response.Header.Get("Grpc-Status") != "" {
		end = response.Header
	}
	code, err := strconv.Atoi(end.Get("Grpc-Status"))
	if err != nil {
		return nil, fmt.Errorf("the answer %q is not gRPC", response.Status)
	}
	if code != 0 {
		text, err := url.PathUnescape(end.Get("Grpc-Message"))
		if err != nil {
			text = end.Get("Grpc-Message")
		}
		return nil, &rpcError{code, text}
	}
	if len(answer) < rpcPrefix || answer[0] != 0 || uint64(binary.BigEndian.Uint32(answer[1:])) != uint64(len(answer)-rpcPrefix) {
		return nil, errors.New("the answer is not one message of gRPC")
	}
	return answer[rpcPrefix:], nil
}

// message is a protobuf message as it is sent. Fields of another kind than is
// asked for, and broken ones, read as if they were not there.
type message []byte

func (m message) text(number protowire.Number, value string) message {
	return protowire.AppendString(protowire.AppendTag(m, number, protowire.BytesType), value)
}

func (m message) number(number protowire.Number, value uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, number, protowire.VarintType), value)
}

func (m message) uint(number protowire.Number) uint64 {
	var value uint64
	m.field(number, protowire.VarintType, func(b []byte) { value, _ = protowire.ConsumeVarint(b) })
	return value
}

func (m message) bytes(number protowire.Number) []byte {
	var value []byte
	m.field(number, protowire.BytesType, func(b []byte) { value, _ = protowire.ConsumeBytes(b) })
	return value
}

// field finds the last field with a number.
func (m message) field(number protowire.Number, kind protowire.Type, found func([]byte)) {
	for len(m) > 0 {
		n, t, size := protowire.ConsumeField(m)
		if size < 0 {
			return
		}
		if n == number && t == kind {
			_, _, tag := protowire.ConsumeTag(m)
			found(m[tag:size])
		}
		m = m[size:]
	}
}
