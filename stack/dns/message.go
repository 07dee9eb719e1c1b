package dns

import (
	"bytes"
	"encoding/binary"
)

// A DNS message begins with a header of 12 bytes: ID, flags, and the number of
// entries of its four sections (RFC 1035 section 4.1.1).
const (
	headerSize = 12

	atFlags     = 2
	atQuestions = 4

	flagResponse  = 1 << 15
	maskOpcode    = 0xf << 11
	flagRecursion = 1 << 8 // desired
	flagAvailable = 1 << 7 // recursion available
	maskRcode     = 0xf

	rcodeServFail = 2
	rcodeNotImp   = 4
	rcodeRefused  = 5

	questionTail = 4 // bytes of type and class behind the name
	maxName      = 255
	maxLabel     = 63
)

// Types of zone transfers, whose answers are many messages (RFC 1995, RFC 5936).
const (
	typeIXFR = 251
	typeAXFR = 252
)

func id(b []byte) uint16    { return binary.BigEndian.Uint16(b) }
func flags(b []byte) uint16 { return binary.BigEndian.Uint16(b[atFlags:]) }

// withID returns a copy of message b under another ID.
func withID(b []byte, id uint16) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint16(b, id)
	return b
}

// isQuery reports whether b is a query whose question can be followed.
func isQuery(b []byte) bool {
	_, ok := question(b)
	return ok && flags(b)&flagResponse == 0
}

// isRefusal reports whether reply says that this server will not answer the
// question, but another one may.
func isRefusal(reply []byte) bool {
	switch flags(reply) & maskRcode {
	case rcodeServFail, rcodeNotImp, rcodeRefused:
		return true
	}
	return false
}

// isTransfer reports whether the query asks for a zone transfer.
func isTransfer(query []byte) bool {
	section, ok := question(query)
	if !ok || len(section) < questionTail {
		return false
	}
	t := binary.BigEndian.Uint16(section[len(section)-questionTail:])
	return t == typeAXFR || t == typeIXFR
}

// question returns the question section of message b, as a part of b.
func question(b []byte) (section []byte, ok bool) {
	if len(b) < headerSize {
		return nil, false
	}
	rest := b[headerSize:]
	for range binary.BigEndian.Uint16(b[atQuestions:]) {
		n, ok := nameSize(rest)
		if !ok || len(rest) < n+questionTail {
			return nil, false
		}
		rest = rest[n+questionTail:]
	}
	return b[headerSize : len(b)-len(rest)], true
}

// nameSize returns the number of bytes that the name at the start of b takes.
// Names in questions are not compressed: nothing stands before them that they
// could refer to (RFC 1035 section 4.1.4).
func nameSize(b []byte) (n int, ok bool) {
	for n < len(b) && n < maxName {
		label := int(b[n])
		n++
		if label == 0 {
			return n, true
		}
		if label > maxLabel {
			return 0, false
		}
		n += label
	}
	return 0, false
}

// isReply reports whether reply answers query, of which isQuery is true. The
// ID must be query's: of the other 2^16 none will do (RFC 5452 section 9.1).
func isReply(query, reply []byte) bool {
	asked, _ := question(query)
	answered, ok := question(reply)
	if !ok || flags(reply)&flagResponse == 0 || id(reply) != id(query) {
		return false
	}
	if (flags(reply)^flags(query))&maskOpcode != 0 {
		return false
	}
	if len(answered) == 0 && flags(reply)&maskRcode != 0 {
		return true // a server that could not or would not read the question
	}
	return sameQuestion(asked, answered)
}

// sameQuestion compares question sections. Names compare without regard to
// case (RFC 4343), because some servers do not repeat it.
func sameQuestion(a, b []byte) bool {
	n, ok := nameSize(a)
	if !ok || len(a) != len(b) || len(a) != n+questionTail {
		return bytes.Equal(a, b) // no question, or several
	}
	for i := range n {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return bytes.Equal(a[n:], b[n:])
}

// lower is for names: length bytes are at most 63 and below all letters.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// failure returns a SERVFAIL for query, of which isQuery is true.
func failure(query []byte) []byte {
	section, _ := question(query)
	reply := make([]byte, headerSize, headerSize+len(section))
	copy(reply, query[:atQuestions+2])
	f := flags(query)&(maskOpcode|flagRecursion) | flagResponse | flagAvailable | rcodeServFail
	binary.BigEndian.PutUint16(reply[atFlags:], f)
	return append(reply, section...)
}
