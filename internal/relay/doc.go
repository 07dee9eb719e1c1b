// Package relay moves the bytes of connections between their two ends until both
// halves are closed. A Mover moves many, each between two kernel sockets (Join) or
// between the guest's Stream and a host's socket (JoinStream), without a goroutine
// for any of them. A reset of one end at any moment becomes one of the other; any
// error resets both. There is no idle limit: RFC 5382 REQ-5 wants at least 2 hours
// and 4 minutes, and keep-alive probes find dead ends. System calls are raw, since
// they return at once.
//
// # Two sockets
//
// A loop serves its connections in one goroutine, which waits by epoll(7). Small
// pieces are copied, since splicing costs two calls for each; a piece that fills
// the buffer is followed by splices through a pipe, until one moves little. After
// 16 MiB to which nothing was answered, a way has the kernel tell only of much at
// once, and looks every 2 ms for what is less. While nothing but small messages goes
// to and fro, the loop waits by itself instead of in the runtime's poller (see vigil).
// Buffers and pipes are held only while a direction has bytes: an idle connection
// costs its two descriptors. Another Mover, in another process perhaps, goes on where
// one has ended: Keep and JoinPassed, with a pipe for what a direction holds.
//
// # Stream and socket
//
// The loop tells of the socket, the Stream of itself; both only say that a
// connection has news and put it into a queue, which a second goroutine serves:
//
//	sendAll     Stream.ReadTo ──► send     until the guest's FIN, then shutdown
//	receiveAll  recv ──► Stream.WriteFrom  until the host's FIN, then CloseWrite
//
// In bulk no byte is copied in user space: the stream hands out its receive buffers
// for send, and hands out room in its send buffer for recv. Small pieces are
// received into a buffer and copied, which saves asking how much there is. An idle
// connection costs one descriptor.
package relay
