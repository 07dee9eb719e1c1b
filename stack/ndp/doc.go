// Package ndp writes the router advertisements (RFC 4861, RFC 8106) that tell
// the guest about its IPv6 network. It has no sockets; solicitations and address
// resolution are the stack's own.
//
// What an advertisement says, and why:
//
//   - The sender is a default router, for Config.Lifetime. Whoever sends
//     advertisements repeats them before that is over: guests ask once.
//   - M and O, with Config.DHCP: addresses and everything else are to be had by
//     DHCPv6.
//   - Prefix information: on-link (L), and with Config.Autonomous for address
//     autoconfiguration (A). Without it the guest has one address, which it was
//     configured with or gets by DHCPv6; one that it made up itself would be a
//     source that the gateway does not accept.
//   - MTU, the sender's link-layer address, RDNSS and DNSSL.
//
// Nothing is taken from what a guest sends.
package ndp
