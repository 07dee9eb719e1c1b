package nat

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack"
)

const (
	// outboxLen is how many datagrams one sendmmsg takes. The reader of the
	// device stops for the rest after each batch of frames anyway.
	outboxLen = 32

	// outboxMax is the largest datagram that is held back, in bytes: what a
	// frame of the usual MTU carries. A larger one costs more to copy than the
	// call for it.
	outboxMax = 2048

	// outboxHead is how much of the guest's packet is kept for an error, in
	// bytes: the longest IPv4 header and the UDP header.
	outboxHead = 60 + udpHeaderLen
)

// An outbox holds datagrams of one mapping until they go to the host in one
// call. It belongs to one goroutine, that of Handle and Flush. Each datagram
// holds a reference to its socket.
type outbox struct {
	n            int
	dontFragment bool // all of them

	headers  [outboxLen]unix.Mmsghdr
	iovecs   [outboxLen]unix.Iovec
	controls [outboxLen]socket.Control
	peers    [outboxLen]*peer
	heads    [outboxLen][]byte // capacity outboxHead
	payloads [outboxLen][]byte // capacity outboxMax
}

func newOutbox() *outbox {
	o := &outbox{}
	for i := range o.headers {
		o.heads[i] = make([]byte, 0, outboxHead)
		o.payloads[i] = make([]byte, 0, outboxMax)
		o.headers[i].Hdr.Iov = &o.iovecs[i]
		o.headers[i].Hdr.SetIovlen(1)
	}
	return o
}

// fits tells whether a datagram can go in one call with those that are held.
func (o *outbox) fits(p *peer, dontFragment bool) bool {
	return o.n == 0 || o.n < outboxLen && o.peers[0].mapping == p.mapping && o.dontFragment == dontFragment
}

// add holds a copy of a datagram.
func (o *outbox) add(p *peer, d stack.Datagram, c socket.Control) {
	i := o.n
	o.n++
	o.peers[i], o.controls[i] = p, c
	o.heads[i] = append(o.heads[i][:0], d.Header[:min(len(d.Header), outboxHead)]...)
	o.payloads[i] = append(o.payloads[i][:0], d.Payload...)
	o.iovecs[i].Base = unsafe.SliceData(o.payloads[i])
	o.iovecs[i].SetLen(len(d.Payload))
	h := &o.headers[i].Hdr
	h.Name, h.Namelen = p.to.Name()
	first, size := o.controls[i].Bytes()
	h.Control = first
	h.SetControllen(size)
}

// send sends what is held from the i-th on and returns how many went, without
// waiting. The error is about the first that did not go; it is nil if one did.
func (o *outbox) send(i int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(o.peers[i].mapping.socket.FD()),
		uintptr(unsafe.Pointer(&o.headers[i])), uintptr(o.n-i), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// hold puts a datagram into the outbox, after sending what it does not go
// with. It returns false for one that is to be sent by itself.
func (u *UDP) hold(p *peer, d stack.Datagram, c socket.Control, dontFragment bool) bool {
	o := u.outbox
	if o == nil {
		return false
	}
	alone := d.Segment > 0 || len(d.Payload) > outboxMax
	if alone || !o.fits(p, dontFragment) {
		u.Flush()
	}
	if alone {
		return false
	}
	if o.n == 0 {
		o.dontFragment = dontFragment
		p.mapping.socket.setDontFragment(dontFragment)
	}
	o.add(p, d, c)
	return true
}

// Flush sends what Handle holds back. It must be called on the goroutine that
// calls Handle, when there is nothing more to be handled for now.
func (u *UDP) Flush() {
	o := u.outbox
	if o == nil || o.n == 0 {
		return
	}
	for i := 0; i < o.n; {
		n, err := o.send(i)
		for ; n > 0; n-- {
			o.peers[i].sentDatagram(len(o.payloads[i]))
			i++
		}
		if err != nil { // about the i-th, or about an earlier one: send says more
			u.dispatch(o.peers[i], stack.Datagram{Payload: o.payloads[i], Header: o.heads[i]}, o.controls[i])
			i++
		}
	}
	for i := range o.n {
		o.peers[i].mapping.socket.Release()
		o.peers[i] = nil
	}
	o.n = 0
}
