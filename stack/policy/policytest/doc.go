// Package policytest is the address policy as a table: for each kind of
// destination and source what becomes of it. Three readers hold each other to it:
//
//	stack/policy      asks Rules.Check for each row
//	test/e2e          sends each row as raw frames out of a guest, whole and in
//	                  fragments, by TCP, UDP and echo, and looks at what comes back
//	                  and at what leaves the host
//	docs/policy.md    shows it to users, and may show nothing else
//
// The rows are about a guest with the default addresses, on a host with those of
// Host4 and Host6.
package policytest
