// Package userns makes the guest: a command in a user, network and mount
// namespace of its own, with the network set up and not yet running. It also
// joins namespaces that others have made.
//
// # Processes
//
// The supervisor is the process that calls Start. It makes two more:
//
//   - the stage, its own binary with StageName as argv[0], is born inside the
//     guest's namespaces by clone flags. It sets up mounts and the host name,
//     while the supervisor sets up the network, waits for Guest.Go, and becomes
//     the command by exec. With Config.PID it stays, as process 1 of the guest,
//     and the command is its child.
//   - the guard, a fork of the supervisor, stays in the supervisor's namespaces
//     and process group and does two things nobody else can do: it is a witness
//     of the signals that the whole process group got, and it kills what is
//     left in the guest's user namespace when the supervisor was killed. See
//     witness for why it is not a Go program.
//
// # Namespaces that exist
//
// OpenTarget opens the namespaces of somebody else's guest, by process or by path,
// and Guest.Namespace those of one made here. A Namespace is joined by a fork of
// the supervisor that makes raw system calls only, since a Go program has threads
// and setns(2) refuses those who have any (see entry). It opens files and makes
// sockets in there, sends them out and ends, in less than a millisecond. As it
// executes nothing and is not dumpable, nobody in the guest can trace it.
//
// # Networks
//
// What was opened inside belongs to the guest's network namespace for ever, and
// the kernel asks whoever uses it for capabilities over that namespace, which the
// owner of its user namespace has. So three descriptors are all that is fetched:
// the TUN driver's file, the directory of the devices' sysctls, and a
// NETLINK_ROUTE socket. The supervisor does the rest by them, in the same way for
// a guest of its own and for somebody else's (see network): it makes the device,
// and sets addresses, routes and sysctls. Mounts of somebody else's guest are left
// alone, and resolv.conf with them.
//
// Namespace.Wait follows the end. Our descriptors of the namespace, and of the
// device in it, would keep it for ever; so the end is that nobody else is left.
//
// # Diversions
//
// Namespace.Divert makes what the shortcut for TCP needs in there, by sockets of
// the same kind: see Diversion for what stands in the namespace then, and package
// stack/shortcut/mark for what frames and packets carry. The life of a diverted
// connection, with the chains of ruleset in brackets:
//
//	SYN of the guest      signed with a DSCP [output; forward for nested
//	                      networks], source kept [postrouting], device
//	the same SYN, back    recognised by its DSCP, to the listener [prerouting]
//	the listener's SYN    the connection gets its mark [output]
//	all that follows      inside, by the connection's mark [output; prerouting
//	                      for nested networks]; answers need nothing
//
// A SYN is signed only if the way back will be open: not of a socket that is
// bound to the device, which does not take packets from lo; not from an address
// that is nobody's; not if connection tracking does not know it, or the guest
// translates its addresses. What then goes by frames is unchanged, and so is all
// that is not TCP.
//
// Connection tracking is on in a namespace as long as somebody's rules ask for it,
// and ours do. It has a limit, see Diversion.Tracked.
//
// What Divert.Outlives asks for is an executor: a process that is told with each
// change what would undo all of it (a will), and does that when the supervisor is
// killed. Like the guard it is a fork that does not run Go; unlike the guard it has
// left the process group. See trustee, and ballast for how little memory it keeps.
//
// # How it ends
//
// The guest ends with its command: whatever then still lives in its user
// namespace (or in one below) is killed. The same happens when the supervisor
// or the guard is killed, at any moment:
//
//	killed        what follows
//	supervisor    the command gets its parent death signal; the guard reads
//	              the end of its socket and kills the rest
//	command       the supervisor reaps it, kills the rest, reports 128+n
//	guard         the supervisor reads the end of its socket and ends the guest
//
// Mounts live in the guest's mount namespace and vanish with its last process;
// nothing is written to a file system of the host. Those on files that the host
// replaces vanish earlier, and Guest.Keep makes them again: see covering.
//
// # Threads
//
// A parent death signal fires when the parent's thread ends, not its process.
// So processes are started from one goroutine that is locked to its thread and
// lives until Guest.Close. In the stage everything runs on one locked thread
// too: capabilities, the parent death signal and the final exec belong to it.
//
// # Signals
//
// The command stays in the supervisor's process group, so that pipelines and
// job control work. What the terminal sends, it sends to the whole group, so
// the command has it already; what was sent to the supervisor alone must be
// passed on. The supervisor cannot tell the two apart, the guard can: it is in
// the same group with all signals blocked. See relay for why asking it is free of
// races, and signalSet.list for what Go's runtime does not let us keep.
package userns
