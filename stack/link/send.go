package link

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
)

// AddHeader implements stack.LinkEndpoint: every frame goes to the guest.
func (e *Endpoint) AddHeader(pkt *stack.PacketBuffer) {
	e.ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize), uint16(pkt.NetworkProtocolNumber))
}

// ParseHeader implements stack.LinkEndpoint.
func (e *Endpoint) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// ethernet writes the header of a frame to the guest.
func (e *Endpoint) ethernet(b []byte, etherType uint16) {
	guest := e.guest.Load()
	binary.BigEndian.PutUint16(b, uint16(guest>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(guest))
	copy(b[6:], e.mac)
	binary.BigEndian.PutUint16(b[12:], etherType)
}

// WritePackets implements stack.LinkEndpoint. It queues the packets for the
// writer, and waits while the queue is full.
func (e *Endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range pkts.AsSlice() {
		select {
		case e.queue <- pkt.IncRef():
			n++
		case <-e.stopped:
			pkt.DecRef()
			return n, &tcpip.ErrClosedForSend{}
		}
	}
	return n, nil
}

// send writes queued packets until ctx ends. Whoever was woken together with it
// goes first: where the processor has taken data, that is who sends it to the
// host, which somebody waits for, while the packet is its ACK.
func (e *Endpoint) send(ctx context.Context) {
	w := e.device.NewWriter()
	virtio := make([]byte, tap.HeaderLen)
	defer e.discard()
	for {
		select {
		case pkt := <-e.queue:
			runtime.Gosched()
			e.writeAll(w, virtio, pkt)
		case <-ctx.Done():
			return
		}
	}
}

// writeAll writes a packet and those that wait behind it.
func (e *Endpoint) writeAll(w *tap.Writer, virtio []byte, pkt *stack.PacketBuffer) {
	for {
		e.write(w, virtio, pkt)
		pkt.DecRef()
		select {
		case pkt = <-e.queue:
		default:
			return
		}
	}
}

// discard releases what nobody will write any more.
func (e *Endpoint) discard() {
	close(e.stopped)
	for {
		select {
		case pkt := <-e.queue:
			pkt.DecRef()
		default:
			return
		}
	}
}

// write writes one of the stack's packets.
func (e *Endpoint) write(w *tap.Writer, virtio []byte, pkt *stack.PacketBuffer) {
	if e.features.Header {
		virtioHeader(pkt).Put(virtio)
		w.Add(virtio)
	}
	views, unused := pkt.AsViewList() // unused is room in front of the headers
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		skip := min(unused, len(b))
		unused -= skip
		w.Add(b[skip:])
	}
	if e.capture != nil {
		e.captureSent(pkt)
	}
	e.flush(w)
}

// captureSent captures one of the stack's packets.
func (e *Endpoint) captureSent(pkt *stack.PacketBuffer) {
	b := pkt.ToBuffer()
	defer b.Release()
	e.capture.add(b.Flatten())
}

func (e *Endpoint) flush(w *tap.Writer) {
	if w.Flush() != nil {
		e.Stats.Unsent.Add(1)
		return
	}
	e.Stats.Sent.Add(1)
}

// virtioHeader says of a packet what the stack left undone. A segment that
// fits the MSS needs its checksum only; one without data has it.
func virtioHeader(pkt *stack.PacketBuffer) tap.Header {
	gso := pkt.GSOOptions
	if gso.Type == stack.GSONone || !gso.NeedsCsum {
		return tap.Header{}
	}
	h := tap.Header{
		NeedsChecksum:  true,
		ChecksumStart:  header.EthernetMinimumSize + gso.L3HdrLen,
		ChecksumOffset: gso.CsumOffset,
	}
	if gso.MSS == 0 || pkt.Data().Size() <= int(gso.MSS) {
		return h
	}
	h.Segmentation = tap.SegmentTCPv4
	if gso.Type == stack.GSOTCPv6 {
		h.Segmentation = tap.SegmentTCPv6
	}
	h.SegmentSize = gso.MSS
	h.HeaderLen = uint16(pkt.HeaderSize())
	return h
}

// errEmpty says that a packet without a header was to be sent.
var errEmpty = errors.New("empty packet")

// SendFrame writes a packet that was built elsewhere, in pieces, at once: its
// IP header and what follows. h counts from the Ethernet header and is ignored
// on a plain device, whose packets must be complete. The pieces stay the
// caller's.
func (e *Endpoint) SendFrame(h tap.Header, pieces ...[]byte) error {
	if len(pieces) == 0 || len(pieces[0]) == 0 {
		return errEmpty
	}
	if pieces[0][0]>>4 == 6 {
		return e.sendFrame(uint16(header.IPv6ProtocolNumber), h, pieces)
	}
	return e.sendFrame(uint16(header.IPv4ProtocolNumber), h, pieces)
}

// SendARP writes an ARP packet (RFC 826). It stays the caller's.
func (e *Endpoint) SendARP(packet []byte) error {
	return e.sendFrame(uint16(header.ARPProtocolNumber), tap.Header{}, [][]byte{packet})
}

func (e *Endpoint) sendFrame(etherType uint16, h tap.Header, pieces [][]byte) error {
	w := e.writers.Get().(*frameWriter)
	defer e.writers.Put(w)
	front := w.joined[tap.HeaderLen:frontLen]
	if e.features.Header {
		front = w.joined[:frontLen]
		h.Put(front)
	}
	e.ethernet(w.joined[tap.HeaderLen:], etherType)
	w.addPieces(front, pieces)
	if e.capture != nil {
		e.capture.add(append([][]byte{w.joined[tap.HeaderLen:frontLen]}, pieces...)...)
	}
	if err := w.Flush(); err != nil {
		e.Stats.Unsent.Add(1)
		return err
	}
	e.Stats.Sent.Add(1)
	return nil
}

// frontLen is the length of the headers in front of a packet, and joinedLen that
// of a frame up to which it costs less to copy its pieces into one than to have
// the kernel collect them: all that an Ethernet would carry.
const (
	frontLen  = tap.HeaderLen + header.EthernetMinimumSize
	joinedLen = 2048
)

// A frameWriter is a writer with room for the headers in front of a packet, and
// for all of a small one, which would be allocated for each frame otherwise.
type frameWriter struct {
	*tap.Writer
	joined [joinedLen]byte
}

// addPieces adds a packet behind front, which stands at its place in w.joined.
func (w *frameWriter) addPieces(front []byte, pieces [][]byte) {
	size := frontLen
	for _, p := range pieces {
		size += len(p)
	}
	if size > joinedLen {
		w.Add(front)
		for _, p := range pieces {
			w.Add(p)
		}
		return
	}
	at := frontLen
	for _, p := range pieces {
		at += copy(w.joined[at:], p)
	}
	w.Add(w.joined[frontLen-len(front) : size])
}

// Features returns what the device can do.
func (e *Endpoint) Features() tap.Features { return e.features }
