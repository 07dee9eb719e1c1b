// Package front turns a command line into an engine.Config and runs it.
//
// The command line here is the native one:
//
//	taproot run [OPTION]... [--] [COMMAND [ARG]...]
//	taproot attach [OPTION]... PID|PATH|NAME
//	taproot ctl [NAME] COMMAND [OPTION]... [ARG]...
//	taproot ls [--json]
//	taproot check [--json]
//	taproot version
//	taproot completion SHELL
//	taproot help [COMMAND]
//
// Those of other programs, under whose names taproot runs too, are packages of
// their own: slirp and pasta.
//
// Options of `run` end at the first operand, so that the command's own options
// need no "--" before them. No option changes what another one means, and the
// order of options does not matter.
//
// `run` and `attach` have a socket (api.Server) while they last, and `ctl` and
// `ls` are clients of it. A NAME before the command of `ctl` is turned into the
// option --instance before cobra looks at anything.
//
// Everything a user reads is written here and nowhere below: help texts by hand
// (help.go), errors as "taproot: operation object: cause" and, when the error
// has a method Hint, a second line "taproot: hint: what to do".
//
// Exit statuses: 2 for a command line that makes no sense, 125 for a failure of
// taproot itself, 126 and 127 for a command that cannot be executed or found,
// and otherwise the command's own, which is 128+n after signal n. `attach` has
// no command: 0 says that its namespace is gone, and a signal ends it.
package front
