// Package reassembly puts IP packets together of their fragments (RFC 791 §3.2,
// RFC 815, RFC 8200 §4.5). It has no sockets, and knows nothing of frames.
//
// gVisor would do the same, but tells neither how much it holds nor lets anybody
// say how much that may be. What is different here from a kernel:
//
//   - Fragments are held for 15 seconds, not for 30 or 60 (RFC 8200 §4.5, Linux's
//     ipfrag_time): the guest is one hop away, and its kernel sends those of one
//     packet one after the other.
//   - Both families share one limit, and what holds memory besides the bytes is
//     counted too. At the limit the oldest packet gives way: of a flood of
//     fragments that never end it is the flood's, and the fragments of a good
//     packet follow each other within microseconds.
//   - Fragments that overlap end their packet, in both families (RFC 5722, RFC 8200
//     §4.5; Linux since CVE-2018-5391). One that comes twice does not.
//   - Fragments of fragments are no packet: who reads what came out of a [Table]
//     need not look for more.
//
// Checksums are not looked at, as those of other packets of the guest's are not;
// that of the IPv4 header is made anew.
package reassembly
