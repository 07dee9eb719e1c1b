// Package portfwd publishes ports: programs of the host reach the guest
// (inbound), and programs of the guest reach the host's loopback (outbound).
//
// It has two sides, which are different processes:
//
//	supervisor                                 engine
//
//	Table   rules, ids, sockets  ── socket ──► Publisher   accept, dial, relay
//
// The Table opens sockets with the rights of the user, and in the guest's
// namespace through a SocketFunc. It reads no byte of a client or of the guest,
// and its sockets outlive the engine: an engine that is started again gets them
// all from Table.Republish. The Publisher never opens a port. An automatic rule
// (AutoConfig) has the Table make rules of what others listen on.
//
// # Rules
//
// A Rule is a range of ports of one protocol that lead to a range of the same
// length. It is published whole or not at all, unless it is weak.
//
//	direction  client             leads to
//	inbound    any of the host's  the guest: past the stack where there is a
//	                              Direct that can, else through it
//	           on loopback, if    the guest's loopback, from a socket in the
//	           Rule.Loopback      guest's namespace
//	outbound   on the guest's     the host's loopback
//	           loopback
//
// Either end of a TCP rule may be a Unix socket instead. The Table does all that
// has to do with paths: of the guest's it resolves none outside of the guest's
// root directory. The Publisher gets a listening or a connected socket.
//
// ParsePublish and ParseReach read rules as command lines have them.
//
// Rule.Local is for the host's loopback alone, in both families. Without it and
// without an address an inbound rule listens on every address of both families
// with one socket, or of IPv4 only where the host has no IPv6; 0.0.0.0 is IPv4
// only and :: is IPv6 only. TCP sockets have SO_REUSEADDR, so that a port is
// free again while old connections are in TIME-WAIT; UDP sockets have not,
// because two could then have one port. There is no MPTCP.
//
// # What the guest sees
//
// Either way, the guest's program sees the client's own address and
// port. It sees the gateway's address instead if the client is the host itself
// (by loopback or by any of its addresses), if it is link-local, or if it is of
// another family than the target; never 127.0.0.1, which programs trust
// (CVE-2021-20199). If address and port are taken by another connection to the
// same target, the port is another one. Rule.Loopback is for who wants exactly
// that trust for clients on the host's loopback: the guest sees loopback, and
// some port. Other clients never get it.
//
// The guest's address of the client's family is the target where the rule
// names none; an IPv6 client of a guest without IPv6 is led to its IPv4
// address, and the other way round. So is a TCP client that the first of the
// two refuses, with the gateway as source, and a UDP client that never had an
// answer.
//
// SourceGateway has the guest see the gateway always. With Rule.Proxy each TCP
// connection begins with a header of the PROXY protocol that says who the client
// is.
//
// A TCP client whose target refuses, is silent, or cannot be reached is reset:
// it was accepted before anybody could know. Where there is a Refuser and nobody
// in the guest listens, the clients after it are refused instead. UDP has a flow for each client,
// which ends when nothing went either way for two minutes (RFC 4787 REQ-5), or
// for 30 seconds if it never had an answer. Replies leave from the address that
// the client wrote to.
//
// UDP moves in batches both ways. A published socket is read with recvmmsg(2)
// and UDP_GRO (Linux 5.0), and what one client sent in a row is joined where
// the kernel did not: the guest's kernel gets one superframe. The guest's
// answers, with PublisherConfig.HoldBack, leave together with sendmmsg(2), those
// of one size as one message with UDP_SEGMENT (Linux 4.18). Where either is
// missing or refused, datagrams go one by one. None is ever split or joined for
// who sends or receives it.
//
// # Goroutines
//
// Publisher.Run has three: one accepts for all TCP ports, one reads all UDP
// sockets, one expires flows. Each TCP connection has one more while its target
// is dialled, unless a Direct does that, 16,384 at most: as many flows by frames
// as there may be (flow.Config). Then it is the Mover's. UDP flows to loopback
// have one while their socket is made. A port costs a descriptor in each process
// and no goroutine.
package portfwd
