// Package policy decides whether a flow that the guest asks for may be, and
// which address of the host it means. It is pure: it opens nothing, looks
// nothing up and logs nothing.
//
// Everything that leaves the guest passes [Rules.Check] with the destination
// as the guest wrote it: TCP, UDP and ICMP alike. What the answer rests on is
// asked in this order, and the first rule that applies decides:
//
//	destination                                 answer
//	Map.Guest of a map for the port             Map.Host (echo: allowed unless that is loopback)
//	gateway                                     loopback of the host, if Config.HostLoopback has the port;
//	                                            else denied: host-loopback
//	resolver                                    denied: resolver (DNS itself is served before anybody asks here)
//	the guest's own address                     denied: guest
//	0.0.0.0, ::, 0/8                            denied: unspecified
//	127/8, ::1                                  denied: loopback
//	224/4, ff00::/8                             denied: multicast
//	255.255.255.255, the guest net's broadcast  denied: broadcast
//	240/4                                       denied: reserved
//	::/96 (IPv4-compatible)                     denied: ipv4-compatible
//	an address of the host                      denied: host, unless Config.AllowHost has the port,
//	                                            or Config.Published says that it leads back to the guest
//	169.254/16, fe80::/10, cloud metadata       denied: link-local, unless Config.AllowLinkLocal
//	anything else                               allowed, unchanged
//
// The guest may send from its own addresses, and from private ones of networks
// behind it, see [Rules.Source]: containers in the guest that are routed, or
// whose first packets are seen before they are translated.
//
// Maps are what makes other programs' networks: slirp4netns maps the gateway
// to loopback and the name server to the host's, pasta maps an address of the
// caller's choice to the host. Maps and the guest's own addresses can be
// replaced at run time.
//
// IPv4-mapped addresses (::ffff:a.b.c.d) count as the IPv4 address they hold.
// Addresses that carry an IPv4 address for a translator or a tunnel (NAT64,
// 6to4, Teredo, ISATAP and the like) must pass the rules twice, as what they
// are and as what they carry: 64:ff9b::7f00:1 is denied as loopback.
//
// Why a destination such as 0.0.0.0 needs a rule: Linux connects it to the
// host's loopback, and a user-space stack that forwards for everybody hands it
// over like any other.
//
// What the guest notices on a "no" is the caller's business; [Denied] names
// the rule, so that it can be counted and explained.
package policy
