// Package dhcp answers the guest's DHCP requests, in IPv4 and IPv6. It has no
// sockets: a [Server] turns the payload of one datagram into that of another.
//
// As a rule there is one lease, the address that the guest was configured with,
// and whoever asks gets it: there is one guest. So nothing is remembered, a
// restart loses nothing, and RELEASE and DECLINE change nothing. With
// Config.Pool4, as slirp4netns has it, clients of IPv4 get an address each, by
// client identifier or hardware address. After a restart they get those again
// that they say they have.
//
// # DHCPv4 (RFC 2131)
//
//	DISCOVER                          OFFER
//	REQUEST of our offer              ACK; silence if it is for another server
//	REQUEST after a reboot, renewal   ACK; NAK if it is for another address
//	INFORM                            ACK without address and lease
//	DISCOVER when the pool is empty   silence
//	RELEASE, DECLINE, relayed, other  silence
//
// Options sent: subnet mask (1), router (3), DNS (6), host name (12), domain
// (15), MTU (26), broadcast address (28), lease (51), server (54), client
// identifier if there was one (61, RFC 6842), full name (81, RFC 4702), search
// list (119, RFC 3397), and to a router outside of the guest's network, routes
// (121, RFC 3442). All are sent whether asked for or not: simple clients do not
// ask for the MTU, and need it. What is not configured is not sent; what does
// not fit into the client's message size (57) is left out, names first.
//
// A client that has no address yet gets its answer as a broadcast, with or
// without the broadcast flag: nobody answers ARP for that address then (RFC
// 2131 section 4.1 allows it).
//
// # DHCPv6 (RFC 8415)
//
//	SOLICIT                ADVERTISE with preference 255, so that the client does
//	                       not wait for others; REPLY if it asks for rapid commit
//	REQUEST, RENEW, REBIND REPLY with the address; other addresses with lifetime 0
//	CONFIRM                REPLY: Success, or NotOnLink for other addresses
//	RELEASE, DECLINE       REPLY: Success
//	INFORMATION-REQUEST    REPLY without address
//	relayed, other         silence
//
// The first IA_NA gets the address; other ones and IA_TA get NoAddrsAvail,
// IA_PD gets NoPrefixAvail. Options sent: client (1) and server identifier
// (2, DUID-LL), preference (7), rapid commit (14), DNS (23, RFC 3646), search
// list (24), information refresh time (32, RFC 8415 section 21.23), full name
// (39, RFC 4704).
package dhcp
