// Package api is how others look into a running instance and change it: HTTP
// with JSON on a Unix socket.
//
//	GET    /v1/info               what the instance is and how it does
//	GET    /v1/rules              published ports, with counters
//	POST   /v1/rules              publish
//	GET    /v1/rules/{id}
//	DELETE /v1/rules/{id}?kill=1  unpublish, and end its connections too
//	GET    /v1/flows?FILTER       live flows
//	DELETE /v1/flows?FILTER       end flows
//	GET    /v1/stats              all counters
//	GET    /v1/events             what happens, one JSON object each line
//	POST   /v1/restart            another engine, of another build perhaps
//	GET    /metrics               counters in the text format of Prometheus
//
// docs/openapi.json says what goes in and comes out; a test holds it against the
// handlers. Within v1 fields are added and never taken away or given another
// meaning.
//
// # Who may
//
// The socket is made with mode 0600, its directory with 0700, and the kernel's
// word about the other end (SO_PEERCRED, unix(7)) must be that it has our user
// id, or is root. There are no other rights to tell apart: whoever may connect
// could kill us as well. That may be the command that is our guest, which keeps
// the user's files; who does not want that has no socket.
//
// # Who is believed
//
// Nobody. Requests are limited in size and time, and what is unknown in them is
// refused. A client that is slow or silent costs a connection, of which there are
// 1,024, and delays nobody else.
//
// Counters and flows are the engine's, and are asked for each time. While there
// is no engine, what only it knows is an error or left out: never an old value.
//
// # Names
//
// An instance without a path of its own has its socket in Directory, as
// NAME.sock. A name that a dead instance has left is taken over, one that lives
// is not. Whoever makes or removes a socket holds a lock (flock(2)) on the
// directory.
package api
