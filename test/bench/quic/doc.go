// Quic is the QUIC load generator of the benchmark: what a guest gets that
// speaks HTTP/3. It is a module of its own, built by make bench.
//
//	quic serve ADDRESS:PORT
//	quic transfer -direction up|down -warm 300ms -window 900ms ADDRESS:PORT
//
// A transfer is one connection with one stream, which carries as much as it can
// for the warm-up and the window. Transfer prints what arrived at the receiver
// in the window, as one line of JSON:
//
//	{"Bytes":123456789,"Nanoseconds":900123456}
//
// The client begins with a request, of big-endian integers: direction (1 byte,
// 0 up, 1 down), warm-up and window in nanoseconds (8 bytes each). The server
// sends until the client closes, or receives for as long and then sends what
// would be printed (8 bytes each). Keys are made at the start of the server, and
// nobody checks them.
package main
