// Demo shows taproot at work on any machine with git, without the Internet:
//
//	go run ./test/demo bin/taproot
//
// It makes a small repository in a temporary directory, serves it by HTTP on
// the host's loopback, and lets git clone it inside a new network namespace, by
// name, through the gateway. Nothing is left behind.
package main
