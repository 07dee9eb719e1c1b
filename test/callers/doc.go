// Package callers tests taproot under the name slirp4netns with the programs
// that start it: podman, buildah, rootlesskit and bubblewrap of Debian, and a
// shell as a manual would show it. They run as an ordinary user in a
// laboratory (package lab), unchanged and without knowing; each test runs with
// slirp4netns first, which proves the test, and then with taproot.
//
// One test has podman the other way round: inside a guest, where it makes bridges
// and rules.
//
// Callers that Debian does not have are stood in for by the command lines they
// start and what they do with the process then: recorded_test.go.
//
// A container's file system is a few empty directories with the machine's /usr
// mounted into it, so no image is fetched from anywhere.
//
//	TAPROOT_BIN=$PWD/bin/taproot go test -count=1 -run TestPodman ./test/callers
//
// A program that is not installed, or that cannot run a container without any
// network on this machine, makes its tests skip with the reason, unless
// TAPROOT_MUST has the word programs.
package callers
