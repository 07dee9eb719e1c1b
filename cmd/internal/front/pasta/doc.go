// Package pasta is the command line of pasta, for callers that exec it:
//
//	pasta [OPTION]... [COMMAND [ARG]...]
//	pasta [OPTION]... PID
//	pasta [OPTION]... --netns PATH|NAME
//
// It follows pasta of July 2026: modes, options, port specifications, the life
// of the processes, exit statuses, and the words that callers look for.
//
// # Life
//
// A command ends as in `taproot run`, and so does the network. An existing
// namespace is served in the background, unless told otherwise, by a process
// that the caller did not start:
//
//	launcher     what the caller has started; parses the command line, starts
//	             the supervisor, waits for its byte, exits with 0
//	supervisor   joins the namespace, starts the engine, opens the ports, writes
//	             the pid file, gives up the caller's standard streams, sends the
//	             byte; leaves when the namespace is gone
//
// When the supervisor fails before that, it says why and the launcher exits
// with its status. When the launcher dies before that, the supervisor leaves.
// So the caller sees one program that is ready when it returns.
//
// # Ports
//
//	spec    = "none" | [address ["%" interface] "/" | "%" interface "/"] [ports]
//	ports   = entry *("," entry)                     none at all means "all"
//	entry   = range [":" [target "/"] range]         as many ports there
//	        | range ":" target                       the same ports there
//	        | "~" range                              not these
//	        | "all" [":" target]                     all but those for clients
//	        | "auto"                                 only while somebody listens
//	range   = port ["-" port]
//
// Exclusions alone stand for all other ports but those for clients. These and
// "all" are weak: one port that can be bound is enough. An IPv6 target whose
// text could be the end of a listening address needs brackets.
//
// # Run time
//
// pesto, of which PestoMain is the command line, changes the ports of a pasta
// that has a control socket:
//
//	pesto [-s] [-A | -D | -C HOST|SPLICE | -t|-u|-T|-U SPEC]... PATH
//
// It asks for the rules, thinks through what they shall be, and then removes and
// adds, so that what stays has no interruption. What could not be added is an
// error, and the rules are put back. The manual page has the rest.
//
// # Differences
//
//   - resolv.conf, and the host's addresses and routes, are followed while the
//     guest runs (--no-follow)
//   - --fd is refused
//   - the socket of --conf-path speaks taproot's API (package api) and not the
//     original's binary protocol
//   - automatic UDP ports leave out the ports for clients, unless named
//   - an empty port specification is an error, not "all"
//   - root stays root without --runas; what reads the guest has no privileges
//     whoever starts it
//   - in the background messages go to the system's log or the log file
package pasta
