// Package link turns the frames of a TAP device into packets of the stack and
// back. The virtio-net header and all that it says about segmentation and
// checksums end here.
//
//	device ── Reader ──► Endpoint.receive ──► filter ──► classifier ──► stack
//	device ◄── Writer ◄── writer goroutine ◄── queue ◄── Endpoint.WritePackets
//	device ◄── Writer ◄── Endpoint.SendFrame (packets that others built)
//
// An endpoint owns two goroutines while Run lasts: the reader, which also runs
// the network layer of the stack, and the writer. The stack's packets wait in a
// queue of queueLen packets between the two layers, because the stack calls
// with a connection's lock held: the guest's kernel answers within the write,
// and the answer would find the lock taken. A full queue makes the stack wait;
// nothing inside an advertised window is dropped.
//
// Dropped and counted: frames to another hardware address, frames whose source
// the filter refuses, headers that contradict their frame, and frames that the
// device does not take.
//
// With Config.Capture every frame goes to a file as well, those that are dropped
// too, before it is handled or written.
//
// Nothing is checked or computed twice: the bytes never left this machine, so
// checksums of received frames are not verified, and with offloads those of
// sent data are left to the guest's kernel, which does not verify them either.
package link
