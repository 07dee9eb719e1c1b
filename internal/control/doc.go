// Package control is a socket over which ports are published while a guest
// runs. It speaks the protocol of slirp4netns:
//
//	{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "127.0.0.1",
//	    "host_port": 8080, "guest_addr": "10.0.2.100", "guest_port": 80}}
//	    {"return":{"id":1}}
//	{"execute": "list_hostfwd"}
//	    {"return":{"entries":[...]},"entries":[...]}
//	{"execute": "remove_hostfwd", "arguments": {"id": 1}}
//	    {"return":{}}
//
// A connection carries one request, which is one JSON object, and one reply,
// which ends it. The object is complete when its last brace has come: whoever
// asks need not close his half, may send it in pieces and may send more behind
// it. The reply goes out in one write, without a newline. list_hostfwd answers
// in both shapes that its clients read: as slirp4netns documents it and as it
// does it.
//
// What is wrong is answered with {"error":{"desc":"bad request: ..."}}, in
// slirp4netns's words. Beyond those, "cause" tells why a rule could not be
// added or removed. A client that is slow or sends rubbish hurts nobody but
// itself: every connection has a goroutine, a limit of bytes and a deadline.
//
// Beyond slirp4netns, both addresses may be IPv6. "0.0.0.0" is IPv4 only, and
// so is an address that is left out.
//
// Who may connect is the business of the directory and of the umask: the
// socket is made as slirp4netns makes it.
package control
