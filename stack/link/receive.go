package link

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/internal/socket"
	"taproot/tap"
)

// A frame is read into two views, so that the payload of a segment starts a
// view of its own and goes to the host's socket in one piece and without a
// copy: headView bytes for Ethernet, IPv4 and TCP with timestamps
// (14+20+20+12), and largeView bytes for the rest.
//
// A rest of up to copied bytes is copied into a view of its size, for which
// the large one stays for the next frame. The copy costs half a microsecond at
// most; without it, a connection whose reader is slow would hold 64 KiB for
// each small segment, eight times as much and more.
//
// The rest is read behind room bytes, so that Frame.Body has a datagram in one
// piece by moving the few bytes of it that are in the first view.
const (
	headView   = 66
	headViewV6 = headView + header.IPv6MinimumSize - header.IPv4MinimumSize
	largeView  = 64 << 10
	copied     = 8 << 10
)

// A receiver holds the buffers of the next frame.
type receiver struct {
	endpoint   *Endpoint
	dispatcher stack.NetworkDispatcher
	reader     *tap.Reader
	virtio     []byte // nil on a plain device
	first      []byte // of the frame, headView bytes
	rest       *buffer.View
	head6      [headViewV6]byte
	frame      Frame
}

// receive reads frames until the device is closed or gone.
func (e *Endpoint) receive() error {
	e.mu.RLock()
	r := &receiver{endpoint: e, dispatcher: e.dispatcher}
	e.mu.RUnlock()
	r.first = make([]byte, headView)
	r.rest = buffer.NewViewSize(largeView)
	defer func() { r.rest.Release() }()
	bufs := [][]byte{r.first, r.rest.AsSlice()[room:]}
	if e.features.Header {
		r.virtio = make([]byte, tap.HeaderLen)
		bufs = append([][]byte{r.virtio}, bufs...)
	}
	r.reader = e.device.NewReader(bufs...)
	r.reader.Idle, r.reader.Linger = e.idle, e.linger
	if turn, err := socket.NewTurn(); err == nil { // else others wait for 10 ms when there is a flood
		defer turn.Close()
		r.reader.Yield = func() {
			turn.Yield()
			if e.rest != nil {
				time.Sleep(e.rest())
			}
		}
	}
	return r.reader.Run(r.receive)
}

// receive handles a frame of n bytes, counting the virtio-net header.
func (r *receiver) receive(n int) {
	e := r.endpoint
	e.Stats.Received.Add(1)
	n -= len(r.virtio)
	if e.capture != nil && n > 0 {
		e.capture.add(r.first[:min(n, headView)], r.rest.AsSlice()[room:][:max(n-headView, 0)])
	}
	if n < header.EthernetMinimumSize+1 {
		e.Stats.Malformed.Add(1)
		return
	}
	var h tap.Header
	if r.virtio != nil {
		var err error
		if h, err = tap.ParseHeader(r.virtio, n); err != nil {
			e.Stats.Malformed.Add(1)
			return
		}
	}
	head := r.head(n)
	if !e.admit(head) {
		return
	}
	if e.classifier != nil {
		r.frame = Frame{Header: h, Head: head, size: n, first: r.first, rest: r.rest}
		if e.classifier.Classify(&r.frame) {
			return
		}
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: r.take(n, head)})
	defer pkt.DecRef()
	if h.Segmentation == tap.SegmentUDP {
		pkt.GSOOptions.MSS = h.SegmentSize
	}
	r.deliver(pkt)
}

// head returns the first bytes of a frame of n bytes: all of its headers,
// unless it has IP options or extension headers. It is valid until the next
// frame.
func (r *receiver) head(n int) []byte {
	head := r.first[:min(n, headView)]
	if n <= headView || !isIPv6(head) {
		return head
	}
	copy(r.head6[:], head)
	copy(r.head6[headView:], r.rest.AsSlice()[room:])
	return r.head6[:min(n, headViewV6)]
}

// admit counts and refuses frames that are not for us or not from the guest,
// and learns the guest's hardware address from the others.
func (e *Endpoint) admit(head []byte) bool {
	destination := header.Ethernet(head).DestinationAddress()
	if destination != e.mac && destination[0]&1 == 0 {
		e.Stats.Foreign.Add(1)
		return false
	}
	if e.filter != nil && !e.filter(head) {
		e.Stats.Spoofed.Add(1)
		return false
	}
	if source := packMAC(head[6:12]); source != e.guest.Load() && source>>40&1 == 0 {
		if e.guest.Swap(source) == broadcast {
			close(e.met)
		}
	}
	return true
}

// take returns the bytes of a frame of n bytes as a buffer: the headers, which
// are contiguous, and what is behind them.
func (r *receiver) take(n int, head []byte) buffer.Buffer {
	b := buffer.MakeWithView(fullView(head))
	if n == len(head) {
		return b
	}
	start := room + len(head) - headView // behind what is in head already, of IPv6
	end := room + n - headView
	v := r.rest
	if n-headView > copied {
		r.rest = buffer.NewViewSize(largeView)
		r.reader.SetBuffer(r.reader.Len()-1, r.rest.AsSlice()[room:])
		v.CapLength(end)
		v.TrimFront(start)
	} else {
		v = buffer.NewViewWithData(v.AsSlice()[start:end])
	}
	_ = b.Append(v) // fails only for a view that is nil
	return b
}

// headChunk is the size of the memory under a view of up to 86 bytes.
const headChunk = 128

// fullView returns a view of b without room behind it. Into room, Append would
// copy the first bytes of the payload, which then went to the host's socket
// as a piece of its own.
func fullView(b []byte) *buffer.View {
	v := buffer.NewViewSize(headChunk)
	v.TrimFront(headChunk - len(b))
	copy(v.AsSlice(), b)
	return v
}

// isIPv6 looks at the Ethernet header.
func isIPv6(head []byte) bool {
	return binary.BigEndian.Uint16(head[12:]) == uint16(header.IPv6ProtocolNumber)
}

// deliver gives a frame to the stack.
func (r *receiver) deliver(pkt *stack.PacketBuffer) {
	b, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	if !ok || r.dispatcher == nil {
		r.endpoint.Stats.Malformed.Add(1)
		return
	}
	eth := header.Ethernet(b)
	pkt.PktType = packetType(eth.DestinationAddress())
	protocol := eth.Type()
	pkt.NetworkProtocolNumber = protocol
	r.dispatcher.DeliverNetworkPacket(protocol, pkt)
}

func packetType(destination tcpip.LinkAddress) tcpip.PacketType {
	switch {
	case destination == header.EthernetBroadcastAddress:
		return tcpip.PacketBroadcast
	case destination[0]&1 != 0:
		return tcpip.PacketMulticast
	}
	return tcpip.PacketHost
}

// packMAC returns a hardware address as the lower 48 bits of a number.
func packMAC(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}
