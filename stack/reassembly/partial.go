package reassembly

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"
)

// A part is the data of a fragment, in memory of its own.
type part struct {
	offset int
	data   []byte
}

func (p part) end() int { return p.offset + len(p.data) }

// A partial is a packet of which fragments are missing. Whoever holds the Table's
// lock may use it, and whoever has removed it.
type partial struct {
	key   key
	begun time.Time
	cost  int64 // bytes, as the limit counts

	head   []byte // of the first fragment; nil while that is missing
	nextAt int    // as in piece

	parts []part // in their order, without overlap
	have  int    // bytes of data
	total int    // bytes of data there are in all; -1 while the last fragment is missing
}

// put adds a piece, of which it keeps a copy. It returns false if that contradicts
// the others.
func (q *partial) put(p *piece) bool {
	at, found := slices.BinarySearchFunc(q.parts, p.offset, func(a part, offset int) int { return cmp.Compare(a.offset, offset) })
	if found && len(q.parts[at].data) == len(p.data) {
		return p.more == (q.total != p.end()) // it came twice
	}
	switch {
	case found, at > 0 && q.parts[at-1].end() > p.offset, at < len(q.parts) && p.end() > q.parts[at].offset:
		return false // overlap
	case !q.ends(p), len(q.parts) == maxPieces:
		return false
	}
	q.parts = slices.Insert(q.parts, at, part{p.offset, slices.Clone(p.data)})
	q.have += len(p.data)
	q.cost += int64(pieceCost + len(p.data))
	if p.offset == 0 {
		q.head, q.nextAt = slices.Clone(p.head), p.nextAt
		q.cost += int64(len(p.head))
	}
	return true
}

// ends notes where the packet ends. It returns false if there is or was something
// behind that.
func (q *partial) ends(p *piece) bool {
	if p.more {
		return q.total < 0 || p.end() < q.total
	}
	if q.total >= 0 || len(q.parts) > 0 && q.parts[len(q.parts)-1].end() > p.offset {
		return false
	}
	q.total = p.end()
	return true
}

// isComplete tells whether nothing is missing.
func (q *partial) isComplete() bool { return q.have == q.total && q.head != nil }

// whole returns a complete packet; nil if headers and data together are longer than
// a packet may be.
func (q *partial) whole() []byte { return join(q.head, q.nextAt, q.parts, q.have) }

// first returns the first fragment as it came; nil if it did not.
func (q *partial) first() []byte {
	if q.head == nil {
		return nil
	}
	return append(q.head, q.parts[0].data...)
}

// join returns the packet of size bytes of data that begins with a first fragment's
// headers.
func join(head []byte, nextAt int, parts []part, size int) []byte {
	v6 := head[0]>>4 == 6
	length := len(head) + size
	if v6 {
		length -= header6 + fragmentHeader
	}
	if length > maxLength {
		return nil
	}
	b := make([]byte, 0, len(head)+size)
	b = append(b, head...)
	if v6 {
		at := len(head) - fragmentHeader
		b[nextAt] = head[at] // RFC 8200 §4.5: of the fragment header
		b = b[:at]
		binary.BigEndian.PutUint16(b[at6Length:], uint16(length))
	} else {
		binary.BigEndian.PutUint16(b[at4Length:], uint16(length))
		b[at4Flags], b[at4Flags+1] = 0, 0
		b[at4Sum], b[at4Sum+1] = 0, 0
		binary.BigEndian.PutUint16(b[at4Sum:], headerSum(b))
	}
	for _, p := range parts {
		b = append(b, p.data...)
	}
	return b
}

// headerSum returns the checksum of an IPv4 header (RFC 1071).
func headerSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}
