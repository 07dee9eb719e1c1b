// Package plan chooses the guest's network: which addresses and routes the
// guest's interface gets, and who the gateway is on it. It reads the host's
// addresses and routes and changes nothing.
//
// There are three ways to choose, one type each:
//
//	Offsets  a private network, everything at fixed places in it (native)
//	Slirp    the same places, with what slirp4netns does differently
//	Copy     the host's own addresses and routes (pasta)
//
// A Plan is the result, with all choices made. Whoever follows the host asks
// again when it has changed.
package plan
