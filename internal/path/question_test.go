package path

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestSameQuestion(t *testing.T) {
	query := func(name string, kind dnsmessage.Type) []byte {
		m := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 7},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
		}
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	asked := query("dns.google.", dnsmessage.TypeA)
	answer := append([]byte{8, 8, 0x81, 0x80}, append(asked[4:len(asked):len(asked)], 0xc0, 12, 0, 1)...)
	compressed := append(append([]byte{}, asked[:12]...), 0xc0, 12, 0, 1, 0, 1)
	for name, tt := range map[string]struct {
		message []byte
		want    bool
	}{
		"itself":            {asked, true},
		"in other letters":  {query("DNS.Google.", dnsmessage.TypeA), true},
		"the answer":        {answer, true},
		"cut":               {asked[:20], true},
		"another type":      {query("dns.google.", dnsmessage.TypeAAAA), false},
		"another name":      {query("dns.googla.", dnsmessage.TypeA), false},
		"a longer name":     {query("dns.google.com.", dnsmessage.TypeA), false},
		"the root":          {query(".", dnsmessage.TypeA), false},
		"a header":          {asked[:12], false},
		"nothing":           {nil, false},
		"a compressed name": {compressed, false},
		"a label too far":   {append(append([]byte{}, asked[:12]...), 63), false},
		"no message of DNS": {[]byte("GET / HTTP/1.1\r\nHost: dns.google\r\n\r\n"), false},
	} {
		if got := SameQuestion(tt.message, asked); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
		if got := SameQuestion(asked, tt.message); got != tt.want {
			t.Errorf("%s, the other way round: %v, want %v", name, got, tt.want)
		}
	}
}
