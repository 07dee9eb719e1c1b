package nat

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of this file return at once: the sockets are non-blocking.
// So they are raw, and the scheduler needs not hear of them.

const (
	// batchLen is how many messages one recvmmsg takes. 16 of the largest make
	// 1 MiB, of which only the pages that were ever filled are in memory.
	batchLen = 16

	// maxMessage is the largest message, in bytes: what UDP_GRO joins and what
	// an IP packet may carry both end below 64 KiB.
	maxMessage = 1 << 16

	// controlLen holds, in bytes, any control messages that we ask for: at
	// most an extended error with an IPv6 address and three integers.
	controlLen = 192
)

// A batch receives messages. It belongs to one goroutine.
type batch struct {
	headers  [batchLen]unix.Mmsghdr
	iovecs   [batchLen]unix.Iovec
	names    [batchLen][unix.SizeofSockaddrInet6]byte
	controls [batchLen][controlLen]byte
	buffers  []byte
}

func newBatch() *batch {
	b := &batch{buffers: make([]byte, batchLen*maxMessage)}
	for i := range b.headers {
		b.iovecs[i].Base = &b.buffers[i*maxMessage]
		b.iovecs[i].SetLen(maxMessage)
		h := &b.headers[i].Hdr
		h.Name = &b.names[i][0]
		h.Iov = &b.iovecs[i]
		h.SetIovlen(1)
		h.Control = &b.controls[i][0]
	}
	return b
}

// receive takes what is there on s, without waiting, and returns the number of
// messages. flags may be MSG_ERRQUEUE.
func (b *batch) receive(s *socket, flags int) (int, error) {
	for i := range b.headers {
		h := &b.headers[i].Hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlLen)
		h.Flags = 0
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&b.headers[0])),
		batchLen, uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// A message is one element of a batch, valid until the next receive.
type message struct {
	source  netip.AddrPort // of the error queue: where the message had been sent
	payload []byte
	control []byte
}

func (b *batch) message(i int) message {
	h := &b.headers[i]
	return message{
		source:  parseSockaddr(b.names[i][:min(h.Hdr.Namelen, unix.SizeofSockaddrInet6)]),
		payload: b.buffers[i*maxMessage:][:min(h.Len, maxMessage)],
		control: b.controls[i][:min(int(h.Hdr.Controllen), controlLen)],
	}
}

// integer returns the value of an integer control message, or 0.
func (m *message) integer(level, typ int32) int {
	if data := m.find(level, typ); len(data) >= 4 {
		return int(int32(binary.NativeEndian.Uint32(data)))
	}
	return 0
}

// find returns the data of a control message, or nil.
func (m *message) find(level, typ int32) []byte {
	rest := m.control
	for len(rest) >= unix.SizeofCmsghdr {
		h, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return nil
		}
		if h.Level == level && h.Type == typ {
			return data
		}
		rest = next
	}
	return nil
}

// An extendedError is a message of the error queue.
type extendedError struct {
	origin, typ, code uint8
	errno             unix.Errno
	info              int        // the MTU, in bytes, where the error is about it
	offender          netip.Addr // who sent the ICMP error; invalid if nobody did
}

// extendedError returns the error that came with the message.
func (m *message) extendedError() (extendedError, bool) {
	data := m.find(unix.IPPROTO_IP, unix.IP_RECVERR)
	if data == nil {
		data = m.find(unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
	}
	const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	if len(data) < size {
		return extendedError{}, false
	}
	return extendedError{
		errno:    unix.Errno(binary.NativeEndian.Uint32(data)),
		origin:   data[4],
		typ:      data[5],
		code:     data[6],
		info:     int(binary.NativeEndian.Uint32(data[8:])),
		offender: parseSockaddr(data[size:]).Addr(),
	}, true
}

// A control builds the control messages of one sendmsg. The zero value has
// none.
type control struct {
	words [12]uint64 // words, since a header must be aligned
	len   int
}

// add appends a control message with an integer of 4 bytes.
func (c *control) add(level, typ int32, value int32) {
	binary.NativeEndian.PutUint32(c.next(level, typ, 4), uint32(value))
}

// addSegment appends the size of the datagrams in a superframe, 2 bytes.
func (c *control) addSegment(size int) {
	binary.NativeEndian.PutUint16(c.next(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(size))
}

// next appends a header and returns the place of the data.
func (c *control) next(level, typ int32, size int) []byte {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&c.words)), unsafe.Sizeof(c.words))[c.len:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(size))
	c.len += unix.CmsgSpace(size)
	return b[unix.CmsgLen(0):]
}

// send sends head followed by payload as one message, without waiting. Either
// may be empty.
func (s *socket) send(to *sockaddr, head, payload []byte, c *control) error {
	var iovecs [2]unix.Iovec
	n := 0
	for _, b := range [...][]byte{head, payload} {
		if len(b) > 0 {
			iovecs[n].Base = &b[0]
			iovecs[n].SetLen(len(b))
			n++
		}
	}
	h := unix.Msghdr{Name: &to.raw[0], Namelen: to.len, Iov: &iovecs[0]}
	h.SetIovlen(n)
	if c.len > 0 {
		h.Control = (*byte)(unsafe.Pointer(&c.words))
		h.SetControllen(c.len)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if errno != 0 {
		return errno
	}
	return nil
}
