package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// doSeccomp takes the step and works on.
func doSeccomp([]string) error {
	if err := Seccomp(); err != nil {
		return err
	}
	return work()
}

// doForgo takes the other step, works on and starts a program.
func doForgo([]string) error {
	if err := Forgo(); err != nil {
		return err
	}
	return errors.Join(work(), exec.Command("/proc/self/exe", "-test.run=^$").Run())
}

// doCall makes the system call with a number and a first argument.
func doCall(args []string) error {
	var words [2]uint64
	for i, arg := range args {
		var err error
		if words[i], err = strconv.ParseUint(arg, 0, 64); err != nil {
			return err
		}
	}
	if err := Seccomp(); err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(uintptr(words[0]), uintptr(words[1]), 0, 0)
	return fmt.Errorf("system call %d: %w", words[0], errno)
}

// doClone3 wants what a kernel without clone3 answers, so that the C library
// goes on with clone.
func doClone3([]string) error {
	if err := Seccomp(); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		return fmt.Errorf("clone3: got %v, want %v", errno, unix.ENOSYS)
	}
	return nil
}

func TestSeccompLetsWork(t *testing.T) {
	needFilter(t)
	succeed(t, child(self(t), "seccomp"))
	succeed(t, child(self(t), "clone3"))
}

// TestSeccompKills makes system calls that nobody has to make, with arguments
// that would not hurt.
func TestSeccompKills(t *testing.T) {
	needFilter(t)
	for name, number := range map[string]uint32{
		"execve": unix.SYS_EXECVE, "execveat": unix.SYS_EXECVEAT, "ptrace": unix.SYS_PTRACE, "process_vm_readv": unix.SYS_PROCESS_VM_READV,
		"pidfd_open": unix.SYS_PIDFD_OPEN, "pidfd_getfd": unix.SYS_PIDFD_GETFD, "pidfd_send_signal": unix.SYS_PIDFD_SEND_SIGNAL,
		"mount": unix.SYS_MOUNT, "umount2": unix.SYS_UMOUNT2, "pivot_root": unix.SYS_PIVOT_ROOT, "chroot": unix.SYS_CHROOT,
		"open_tree": unix.SYS_OPEN_TREE, "move_mount": unix.SYS_MOVE_MOUNT, "setns": unix.SYS_SETNS, "unshare": unix.SYS_UNSHARE,
		"open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "init_module": unix.SYS_INIT_MODULE, "kexec_load": unix.SYS_KEXEC_LOAD,
		"bpf": unix.SYS_BPF, "io_uring_setup": unix.SYS_IO_URING_SETUP, "keyctl": unix.SYS_KEYCTL, "userfaultfd": unix.SYS_USERFAULTFD,
		"chdir": unix.SYS_CHDIR, "fchmod": unix.SYS_FCHMOD, "openat2": unix.SYS_OPENAT2, "memfd_create": unix.SYS_MEMFD_CREATE, "seccomp": unix.SYS_SECCOMP,
	} {
		killed(t, name, number, 0)
	}
	for _, flag := range []uint64{
		unix.CLONE_NEWCGROUP, unix.CLONE_NEWIPC, unix.CLONE_NEWNET, unix.CLONE_NEWNS,
		unix.CLONE_NEWPID, unix.CLONE_NEWUSER, unix.CLONE_NEWUTS, 0,
	} {
		killed(t, fmt.Sprintf("clone %#x", flag), unix.SYS_CLONE, flag|uint64(unix.SIGCHLD))
		killed(t, fmt.Sprintf("clone %#x of a thread", flag|1), unix.SYS_CLONE, threadFlags|flag|1)
	}
	killed(t, "kill", unix.SYS_KILL, 1<<22) // more than there can be
	killed(t, "prctl", unix.SYS_PRCTL, unix.PR_SET_NAME)
	if foreignABI != 0 {
		killed(t, "the other ABI", foreignABI|unix.SYS_GETPID, 0)
	}
}

// run is what the kernel does with a filter.
func (p program) run(number uint32, args [6]uint64) uint32 {
	data := [16]uint32{number, arch}
	for i, a := range args {
		data[4+2*i], data[5+2*i] = uint32(a), uint32(a>>32)
	}
	var register uint32
	for at := 0; ; at++ {
		i, taken := p[at], false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			register = data[i.K/4]
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			register &= i.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ:
			taken = register == i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JGE:
			taken = register >= i.K
		}
		at += int(i.Jf)
		if taken {
			at += int(i.Jt) - int(i.Jf)
		}
	}
}

// TestFilter asks the filter for each number there is, and for arguments.
func TestFilter(t *testing.T) {
	needFilter(t)
	p, err := engineFilter()
	if err != nil {
		t.Fatal(err)
	}
	limited := []uint32{}
	for _, r := range restricted() {
		limited = append(limited, r.number)
	}
	for number := range uint32(1024) {
		want := uint32(kill)
		switch {
		case slices.Contains(limited, number):
			continue
		case slices.Contains(allowed(), number):
			want = allow
		case slices.Contains(refused(), number):
			want = refuse
		case number == unix.SYS_CLONE3:
			want = unknown
		}
		if got := p.run(number, [6]uint64{}); got != want {
			t.Errorf("system call %d: got %#x, want %#x", number, got, want)
		}
	}
	own := uint64(os.Getpid())
	for _, tt := range []struct {
		name   string
		number uint32
		args   [6]uint64
		want   uint32
	}{
		{"TCP", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC, 0}, allow},
		{"UDP of IPv6", unix.SYS_SOCKET, [6]uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, allow},
		{"echo", unix.SYS_SOCKET, [6]uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6}, allow},
		{"raw socket", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, refuse},
		{"multipath TCP", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, refuse},
		{"SCTP", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, refuse},
		{"Unix socket", unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, refuse},
		{"netlink", unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_DGRAM, 0}, refuse},
		{"packet socket", unix.SYS_SOCKET, [6]uint64{unix.AF_PACKET, unix.SOCK_DGRAM, 0}, refuse},
		{"virtual machines' socket", unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, refuse},
		{"kernel's ciphers", unix.SYS_SOCKET, [6]uint64{unix.AF_ALG, unix.SOCK_DGRAM, 0}, refuse},
		{"thread", unix.SYS_CLONE, [6]uint64{threadFlags}, allow},
		{"thread with TLS", unix.SYS_CLONE, [6]uint64{threadFlagsTLS}, allow},
		{"process", unix.SYS_CLONE, [6]uint64{uint64(unix.SIGCHLD)}, kill},
		{"thread in a network namespace", unix.SYS_CLONE, [6]uint64{threadFlags | unix.CLONE_NEWNET}, kill},
		{"memory", unix.SYS_MMAP, [6]uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}, allow},
		{"code", unix.SYS_MMAP, [6]uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC}, kill},
		{"memory to code", unix.SYS_MPROTECT, [6]uint64{4096, 4096, unix.PROT_EXEC}, kill},
		{"signal to a thread of ours", unix.SYS_TGKILL, [6]uint64{own, 1, 1}, allow},
		{"signal to another's", unix.SYS_TGKILL, [6]uint64{own + 1, 1, 1}, kill},
		{"signal to all", unix.SYS_KILL, [6]uint64{math.MaxUint64, 9}, kill},
		{"limits", unix.SYS_PRLIMIT64, [6]uint64{0, 7, 0, 4096}, allow},
		{"limits to be set", unix.SYS_PRLIMIT64, [6]uint64{0, 7, 4096, 0}, kill},
		{"limits to be set from far away", unix.SYS_PRLIMIT64, [6]uint64{0, 7, 1 << 32, 0}, kill},
		{"limits of another", unix.SYS_PRLIMIT64, [6]uint64{own + 1, 7, 0, 4096}, kill},
		{"arrived", unix.SYS_IOCTL, [6]uint64{3, unix.TIOCINQ}, allow},
		{"terminal's input", unix.SYS_IOCTL, [6]uint64{2, unix.TIOCSTI}, kill},
		{"another device", unix.SYS_IOCTL, [6]uint64{3, unix.TUNSETIFF}, kill},
		{"owner of signals", unix.SYS_FCNTL, [6]uint64{3, unix.F_SETOWN, 1}, kill},
		{"descriptor", unix.SYS_FCNTL, [6]uint64{3, unix.F_DUPFD_CLOEXEC, 1}, allow},
		{"option of TCP", unix.SYS_SETSOCKOPT, [6]uint64{3, unix.IPPROTO_TCP, unix.TCP_NODELAY}, allow},
		{"option of TIPC", unix.SYS_SETSOCKOPT, [6]uint64{3, unix.SOL_TIPC, 1}, kill},
	} {
		if got := p.run(tt.number, tt.args); got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

// TestForgo wants the other filter to kill for its list only.
func TestForgo(t *testing.T) {
	needFilter(t)
	p, err := commonFilter()
	if err != nil {
		t.Fatal(err)
	}
	for number := range uint32(1024) {
		want := uint32(allow)
		if slices.Contains(neededByNobody(), number) {
			want = kill
		}
		if got := p.run(number, [6]uint64{}); got != want {
			t.Errorf("system call %d: got %#x, want %#x", number, got, want)
		}
	}
	succeed(t, child(self(t), "forgo"))
}

// killed runs a child that makes a system call and must be killed for it.
func killed(t *testing.T, name string, number uint32, argument uint64) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		err := child(self(t), "call", fmt.Sprint(number), fmt.Sprint(argument)).Run()
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			t.Fatalf("got %v, want %v", err, unix.SIGSYS)
		}
		if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGSYS {
			t.Errorf("got %v, want %v", exit, unix.SIGSYS)
		}
	})
}

// needFilter skips where there is no filter for the processor.
func needFilter(t *testing.T) {
	t.Helper()
	if arch == 0 {
		t.Skip(errArch)
	}
}
