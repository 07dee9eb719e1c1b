package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// hostTTL is the time to live of what is answered here, in seconds: the
	// addresses stay as they are as long as the guest lives, but a minute is
	// as good for the guest's caches, and kinder to who changes them.
	hostTTL = 60

	// hostUDPSize is the largest datagram that we say we take, as servers do
	// since 2020: it passes every path of IPv6 in one piece.
	hostUDPSize = 1232
)

// lookupHost returns the addresses of the name that query, of which isQuery is
// true, asks for, if it is one of ours.
func (f *Forwarder) lookupHost(query []byte) (addrs []netip.Addr, ok bool) {
	section, _ := question(query)
	var buf [maxName]byte
	name := appendName(buf[:0], section)
	if len(name) == 0 || binary.BigEndian.Uint16(query[atQuestions:]) != 1 || flags(query)&maskOpcode != 0 {
		return nil, false
	}
	addrs, ok = f.hosts[string(name)]
	return addrs, ok
}

// appendName appends the name at the start of section to buf, in lower case
// and without the final dot. It appends nothing if a label contains a dot,
// which is allowed but never ours.
func appendName(buf, section []byte) []byte {
	n, ok := nameSize(section)
	if !ok {
		return buf
	}
	start := len(buf)
	for i := 0; i < n-1; {
		if i > 0 {
			buf = append(buf, '.')
		}
		label := int(section[i])
		i++
		for _, c := range section[i : i+label] {
			if c == '.' {
				return buf[:start]
			}
			buf = append(buf, lower(c))
		}
		i += label
	}
	return buf
}

// hostReply returns the answer to query with those of addrs that it asks for.
// A panic of the codec becomes an error.
func hostReply(query []byte, addrs []netip.Addr) (reply []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			reply, err = nil, fmt.Errorf("parse query: panic: %v", p)
		}
	}()
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, fmt.Errorf("parse query: %w", err)
	}
	q, err := p.Question()
	if err != nil {
		return nil, fmt.Errorf("parse query: %w", err)
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID:                 header.ID,
		Response:           true,
		Authoritative:      true,
		RecursionDesired:   header.RecursionDesired,
		RecursionAvailable: true,
	})
	b.EnableCompression()
	if err := buildHost(&b, q, addrs, hasEDNS(&p)); err != nil {
		return nil, fmt.Errorf("build reply: %w", err)
	}
	return b.Finish()
}

// buildHost puts question, answers and, if the query had one, the EDNS record
// (RFC 6891 section 6.1.1) into b.
func buildHost(b *dnsmessage.Builder, q dnsmessage.Question, addrs []netip.Addr, edns bool) error {
	if err := b.StartQuestions(); err != nil {
		return err
	}
	if err := b.Question(q); err != nil {
		return err
	}
	if err := b.StartAnswers(); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := buildAddress(b, q, a.Unmap()); err != nil {
			return err
		}
	}
	if !edns {
		return nil
	}
	if err := b.StartAdditionals(); err != nil {
		return err
	}
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(hostUDPSize, dnsmessage.RCodeSuccess, false); err != nil {
		return err
	}
	return b.OPTResource(h, dnsmessage.OPTResource{})
}

// buildAddress adds addr to the answers, if it is what q asks for.
func buildAddress(b *dnsmessage.Builder, q dnsmessage.Question, addr netip.Addr) error {
	if q.Class != dnsmessage.ClassINET && q.Class != dnsmessage.ClassANY {
		return nil
	}
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: hostTTL}
	all := q.Type == dnsmessage.TypeALL
	switch {
	case addr.Is4() && (all || q.Type == dnsmessage.TypeA):
		return b.AResource(h, dnsmessage.AResource{A: addr.As4()})
	case addr.Is6() && (all || q.Type == dnsmessage.TypeAAAA):
		return b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: addr.As16()})
	}
	return nil
}

// hasEDNS reports whether what p has still to read contains an EDNS record.
// What cannot be read does not.
func hasEDNS(p *dnsmessage.Parser) bool {
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return false
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return false
		}
		if h.Type == dnsmessage.TypeOPT {
			return true
		}
		if p.SkipAdditional() != nil {
			return false
		}
	}
}
