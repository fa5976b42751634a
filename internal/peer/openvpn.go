//go:build linux

package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// VPN is an OpenVPN of a server and one client: 10.8.0.1 and 10.8.0.2 on tun0.
type VPN struct {
	server, client *Machine
	remote         netip.Addr
	identities     [2]identity
}

// identity is who one end is, to the other.
type identity struct {
	certificate, key string // PEM
	fingerprint      string
}

// vpnPort is OpenVPN's (IANA).
const vpnPort = 1194

// OpenVPN starts the server of a VPN, which the client reaches at an address.
// The options are lines of its configuration: what it pushes, for example.
func OpenVPN(t testing.TB, server, client *Machine, remote netip.Addr, options ...string) *VPN {
	t.Helper()
	v := &VPN{server: server, client: client, remote: remote, identities: [2]identity{newIdentity(t), newIdentity(t)}}
	v.configure(server, 0, append([]string{"mode server", "tls-server", "dh none", "topology subnet", "server 10.8.0.0 255.255.255.0", "keepalive 10 60"}, options...))
	server.Daemon(func() error {
		_, err := server.Try("ip", "address", "show", "dev", "tun0", "to", "10.8.0.1")
		return err
	}, "openvpn", "--config", vpnConfig)
	return v
}

const (
	vpnConfig  = "/etc/openvpn/test.conf"
	vpnPIDFile = "/run/openvpn.pid"
	// vpnUp is what a client's script makes when all routes are there.
	vpnUp = "/run/openvpn.up"
)

// Connect starts the client. The options are lines of its configuration; the
// script is run when the VPN is up and its routes are there, by sh.
func (v *VPN) Connect(script string, options ...string) {
	v.client.t.Helper()
	v.client.Write("/etc/openvpn/up.sh", "#!/bin/sh\nset -e\n"+script+"\ntouch "+vpnUp+"\n")
	v.client.Run("chmod", "755", "/etc/openvpn/up.sh")
	v.client.Run("rm", "-f", vpnUp)
	v.configure(v.client, 1, append([]string{
		"client", "nobind", fmt.Sprintf("remote %s %d", v.remote, vpnPort), "script-security 2", "route-up /etc/openvpn/up.sh",
	}, options...))
	v.client.Daemon(func() error {
		_, err := v.client.Try("test", "-e", vpnUp)
		return err
	}, "openvpn", "--config", vpnConfig)
}

// Disconnect ends the client: its routes go with tun0.
func (v *VPN) Disconnect() {
	v.client.t.Helper()
	v.client.Stop(vpnPIDFile)
}

func (v *VPN) configure(m *Machine, end int, options []string) {
	m.t.Helper()
	own, other := v.identities[end], v.identities[1-end]
	m.Write(vpnConfig, strings.Join(append([]string{
		"dev tun0", "proto udp4", "writepid " + vpnPIDFile, "verb 3", "auth-nocache",
		"peer-fingerprint " + other.fingerprint,
		"<cert>\n" + own.certificate + "</cert>", "<key>\n" + own.key + "</key>",
	}, options...), "\n")+"\n")
}

// newIdentity makes a key, and a certificate that it signs itself.
func newIdentity(t testing.TB) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vpn"}, // it wants one
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Split(fmt.Sprintf("% X", sha256.Sum256(certificate)), " ")
	return identity{
		certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
		fingerprint: strings.Join(sum, ":"),
	}
}
