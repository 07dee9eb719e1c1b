// Package relay moves the bytes of a connection between its two ends until
// both halves are closed.
//
// One end is the guest's, a Stream; the other is a host socket. Each direction
// has a goroutine:
//
//	outbound   Stream.ReadTo ──► send    until the guest's FIN, then shutdown
//	inbound    recv ──► Stream.WriteFrom until the host's FIN, then CloseWrite
//
// A direction that has ended stays to watch its source for a reset until the
// other has ended too, so that a reset reaches the other side at any moment.
// Any error resets both ends. There is no idle limit: RFC 5382 REQ-5 wants at
// least 2 hours and 4 minutes, and keep-alive probes find dead ends.
//
// No byte is copied in user space: the stream hands out its receive buffers
// for send, and hands out room in its send buffer for recv. System calls are
// made inside the poller's callbacks, because SyscallConn clears readiness
// before it calls; and they are raw, because they return at once.
//
// A Mover does the same for pairs of kernel sockets, all of them in one
// goroutine. Small pieces are copied, since splicing costs two calls for each; a
// piece that fills the buffer is followed by splices through a pipe, until one
// moves little. Buffers and pipes are held only while a direction has bytes: an
// idle connection costs its two descriptors.
package relay
