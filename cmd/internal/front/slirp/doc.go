// Package slirp is the command line of slirp4netns, for callers that exec it:
//
//	slirp4netns [OPTION]... PID TAPNAME
//	slirp4netns [OPTION]... --netns-type=path PATH TAPNAME
//	slirp4netns [OPTION]... --netns-type=tapfd FD
//	slirp4netns [OPTION]... --target-type=bess SOCKET
//
// It follows slirp4netns 1.2 and 1.3: options, their order of validation, the
// texts and exit statuses, the ready and exit descriptors, the API socket
// (package control), the addresses, and what the guest reaches. The host's
// loopback is open to the guest unless --disable-host-loopback is given.
//
// What is meant to be different:
//
//   - IPv6 needs no warning, and the API takes it too
//   - --outbound-addr6=INTERFACE looks up its own argument
//   - a clean end by a signal: the API socket is removed, then the process dies
//     by that signal
//   - a path alone is enough where the caller may join the user namespace that
//     it belongs to; slirp4netns joins none then
//   - an end, with status 0, when nothing holds the namespace any more
//   - an API socket at which somebody answers is not taken away
//   - the reason of a failure is one line of ours, with a hint where there is
//     one
//   - the sandbox is the one of our engine, which it has without being asked:
//     --enable-sandbox warns where it sees files nevertheless, --enable-seccomp
//     fails where it cannot have a filter
//
// The first process is the one that stays, as callers kill it by its id.
package slirp
