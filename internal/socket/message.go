package socket

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// BatchLen is how many messages a Batch takes at once: if it is full, there
	// may be more. 16 of the largest make
	// 1 MiB, of which only the pages that were ever filled are in memory.
	BatchLen = 16

	// maxMessage is the largest message, in bytes: what UDP_GRO joins and what
	// an IP packet may carry both end below 64 KiB.
	maxMessage = 1 << 16

	// controlLen holds, in bytes, any control messages that are asked for: at
	// most an extended error with an IPv6 address, a local address and three
	// integers.
	controlLen = 192
)

// A Batch receives messages. It belongs to one goroutine.
type Batch struct {
	headers  [BatchLen]unix.Mmsghdr
	iovecs   [BatchLen]unix.Iovec
	names    [BatchLen]Address
	controls [BatchLen][controlLen / 8]uint64 // words, since headers are aligned
	buffers  []byte
}

// NewBatch returns a Batch, which needs up to 1 MiB.
func NewBatch() *Batch {
	b := &Batch{buffers: make([]byte, BatchLen*maxMessage)}
	for i := range b.headers {
		b.iovecs[i].Base = &b.buffers[i*maxMessage]
		b.iovecs[i].SetLen(maxMessage)
		h := &b.headers[i].Hdr
		h.Name = &b.names[i].raw[0]
		h.Iov = &b.iovecs[i]
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(&b.controls[i]))
	}
	return b
}

// Receive takes what is there on s, without waiting, and returns the number of
// messages. The error is a bare syscall.Errno.
func (b *Batch) Receive(s *Socket) (int, error) { return b.receive(s, 0) }

// ReceiveErrors is Receive for the error queue.
func (b *Batch) ReceiveErrors(s *Socket) (int, error) { return b.receive(s, unix.MSG_ERRQUEUE) }

// receive is recvmmsg(2).
func (b *Batch) receive(s *Socket, flags uintptr) (int, error) {
	for i := range b.headers {
		h := &b.headers[i].Hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlLen)
		h.Flags = 0
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&b.headers[0])),
		BatchLen, flags|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// A Message is one element of a Batch, valid until the next Receive.
type Message struct {
	// From is the sender; of the error queue, where the message had been sent.
	// Its port is 0 if the socket is connected.
	From Address

	Payload []byte
	Control []byte // control messages, see Find
}

// Message returns the i-th message of the last Receive.
func (b *Batch) Message(i int) Message {
	h := &b.headers[i]
	m := Message{
		From:    b.names[i],
		Payload: b.buffers[i*maxMessage:][:min(h.Len, maxMessage)],
		Control: unsafe.Slice((*byte)(unsafe.Pointer(&b.controls[i])), controlLen)[:min(int(h.Hdr.Controllen), controlLen)],
	}
	m.From.len = min(h.Hdr.Namelen, unix.SizeofSockaddrInet6)
	return m
}

// Join returns the i-th message of n, joined with those behind it that GRO would
// have joined: they come from the same place, to the same address, are of one size
// but for the last, which may be shorter, and do not end above most bytes.
// Devices that give the kernel one packet at a time, veth and loopback above all,
// leave it to us. It returns the size of each datagram but the last, or 0 if the
// message is one, and the index of the next message.
func (b *Batch) Join(i, n, most int) (m Message, segment, next int) {
	m = b.Message(i)
	next = i + 1
	size := len(m.Payload)
	if segment = m.Segment(); segment > 0 || size == 0 {
		return m, segment, next
	}
	total := size
	for ; next < n && total%size == 0; next++ {
		part := int(b.headers[next].Len)
		if part == 0 || part > size || total+part > most || !b.alike(i, next) {
			break
		}
		total += copy(b.buffers[i*maxMessage+total:], b.buffers[next*maxMessage:][:part])
	}
	if total > size {
		segment = size
	}
	m.Payload = b.buffers[i*maxMessage:][:total]
	return m, segment, next
}

// alike reports whether two messages have the same two ends, and control messages
// of the same length: one that GRO has joined has one more.
func (b *Batch) alike(i, j int) bool {
	if b.headers[i].Hdr.Controllen != b.headers[j].Hdr.Controllen {
		return false
	}
	first, second := b.Message(i), b.Message(j)
	return bytes.Equal(first.From.bytes(), second.From.bytes()) && first.Local() == second.Local()
}

// Segment returns the size in bytes of each datagram but the last, when the
// payload is several; otherwise 0.
func (m *Message) Segment() int {
	if n := m.Integer(unix.SOL_UDP, unix.UDP_GRO); n > 0 && n < len(m.Payload) {
		return n
	}
	return 0
}

// Local returns the address that the message was sent to, or the one to answer
// from if that was a broadcast; invalid unless Datagrams asked for it. IPv4 is
// not mapped, whatever the socket's family.
func (m *Message) Local() netip.Addr {
	if data := m.Find(unix.IPPROTO_IP, unix.IP_PKTINFO); len(data) >= unix.SizeofInet4Pktinfo {
		return netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst, ip(7)
	}
	if data := m.Find(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO); len(data) >= unix.SizeofInet6Pktinfo {
		return netip.AddrFrom16([16]byte(data[:16])).Unmap()
	}
	return netip.Addr{}
}

// Integer returns the value of a control message that is an int, or 0.
func (m *Message) Integer(level, typ int32) int {
	if data := m.Find(level, typ); len(data) >= 4 {
		return int(int32(binary.NativeEndian.Uint32(data)))
	}
	return 0
}

// Find returns the data of a control message, or nil.
func (m *Message) Find(level, typ int32) []byte {
	rest := m.Control
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

// Datagrams asks for what a Message tells: local addresses, and several
// datagrams as one message where the kernel can (5.0).
func (s *Socket) Datagrams() {
	_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	// IP_PKTINFO also works on an IPv6 socket, for what comes by IPv4.
	_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
}
