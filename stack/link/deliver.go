package link

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Deliver gives the stack a frame that the classifier took before, complete and
// from its Ethernet header on. It may be called from any goroutine; the frame
// stays the caller's.
func (e *Endpoint) Deliver(frame []byte) {
	e.mu.RLock()
	r := receiver{endpoint: e, dispatcher: e.dispatcher}
	e.mu.RUnlock()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(buffer.NewViewWithData(frame))})
	defer pkt.DecRef()
	r.deliver(pkt)
}
