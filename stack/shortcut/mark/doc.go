// Package mark has the numbers and names by which the two halves of the shortcut
// know each other: the rules in the guest's namespace (package userns) and what
// reads the guest's frames (package stack and those below it).
//
// # Code points
//
// A frame says by the DSCP of its packet (RFC 2474) what the rules have made of
// it, or what they shall do. The values are of the pool for experimental and
// local use, xxxx11 (RFC 2474 section 6; the pool xxxx01, which was for the same
// use, is open for standards since RFC 8436, and 101101 is taken). The two bits
// of ECN beside them stay as they are.
//
//	from the guest   Local    a SYN of a socket in the guest's own namespace
//	                 Nested   a SYN forwarded from a network behind the guest;
//	                          its source is that network's, not translated
//	into the guest   Local    put back: give it to the socket of its connection, a
//	                          SYN to the listener
//	                 Entering a SYN of a socket that stands for a client of a
//	                          published port: its answers are for that
//
// From the guest, only SYNs without ACK, RST and FIN carry them. Whatever else the guest is to
// be told about such a SYN, that nobody answers or that it is not allowed, comes
// as from any router, by RST and ICMP errors over the device: the guest's
// connection tracking knows the flow by the addresses in the SYN, for both kinds.
// So does giving the SYN to the stack after all.
//
// A guest's root can send any DSCP. It gains nothing: policy is asked for each
// SYN, and a connection that reaches the listener must be one that was put back.
//
// # Marks and labels
//
// A packet's mark belongs to the guest, and so do the mark and the label of a
// connection. The rules change three bits of a packet's mark, those of Mask, and
// read them in the same hook only, as many firewalls set marks as a whole. For the
// same reason they leave the marks of connections alone, which firewalls copy to
// packets and back, and add two bits to labels: nf_tables has no way to take bits
// of a label away, and who else uses labels does so by bit.
//
// The mark Answer is that of a socket. It keeps the kernel from giving another one
// to what is accepted (net.ipv4.tcp_fwmark_accept in ip-sysctl.rst).
package mark
