package link

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/tap"
)

// A Frame is a frame of the guest's in the buffers that it was read into. It
// is valid only during the call that gets it.
type Frame struct {
	// Header is the virtio-net header; on a plain device it is zero.
	Header tap.Header

	// Head holds all headers, from the Ethernet header on, unless there are IP
	// options or extension headers, and may hold more.
	Head []byte

	size  int          // bytes of the frame
	first []byte       // of it, headView bytes or all
	rest  *buffer.View // with room bytes in front; nil if first is all
}

// minHeaders is the length in bytes of the shortest headers of a datagram, and
// room what first may hold behind them.
const (
	minHeaders = header.EthernetMinimumSize + header.IPv4MinimumSize + header.UDPMinimumSize
	room       = headView - minHeaders
)

// Whole returns a Frame of one that is in one piece, which stays the caller's.
func Whole(h tap.Header, frame []byte) Frame {
	return Frame{Header: h, Head: frame, size: len(frame), first: frame}
}

// Len returns the length in bytes of the frame, with its Ethernet header.
func (f *Frame) Len() int { return f.size }

// Body returns in one piece what follows headers of n bytes, Ethernet's too, or
// nil if n is less than those of a datagram have.
func (f *Frame) Body(n int) []byte {
	switch {
	case n < minHeaders || n > f.size:
		return nil
	case f.size <= headView || f.rest == nil:
		return f.first[n:f.size]
	}
	b := f.rest.AsSlice()
	start := room + n - headView
	if start < room {
		copy(b[start:room], f.first[n:])
	}
	return b[start : room+f.size-headView]
}
