package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
	"taproot/userns/sandbox"
)

// captured is what an engine tries that somebody has taken over. It is started
// as any other and confined by the same function.
type captured struct {
	directory int    // the descriptor of one that it was given by mistake
	path      string // of the directory, for who gives it
	victim    int    // a process outside
	listener  string // of TCP on the loopback
	abstract  string // the name of a Unix socket
}

// errNothing says that there is nothing to be seen.
var errNothing = errors.New("nothing")

// attempts are the names in the table of docs/SECURITY.md.
func (c captured) attempts() map[string]func() error {
	return map[string]func() error{
		"open":            func() error { return c.open(unix.AT_FDCWD, "/etc/passwd", unix.O_RDONLY) },
		"open below":      func() error { return c.open(c.directory, "secret", unix.O_RDONLY) },
		"open above":      func() error { return c.open(c.directory, "..", unix.O_RDONLY) },
		"list":            func() error { return c.open(unix.AT_FDCWD, "/", unix.O_RDONLY|unix.O_DIRECTORY) },
		"create":          func() error { return c.open(unix.AT_FDCWD, "/file", unix.O_WRONLY|unix.O_CREAT) },
		"create below":    func() error { return c.open(c.directory, "file", unix.O_WRONLY|unix.O_CREAT) },
		"change mode":     func() error { return unix.Fchmod(c.directory, 0o700) },
		"execute":         func() error { return unix.Exec("/bin/sh", []string{"sh"}, nil) },
		"start a process": startNothing,
		"signal":          func() error { return unix.Kill(c.victim, unix.SIGCONT) },
		"signal all":      func() error { return unix.Kill(-1, unix.SIGCONT) },
		"trace":           func() error { return unix.PtraceSeize(c.victim) },
		"read memory":     c.readMemory,
		"process":         func() error { _, err := unix.PidfdOpen(c.victim, 0); return err },
		"mount":           func() error { return unix.Mount("tmpfs", "/", "tmpfs", 0, "") },
		"unmount":         func() error { return unix.Unmount("/", unix.MNT_DETACH) },
		"namespace":       func() error { return unix.Unshare(unix.CLONE_NEWNET) },
		"capability":      gainCapability,
		"abstract socket": c.connectAbstract,
		"netlink":         func() error { return makeSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) },
		"packet socket":   func() error { return makeSocket(unix.AF_PACKET, unix.SOCK_RAW, 0) },
		"raw socket":      func() error { return makeSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
		"terminal": func() error {
			key := byte('x')
			return ioctl(2, unix.TIOCSTI, unsafe.Pointer(&key))
		},
		"machine code": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			return err
		},
		"kernel": func() error {
			_, _, errno := unix.Syscall(unix.SYS_BPF, 0, 0, 0)
			return orNil(errno)
		},
		"standard input": func() error {
			if n, err := os.Stdin.Read(make([]byte, 1)); n == 0 && errors.Is(err, io.EOF) {
				return errNothing
			}
			return nil
		},
		"environment": func() error {
			if slices.ContainsFunc(os.Environ(), func(v string) bool { return !strings.HasPrefix(v, "GO") }) {
				return nil
			}
			return errNothing
		},
		"name of the machine": func() error {
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return err
			}
			if u.Nodename[0] == 0 {
				return errNothing
			}
			return nil
		},
		"connect": func() error {
			conn, err := net.Dial("tcp4", c.listener)
			if err != nil {
				return err
			}
			return conn.Close()
		},
		"send": func() error { return makeSocket(unix.AF_INET6, unix.SOCK_DGRAM, 0) },
	}
}

func (c captured) open(dir int, path string, flags int) error {
	fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (c captured) readMemory() error {
	b := make([]byte, 8)
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	_, err := unix.ProcessVMReadv(c.victim, local, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: len(b)}}, 0)
	return err
}

func (c captured) connectAbstract() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return unix.Connect(fd, &unix.SockaddrUnix{Name: c.abstract})
}

func makeSocket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// startNothing forks. The child ends at once.
func startNothing() error {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return orNil(errno)
}

func gainCapability() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	all := [2]unix.CapUserData{{Effective: 1, Permitted: 1}}
	return unix.Capset(&header, &all[0])
}

func ioctl(fd, request int, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument))
	return orNil(errno)
}

func orNil(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// capturedEngine is an engine that does as it is told: each hello has the name of
// an attempt.
func capturedEngine() int {
	w := &wire{os.NewFile(wireFD, "supervisor")}
	for confined := false; ; confined = true {
		m, files, err := w.receive()
		if err != nil {
			return 0
		}
		if m.Hello == nil || len(files) != 1 {
			return 2
		}
		c := captured{directory: int(files[0].Fd())}
		words := strings.SplitN(m.Hello.Version, "\n", 4)
		_, _ = fmt.Sscan(words[0], &c.victim)
		c.listener, c.abstract = words[1], words[2]
		switch {
		case confined:
		case m.Hello.Protocol == withFilter:
			_, err = confine(SandboxRequire)
		default:
			_, err = sandbox.Files()
		}
		if err != nil {
			return 3
		}
		_ = w.send(message{Failed: outcome(c.attempts()[words[3]]())})
	}
}

// What a captured engine has given up.
const (
	withFilter    = 1
	withoutFilter = 2
)

// outcome is how the table calls it.
func outcome(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "works"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// TestCaptured holds docs/SECURITY.md to what an engine can do.
func TestCaptured(t *testing.T) {
	table := promises(t)
	names := slices.Sorted(maps.Keys(captured{}.attempts()))
	if got := slices.Sorted(maps.Keys(table)); !slices.Equal(got, names) {
		t.Fatalf("docs/SECURITY.md has rows %q, want %q", got, names)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	abstract := fmt.Sprintf("@taproot-test-%d", os.Getpid())
	unixListener, err := net.Listen("unix", abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := captured{path: path, victim: os.Getpid(), listener: listener.Addr().String(), abstract: abstract}
	ctx, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	l := &launcher{threads: newThreads(ctx, &wg)}
	program := staticBuild(t)
	for i, filter := range []int{withFilter, withoutFilter} {
		e := &capturing{captured: c, filter: filter, start: func() (*process, error) {
			return l.start(launch{stderr: os.Stderr, binary: program})
		}}
		for _, name := range names {
			want := table[name][i]
			if want == "-" { // not the same on all machines
				continue
			}
			if got := e.try(t, name); got != want {
				t.Errorf("%s, with the filter %v: got %s, want %s as docs/SECURITY.md has it", name, filter == withFilter, got, want)
			}
		}
		e.stop()
	}
}

// A capturing has engines try things, one after the other, until it is killed for
// one.
type capturing struct {
	captured
	filter  int
	start   func() (*process, error)
	process *process // nil before the first and after each that was killed
}

func (c *capturing) stop() {
	if c.process != nil {
		c.process.stop()
		c.process = nil
	}
}

// try has an engine try something and returns what became of it.
func (c *capturing) try(t *testing.T, name string) string {
	t.Helper()
	if c.process == nil {
		p, err := c.start()
		if err != nil {
			t.Fatal(err)
		}
		c.process = p
		t.Cleanup(p.stop)
		if missing := skipped(p.steps); missing != "" {
			t.Skipf("this machine does not offer a whole sandbox: %s", missing)
		}
	}
	p := c.process
	dir, err := os.Open(c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	text := fmt.Sprintf("%d\n%s\n%s\n%s", c.victim, c.listener, c.abstract, name)
	if err := p.wire.send(message{Hello: &hello{Protocol: c.filter, Version: text}}, dir); err != nil {
		t.Fatal(err)
	}
	if err := p.wire.file.SetReadDeadline(time.Now().Add(settle.Patience)); err != nil {
		t.Fatal(err)
	}
	m, _, err := p.wire.receive()
	if err == nil {
		return m.Failed
	}
	<-p.exited
	exit := (*exec.ExitError)(nil)
	if errors.As(p.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == unix.SIGSYS {
		c.process = nil
		return "killed"
	}
	t.Fatalf("%s: %v, %v", name, err, p.err)
	return ""
}

// promises are the rows of the table in docs/SECURITY.md: with the filter, and
// without.
func promises(t *testing.T) map[string][2]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][2]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		name := strings.Trim(cells[1], " `")
		rows[name] = [2]string{strings.TrimSpace(cells[3]), strings.TrimSpace(cells[4])}
	}
	return rows
}

// staticBuild returns this test's binary as taproot is built, without cgo: nil if
// it is, or another one if the race detector has brought cgo in.
func staticBuild(t *testing.T) *build {
	t.Helper()
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); errno != unix.ENOTSUP {
		return nil
	}
	path := filepath.Join(t.TempDir(), "test")
	cmd := exec.Command("go", "test", "-c", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	b, err := openBinary(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.closeUnless(nil) })
	return b
}
