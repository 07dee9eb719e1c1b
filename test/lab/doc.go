// Package lab builds networks out of namespaces for tests, as an ordinary
// user and without any external program.
//
// A laboratory has three network namespaces:
//
//	host      stands for the user's machine. Taproot runs here, as a user who
//	          owns nothing of it.
//	router    one hop between the two; it also plays the parts of the Internet
//	          that do not answer (see the addresses in topology.go).
//	outside   the servers; a listener made there is an ordinary [net.Listener]
//	          of the test.
//
//	host 192.0.2.2 ── 192.0.2.1 router 198.51.100.254 ── 198.51.100.1 outside
//	     2001:db8:0:1::2 ── ::1          2001:db8:0:2::fe ── 2001:db8:0:2::1
//
// # Who runs as whom
//
// A test binary that calls [Main] from its TestMain starts itself again inside
// a user namespace L, in which it is root, and runs the tests there:
//
//	test binary (as go test started it): builds bin/taproot, makes L
//	└─ init   (root of L): private mounts, reaps orphans, clears up at the end
//	   └─ tests (root of L): makes laboratories, runs the tests
//	      └─ commands: as root of L, or as an ordinary user of the host
//
// The ordinary user is uid 1000 of one more user namespace U below L. A process
// of U has no capability over L and so none over the host namespace, whatever
// its number is called outside: exactly what an ordinary user is on a machine. Each
// command has its own U, but for those of a [Session].
//
// Started by real root, as in CI, L is mapped to numbers that own nothing, and a
// private mount namespace offers /dev/net/tun to everybody; the machine itself
// is not changed.
//
// # Skipping
//
// What a machine does not offer makes a test skip, with a [probe.Unsupported]
// as the reason. TAPROOT_MUST=netns,ipv6,tun (see [Need]) turns such skips into
// failures.
//
// # Environment
//
//	TAPROOT_BIN   the taproot to test; unset, it is built from this module
//	TAPROOT_MUST  features that must not be skipped, separated by commas
package lab
