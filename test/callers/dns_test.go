package callers

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"taproot/test/lab"
)

// serveDNS starts a name server on port 53 of an address. It knows one name,
// www.example.test.
func serveDNS(t *testing.T, n *lab.Namespace, address string) {
	t.Helper()
	conn := n.ListenPacket("udp", net.JoinHostPort(address, "53"))
	go func() {
		b := make([]byte, 65536)
		for {
			size, peer, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if reply, err := answer(b[:size]); err == nil {
				conn.WriteTo(reply, peer)
			}
		}
	}()
}

// answer makes the reply to a query.
func answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	for _, q := range m.Questions {
		if q.Name.String() != "www.example.test." {
			m.RCode = dnsmessage.RCodeNameError
			continue
		}
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
		switch q.Type {
		case dnsmessage.TypeA:
			body := &dnsmessage.AResource{A: netip.MustParseAddr(lab.Outside4).As4()}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: body})
		case dnsmessage.TypeAAAA:
			body := &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(lab.Outside6).As16()}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: body})
		}
	}
	return m.Pack()
}
