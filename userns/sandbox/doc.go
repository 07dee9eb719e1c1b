// Package sandbox gives up what a process no longer needs. What is given up
// does not come back, for the whole process with all its threads.
//
// The steps, in the order in which they must be taken:
//
//	Files    no file can be opened, made, removed or executed any more, not
//	         even below a directory that is open; no signals and no abstract
//	         Unix sockets to processes outside (Landlock)
//	Seccomp  whoever makes a system call that is not one of the engine's work
//	         is killed (a filter that lists what is allowed)
//
// Forgo is for processes that have other work: it forbids what none of ours does.
//
// Each step is all or nothing: its error means that it was not taken, and a
// caller that promised it must end. Neither needs privileges or a namespace.
// Both set no_new_privs.
//
// # What stays
//
// Descriptors that are open: reading and writing, accepting, asking how much has
// arrived. New sockets of IPv4 and IPv6. Threads, for which Go's runtime maps
// memory and calls clone.
//
// Landlock does not know chdir, stat, chmod, chown, setxattr and utime
// (landlock(7)); Seccomp, and an empty root directory, take these.
//
// # What must be done before
//
// Package time reads the time zone when a local time is first printed, and net
// reads resolv.conf when a name is first looked up. Either has to have happened
// before Files, or finds nothing: times are in UTC then.
package sandbox
