// Package nat carries what the guest starts to the host's sockets: which host
// address a destination means, the bytes both ways, and the errors.
//
// # Addresses
//
//	the guest writes              the host dials        the guest sees it from
//	gateway, opened port          127.0.0.1 or [::1]    gateway
//	gateway, any other port       nothing: prohibited   gateway
//	what policy.Rules map         its target            what it wrote
//	what policy.Rules forbid      nothing: prohibited   gateway
//	anything else                 the same              the same
//
// The guest's own address never leaves this package: the host's kernel chooses
// the source address, or [Bind] says it. Loopback is always reached from
// loopback; where UDP sockets are bound, it has mappings of its own.
//
// # UDP and echo
//
// A mapping is one host socket for one address and port of the guest, and
// family, whatever the destination: endpoint-independent mapping, RFC 4787
// REQ-1. It is bound to the guest's port number on all addresses where that is
// free (REQ-3), else to one that the kernel picks; the parity of the port is
// then not preserved (REQ-4). While the mapping lives, the port is taken for
// the host's other programs, as with any program of the user's. An echo
// identifier is treated as a port is. A mapping has a peer for each
// destination, which is one flow of the flow.Table, and lives as long as its
// last peer:
//
//	 guest's end           mapping              peers (flows)
//	10.0.2.100:5000  ──►  socket *:5000  ──┬──► 198.51.100.1:53    idle 10 s
//	                                       ├──► 203.0.113.9:443    idle 120 s
//	                                       └──► 10.0.2.2:8080  =   127.0.0.1:8080
//
// Filtering is address-dependent (REQ-8): a host that the guest has sent to
// may answer from any port, nobody else gets in. For the host's loopback it is
// address- and port-dependent, so that a service which was not opened cannot
// reach the guest by itself. What comes from a new port of a known address
// makes no flow, so a peer cannot fill the table.
//
// A peer expires when nothing went either way for its idle time (REQ-5): 120 s
// for UDP, 10 s for port 53, or 1 s when every question there has its answer,
// and 60 s for echo (RFC 5508 REQ-2). What comes in refreshes too, which REQ-6
// leaves open: a guest that listens to a one-way stream would go deaf. The
// policy is asked when a flow opens. There is no hairpinning (REQ-9): the
// host's own addresses are the policy's business.
//
// UDP.Handle and Echo.Handle send at once on the caller's goroutine; what the
// host does not take is dropped and counted. One goroutine for each of UDP and
// Echo reads all host sockets through an epoll descriptor, in batches; another
// expires peers once per second. An idle mapping costs a descriptor and about
// 1 KB. Superframes, and with HoldBack datagrams of one size in a row, go out
// with UDP_SEGMENT and come in with UDP_GRO; where the kernel refuses the former,
// the datagrams go one by one. A socket that gets much at once is given a larger
// receive buffer.
//
// # Headers
//
// The guest's TTL less one is put on the host's datagram, except that the
// usual 64 stays 64. A packet that arrives with TTL 1 is answered "time
// exceeded" by the gateway, so traceroutes work and begin with it. TOS and
// traffic class are passed on; those of replies are not.
//
// An IPv4 packet of up to 1500 bytes with DF leaves the host with DF, so the
// guest's path MTU discovery works; a larger one exists only because the
// guest's link is larger than the world outside, and is fragmented as the
// host would fragment its own. Without DF routers may fragment. For IPv6 the
// host fragments what is larger than the path's MTU, since a datagram that the
// guest had fragmented cannot be told from one it had not; what routers say
// about the size is passed on in both families.
//
// # Errors
//
// Errors come from the policy, from system calls and, for what routers and
// targets said, from the sockets' error queues. They reach the guest as ICMP
// or ICMPv6 errors that quote the guest's own packet, from the target under
// the address that the guest used, from a router under its own address, and
// from the gateway otherwise. Addresses that the guest may not reach are not
// shown to it. An answer that the NAT itself gives counts against a rate limit
// of 1000 per second.
//
//	policy                        administratively prohibited, or what Denied says
//	ENETUNREACH, EADDRNOTAVAIL    net unreachable
//	EHOSTUNREACH                  host unreachable
//	ECONNREFUSED                  port unreachable (TCP: RST)
//	EACCES, EPERM                 administratively prohibited
//	EMFILE, ENFILE                administratively prohibited
//	EMSGSIZE                      packet too big, with the MTU
//	full flow table               nothing (TCP: RST)
//	ETIMEDOUT                     nothing
//
// The same table holds for TCP where it does not say otherwise.
package nat
