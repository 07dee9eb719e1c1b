//go:build amd64 || arm64

package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// allowed returns the numbers of system calls that the engine makes with any
// arguments: those of Go's runtime, of sockets, and of moving bytes between
// descriptors.
func allowed() []uint32 {
	return []uint32{
		// Bytes.
		unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_SPLICE, unix.SYS_PIPE2,
		unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_RECVMMSG, unix.SYS_SENDMMSG,
		// Waiting.
		unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
		unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_SETTIME,
		// Sockets.
		unix.SYS_BIND, unix.SYS_CONNECT, unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_SHUTDOWN,
		unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT,
		// Descriptors.
		unix.SYS_CLOSE, unix.SYS_FSTAT,
		// Go's runtime, and the C library's in a build with cgo (rseq, set_robust_list).
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
		unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETPID, unix.SYS_GETTID,
		unix.SYS_MADVISE, unix.SYS_MUNMAP, unix.SYS_GETRANDOM, unix.SYS_SYSINFO, // the last for how much memory there is
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
		unix.SYS_RSEQ, unix.SYS_SET_ROBUST_LIST, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		// The C library's malloc and realloc: memory that is never executable, and
		// mappings that keep their protection when they are moved.
		unix.SYS_BRK, unix.SYS_MREMAP,
	}
}

// refused returns the numbers of system calls that find nothing rather than
// kill: Go's library looks for files that it can do without, the list of groups
// or the kernel's version, when it first needs them.
func refused() []uint32 {
	return []uint32{unix.SYS_OPENAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_READLINKAT, unix.SYS_FACCESSAT, unix.SYS_UNAME}
}

// Flags with which threads are made: by Go, by Go on amd64, and by the C library.
const (
	threadFlags    = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	threadFlagsTLS = threadFlags | unix.CLONE_SETTLS
	threadFlagsC   = threadFlagsTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID
)

// restricted returns the system calls that are allowed with some arguments.
func restricted() []rule {
	self := uint32(os.Getpid())
	const socketKind = 0xf // the rest is SOCK_NONBLOCK and SOCK_CLOEXEC
	return []rule{
		{unix.SYS_SETSOCKOPT, []check{{argument: 1, values: []uint32{
			unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_IPV6, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.SOL_PACKET,
		}}}, kill},
		// How much has arrived (tcp(7), "Ioctls").
		{unix.SYS_IOCTL, []check{{argument: 1, values: []uint32{unix.TIOCINQ, unix.TIOCOUTQ}}}, kill},
		{unix.SYS_FCNTL, []check{{argument: 1, values: []uint32{
			unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC, unix.F_GETPIPE_SZ, unix.F_SETPIPE_SZ,
		}}}, kill},
		// Of the network, and nothing else: no netlink, no raw or packet socket, no
		// Unix socket by which to reach somebody.
		{unix.SYS_SOCKET, []check{
			{argument: 0, values: []uint32{unix.AF_INET, unix.AF_INET6}},
			{argument: 1, mask: socketKind, values: []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM}},
			{argument: 2, values: []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}},
		}, refuse},
		// No memory is both written by us and executed.
		{unix.SYS_MMAP, []check{{argument: 2, mask: unix.PROT_EXEC, values: []uint32{0}}}, kill},
		{unix.SYS_MPROTECT, []check{{argument: 2, mask: unix.PROT_EXEC, values: []uint32{0}}}, kill},
		// Threads and nothing else: a process or a namespace has more rights.
		{unix.SYS_CLONE, []check{{argument: 0, values: []uint32{threadFlags, threadFlagsTLS, threadFlagsC}}}, kill},
		// Signals to ourselves, by which Go preempts.
		{unix.SYS_TGKILL, []check{{argument: 0, values: []uint32{self}}}, kill},
		{unix.SYS_KILL, []check{{argument: 0, values: []uint32{self}}}, kill},
		// Our own limits, to be read.
		{unix.SYS_PRLIMIT64, []check{
			{argument: 0, values: []uint32{0, self}},
			{argument: 2, values: []uint32{0}}, {argument: 2, upper: true, values: []uint32{0}}, // no pointer to new ones
		}, kill},
		// Go's runtime names its mappings (Linux 5.17); that gives nobody anything.
		{unix.SYS_PRCTL, []check{{argument: 0, values: []uint32{unix.PR_SET_VMA}}}, kill},
	}
}

// neededByNobody returns the numbers of system calls that kill in every process
// of ours that lives on, whatever it does. Where a newer call does the same as an
// older one, both are there.
func neededByNobody() []uint32 {
	return []uint32{
		// Other processes, and files past their directories' permissions.
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_LOOKUP_DCOOKIE,
		// The kernel and the machine.
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
		unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_QUOTACTL,
		// Large interfaces of the kernel.
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	}
}
