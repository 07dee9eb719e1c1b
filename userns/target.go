package userns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Target names the namespaces of an existing guest.
type Target struct {
	// PID is a process in the network namespace. It excludes NetNS.
	PID int

	// NetNS is the path of the network namespace: a bind mount of it (ip-netns(8)
	// and container runtimes make these), or /proc/PID/ns/net.
	NetNS string

	// UserNS is the path of the user namespace to join before. "" means the one
	// that the network namespace belongs to, which is the only one that helps
	// unless one above it is meant.
	UserNS string

	// NetOnly joins no user namespace, for callers who are capable in the network
	// namespace as they are.
	NetOnly bool
}

// String returns the target in words.
func (t Target) String() string {
	if t.PID != 0 {
		return "process " + strconv.Itoa(t.PID)
	}
	return t.NetNS
}

// A Namespace is the network namespace of an existing guest, held open: it
// stays what it is even if its process dies and its path goes. Its methods are
// safe for concurrent use, but for Close. It has no goroutine.
type Namespace struct {
	target Target
	id     inode    // of the network namespace
	net    *os.File // the network namespace
	user   *os.File // the user namespace to join, or nil
	owner  *os.File // the user namespace that net belongs to; nil if it is out of sight
	pidfd  *os.File // the process of the target or of its path, or nil
	pid    int      // of pidfd
}

// OpenTarget opens a target's namespaces. What it returns no longer depends on
// numbers and paths that may change hands. It needs Linux 5.3 for processes.
//
// An error with a remedy implements interface{ Hint() string }.
func OpenTarget(t Target) (*Namespace, error) {
	if (t.PID != 0) == (t.NetNS != "") {
		return nil, errors.New("target: want a process or a path")
	}
	n := &Namespace{target: t}
	if err := n.open(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Number returns the inode number of the network namespace, by which lsns(8) and
// the links in /proc/PID/ns call it.
func (n *Namespace) Number() uint64 { return n.id.number }

// open does the work of OpenTarget; what it leaves behind, Close cleans up.
func (n *Namespace) open() error {
	if err := n.openNet(); err != nil {
		return err
	}
	var err error
	if n.id, err = inodeOf(int(n.net.Fd())); err != nil {
		return err
	}
	if same, err := isOurs(n.net, "net"); err != nil || same {
		if err == nil {
			err = fmt.Errorf("%v: network namespace is the one we are in", n.target)
		}
		return err
	}
	if fd, err := unix.IoctlRetInt(int(n.net.Fd()), unix.NS_GET_USERNS); err == nil { // since Linux 4.9
		n.owner = os.NewFile(uintptr(fd), "user namespace")
	}
	if err := n.openUser(); err != nil {
		return err
	}
	n.unpin()
	return nil
}

// unpin opens the network namespace once more, if it was opened by way of a
// mount: a file open on a mount makes it busy, and umount(8) would be refused as
// long as we live. A socket inside leads to a file that is on no mount. What is
// not possible here is explained when it is joined for real.
func (n *Namespace) unpin() {
	if n.pid != 0 {
		return
	}
	sockets, err := n.Sockets(context.Background(), []Socket{{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM}})
	if err != nil {
		return
	}
	defer closeFiles(sockets)
	fd, err := unix.IoctlRetInt(int(sockets[0].Fd()), unix.SIOCGSKNS) // since Linux 4.10
	if err != nil {
		return
	}
	n.net.Close()
	n.net = os.NewFile(uintptr(fd), n.target.NetNS)
}

// openNet opens the network namespace, and the process that leads to it.
func (n *Namespace) openNet() error {
	t := &n.target
	if t.PID == 0 {
		// Relative paths must still mean the same when Wait looks again.
		path, err := filepath.Abs(t.NetNS)
		if err != nil {
			return err
		}
		t.NetNS = path
		if n.pid = procPID(path); n.pid == 0 {
			n.net, err = openNamespace(path, unix.CLONE_NEWNET)
			return err
		}
	} else {
		n.pid = t.PID
	}
	if err := n.openPID(); err != nil {
		return err
	}
	path := t.NetNS
	if path == "" {
		path = namespacePath(n.pid, "net")
	}
	var err error
	if n.net, err = openNamespace(path, unix.CLONE_NEWNET); err != nil {
		return n.explainPID(err)
	}
	// The number was the process's all the time if the process still lives.
	if ended(int(n.pidfd.Fd()), 0) {
		return fmt.Errorf("process %d: %w", n.pid, errEnded)
	}
	return nil
}

// openPID takes hold of the process.
func (n *Namespace) openPID() error {
	fd, err := unix.PidfdOpen(n.pid, 0)
	if err != nil {
		return pidError(n.pid, err)
	}
	n.pidfd = os.NewFile(uintptr(fd), "process")
	return nil
}

// openUser opens the user namespace to join, if there is one.
func (n *Namespace) openUser() error {
	if n.target.NetOnly {
		return nil
	}
	user := n.owner
	if n.target.UserNS != "" {
		f, err := openNamespace(n.target.UserNS, unix.CLONE_NEWUSER)
		if err != nil {
			if procPID(n.target.UserNS) == n.pid {
				err = n.explainPID(err)
			}
			return err
		}
		user = f
	}
	if user == nil {
		return nil // joining will say what is missing
	}
	n.user = user
	// Nobody can join the user namespace that he is in (setns(2)), and who is in
	// it has what he has.
	same, err := isOurs(user, "user")
	if err != nil || !same {
		return err
	}
	n.user = nil
	if user != n.owner {
		user.Close()
	}
	return nil
}

// Close releases the namespaces.
func (n *Namespace) Close() error {
	if n.user != n.owner {
		closeFile(n.user)
	}
	closeFile(n.owner)
	closeFile(n.net)
	closeFile(n.pidfd)
	return nil
}

// isOurs says whether a namespace is the one of that kind that we are in.
func isOurs(f *os.File, kind string) (bool, error) {
	id, err := inodeOf(int(f.Fd()))
	if err != nil {
		return false, err
	}
	ours, err := inodeAt("/proc/self/ns/" + kind)
	return id == ours, err
}

// openNamespace opens the namespace of a kind, CLONE_NEW*, at a path.
func openNamespace(path string, kind int) (*os.File, error) {
	// Whatever else it is, opening it shall not wait.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := checkKind(fd, kind); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// checkKind returns an error unless fd is a namespace of that kind.
func checkKind(fd, kind int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	want := namespaceKinds[kind]
	if st.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("not a namespace, want one of kind %s", want)
	}
	got, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE) // since Linux 4.11
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_NSTYPE", err)
	}
	if got != kind {
		return fmt.Errorf("namespace of kind %s, want %s", namespaceKinds[got], want)
	}
	return nil
}

// namespaceKinds are the names that /proc/PID/ns has for them.
var namespaceKinds = map[int]string{
	unix.CLONE_NEWCGROUP: "cgroup",
	unix.CLONE_NEWIPC:    "ipc",
	unix.CLONE_NEWNET:    "net",
	unix.CLONE_NEWNS:     "mnt",
	unix.CLONE_NEWPID:    "pid",
	unix.CLONE_NEWTIME:   "time",
	unix.CLONE_NEWUSER:   "user",
	unix.CLONE_NEWUTS:    "uts",
}

// namespacePath returns the path of a process's namespace.
func namespacePath(pid int, kind string) string {
	return "/proc/" + strconv.Itoa(pid) + "/ns/" + kind
}

// procPID returns the process that a path below /proc belongs to, another than
// this one; 0 if there is none.
func procPID(path string) int {
	rest, ok := strings.CutPrefix(path, "/proc/")
	if !ok {
		return 0
	}
	first, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(first)
	if err != nil || pid <= 0 || pid == os.Getpid() {
		return 0
	}
	return pid
}

// errEnded says that a process is not there any more.
var errEnded = fmt.Errorf("has ended: %w", syscall.ESRCH)
