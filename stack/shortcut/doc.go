// Package shortcut connects the guest's TCP to the host's kernel to kernel: the
// guest talks to a socket in its own namespace, the host to one of the host's,
// and a relay.Mover splices the two. Only SYNs ever become frames.
//
// # The way of a connection
//
// Rules in the guest's namespace (package userns) mark the SYNs of connections
// that may go this way with a code point of package mark. They come here before
// the stack sees them:
//
//	guest's SYN ──► policy, flow table ──► connect to the target
//	                     │                     ├── refused, unreachable: answered as nat.TCP does
//	                     └── no: answered      └── connected: the same SYN goes back into the device
//	                                                 │
//	        relay.Mover ◄── accepted, and known ◄────┘ which the rules give to the listener
//
// The SYN that goes back is the guest's own, so that its kernel makes the
// connection with the listener: SYN-ACK and all that follows never leave the
// namespace. The guest sees what it would see of a router: the addresses that it
// used, and what became of the target before its own handshake is complete.
//
// A SYN is in one of these states; whatever is not named leads nowhere:
//
//	dialing ──► offered ──► joined (the Mover's)
//	   │           └──► given to the stack, with the connection to the target
//	   └──► answered
//
// The guest's retransmissions are swallowed while we dial, and put back again
// once the first was. A SYN with another sequence number is a new attempt from
// the same port: it takes the place of the one before.
//
// What the listener accepts and was not offered is reset: it is no way around the
// policy. A SYN that was offered and is not accepted within Patience is given to
// the stack together with its connection to the target, which nat.TCP adopts. If
// the guest then answers, the rules are broken: after a few of those in a row, or
// the first if the rules are new, the shortcut says so (Config.Broken) and takes no
// more. A guest that is gone does not answer.
//
// A segment of a joined connection that comes as a frame is as good a proof: the
// rules have let it go by. It is put back too, as Linux knows the connection, and
// diverted by the code point of what is put back. So connections survive that the
// guest flushes its rules, or makes its kernel forget its connections, and go on
// inside when the rules are there again. So do connections to the guest, which a
// Dialer makes for published ports.
//
// # Work and waiting
//
// Near targets connect at once, and so does the guest's kernel: then everything
// from the SYN to the Mover happens on the link's reader, which calls Handle,
// without a wake-up. For other targets one goroutine waits with a socket.Poller,
// and another for SYNs that nobody accepts. No connection has a goroutine, and
// after it was joined nothing here remembers it but its flow and one entry of a map.
//
// At the limit of descriptors the guest is refused. One descriptor is kept in
// reserve, to reset what the listener has accepted in the kernel already.
package shortcut
