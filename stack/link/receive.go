package link

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
)

// A frame is read into three views, so that the payload of a segment starts a
// view of its own and goes to the host's socket without a copy, and so that
// small frames do not hold large buffers:
//
//	Ethernet, IPv4 and TCP with timestamps: 14+20+20+12 bytes
//	2 KiB, which with the first holds all that is no superframe at MTU 1500
//	64 KiB
const (
	headView   = 66
	smallView  = 2048
	largeView  = 64 << 10
	headViewV6 = headView + header.IPv6MinimumSize - header.IPv4MinimumSize
)

// A receiver holds the buffers of the next frame.
type receiver struct {
	endpoint   *Endpoint
	dispatcher stack.NetworkDispatcher
	reader     *tap.Reader
	virtio     []byte // nil on a plain device
	views      [3]*buffer.View
	head6      [headViewV6]byte
}

// receive reads frames until the device is closed or gone.
func (e *Endpoint) receive() error {
	e.mu.RLock()
	r := &receiver{endpoint: e, dispatcher: e.dispatcher}
	e.mu.RUnlock()
	var bufs [][]byte
	if e.features.Header {
		r.virtio = make([]byte, tap.HeaderLen)
		bufs = append(bufs, r.virtio)
	}
	for i, size := range [...]int{headView, smallView, largeView} {
		r.views[i] = buffer.NewViewSize(size)
		bufs = append(bufs, r.views[i].AsSlice())
	}
	r.reader = e.device.NewReader(bufs...)
	defer func() {
		for _, v := range r.views {
			v.Release()
		}
	}()
	return r.reader.Run(r.frame)
}

// frame handles a frame of n bytes, counting the virtio-net header.
func (r *receiver) frame(n int) {
	e := r.endpoint
	e.Stats.Received.Add(1)
	n -= len(r.virtio)
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
	if !e.admit(head) || e.classifier != nil && e.classifier.Classify(head) {
		return
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
	head := r.views[0].AsSlice()[:min(n, headView)]
	if n <= headView || !isIPv6(head) {
		return head
	}
	copy(r.head6[:], head)
	copy(r.head6[headView:], r.views[1].AsSlice())
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
		e.guest.Store(source)
	}
	return true
}

// take returns the frame's bytes as a buffer and puts new views in the place
// of those that it used. The headers of an IPv6 frame are longer than the first
// view: they become a view of their own, so that they are contiguous and the
// payload is not.
func (r *receiver) take(n int, head []byte) buffer.Buffer {
	var b buffer.Buffer
	left := n
	for i := 0; i < len(r.views) && left > 0; i++ {
		v := r.views[i]
		size := min(left, v.Size())
		fresh := buffer.NewViewSize(v.Size())
		r.replace(i, fresh)
		v.CapLength(size)
		left -= size
		if i == 1 && len(head) > headView {
			b.Release()
			_ = b.Append(buffer.NewViewWithData(head))
			v.TrimFront(min(v.Size(), len(head)-headView))
		}
		if v.Size() == 0 {
			v.Release()
			continue
		}
		_ = b.Append(v) // fails only for a view that is nil
	}
	return b
}

// isIPv6 looks at the Ethernet header.
func isIPv6(head []byte) bool {
	return binary.BigEndian.Uint16(head[12:]) == uint16(header.IPv6ProtocolNumber)
}

// replace sets the i-th view for the next frame.
func (r *receiver) replace(i int, v *buffer.View) {
	r.views[i] = v
	if r.virtio != nil {
		i++
	}
	r.reader.SetBuffer(i, v.AsSlice())
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
