// Package probe finds out what this kernel allows this user, by trying.
//
// The rows, in the order of All; the first two are what `taproot run` cannot do
// without:
//
//	user namespaces  Linux 3.8   a child in new user, network and mount namespaces
//	                             makes its mounts private
//	tun              Linux 2.6   the child makes a TAP device
//	offloads         Linux 6.2   what that device agrees to
//	subordinate ids  Linux 3.8   newuidmap, newgidmap and ranges for the user
//	ping             Linux 3.0   an ICMP datagram socket on the host
//	low ports        Linux 4.11  the sysctl, or the capability
//	ipv6             Linux 2.6   a socket, and a route to elsewhere
//	resolvers        -           resolv.conf
//	landlock         Linux 5.13  the ABI's number
//	seccomp          Linux 4.14  the action that kills the process
//	tproxy           Linux 4.19  the child makes the rules of the shortcut for
//	                             TCP, with all that these need of nf_tables
//	sandbox          Linux 4.6   a process of ours starts in namespaces of its own
//	                             with an empty root, as the engine does
//
// The child is this program under the name ChildName, for which main has to call
// ChildMain. Nothing outside its namespaces is changed, and no packet leaves
// the machine.
//
// A Result carries a remedy; Unsupported is the same as an error.
package probe
