// Package e2e tests taproot as its users run it: the program itself, started
// by an ordinary user, with real clients inside the guest and servers in
// another network namespace. See package lab for how that is arranged.
//
// One test alone, against a taproot that is already built:
//
//	TAPROOT_BIN=$PWD/bin/taproot go test -count=1 -run TestHTTP ./test/e2e
//
// TestBehaviour holds the ways of TCP against the kernel's own forwarding, by a
// table of scripts. With TAPROOT_SLOW=1 windows stay closed for a minute in it,
// TestSuspended suspends for one, and TestPublishHalfOpen has 10,000 clients. SOAKTIME and TAPROOT_STARTS say how long TestSoak
// lasts and how often TestStarts starts; make soak sets all three.
//
// The clients are those of Debian (curl, dig, ping, traceroute, nc, git,
// iperf3, udhcpc, dhclient, rdisc6); everything else is the test binary itself
// (programs_test.go inside the guest, servers_test.go outside). A test whose
// client is not installed is skipped, unless TAPROOT_MUST has the word
// programs.
//
// After every test nothing may be left of it: no process, no mount, no file.
package e2e
