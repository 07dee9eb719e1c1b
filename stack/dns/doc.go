// Package dns answers the guest's DNS queries by handing them to the host's
// resolvers, message by message.
//
// A [Forwarder] reads no more of a message than its header and its question.
// Everything else passes unchanged both ways: all types and classes, EDNS,
// the DO bit, truncation. An answer that arrives with TC over UDP is given to
// the guest as it is; the guest then asks again over TCP, and so do we. Only
// the names in Config.Hosts are answered here.
//
// # Transports
//
// [Forwarder.Datagram] takes one message and calls back with one. Its sockets
// are connected, each to one server, so that the source port is a random one and
// the kernel drops what other hosts send there; the message goes out under a
// random ID of ours, because a guest's IDs need not be random (RFC 5452 section
// 9). A socket takes questions for a second, and at most 64 of them; each
// question takes any of four. So a guest that asks now and then has a new port
// for each question, and one that asks thousands of times per second does not pay
// for a socket each time: 40 us of processor for a question and its answer,
// instead of 110. With HoldBack, questions that arrive together go out in one call,
// from one port. A reply counts if its ID, opcode and question are those of a
// query; anything else is counted and ignored. Sockets are read by one goroutine,
// that of Run; a lookup is no goroutine but a state, which a reply or a timer
// moves on.
//
// [Forwarder.ServeConn] speaks DNS over TCP (RFC 7766): messages with a length
// in front, several under way at once, answered in the order in which answers
// come. Each is forwarded over a TCP connection of its own, which makes zone
// transfers, whose answers are many messages, no special case for the server's
// end.
//
// # Servers and failures
//
// Servers are asked in order, one after the other. A server that nobody listens
// at loses all questions that are open on the socket which learns it. One that does not answer
// in its time is asked last for the next 30 s, and one that says
// SERVFAIL, NOTIMP or REFUSED is passed over for the next, as resolvers do. When nobody
// is left the guest gets the first such refusal, or SERVFAIL from here: its
// resolver shall know, not wait.
//
// Any message that is no query, or whose question cannot be followed, is
// dropped and counted; so is a datagram that arrives while too many are under
// way.
//
// The package also reads resolv.conf(5), see [ParseResolvConf].
package dns
