package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidError explains why there is no descriptor of a process.
func pidError(pid int, err error) error {
	text := fmt.Errorf("process %d: %w", pid, err)
	switch {
	case errors.Is(err, syscall.ENOSYS):
		return &hinted{text, "attaching to a process needs Linux 5.3; give the path of its network namespace"}
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOENT): // by kernel version
		if pid > 0 && exists("/proc/"+strconv.Itoa(pid)) {
			return &hinted{text, "that is a thread, give the process that it belongs to"}
		}
	}
	return text
}

// endingTime is far longer than a process takes from giving up its namespaces to
// its end.
const endingTime = 100 * time.Millisecond

// explainPID explains why a namespace of the target's process was not opened.
func (n *Namespace) explainPID(err error) error {
	if n.pidfd == nil {
		return err
	}
	wait := time.Duration(0)
	if errors.Is(err, fs.ErrNotExist) { // it gives its namespaces up before it has ended
		wait = endingTime
	}
	if ended(int(n.pidfd.Fd()), wait) {
		return fmt.Errorf("process %d: %w", n.pid, errEnded)
	}
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	uid := os.Geteuid()
	owner, e := processUID(n.pid)
	switch {
	case e != nil:
		return err
	case owner != uid:
		return &hinted{fmt.Errorf("process %d belongs to user %d: %w", n.pid, owner, err),
			fmt.Sprintf("run as user %d or as root", owner)}
	}
	return &hinted{fmt.Errorf("process %d hides its namespaces (not dumpable, see prctl(2)): %w", n.pid, err),
		"run as root, or give the path of a mount of its network namespace"}
}

// processUID returns the real user of a process, which everybody may know.
func processUID(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "Uid:"); ok {
			if ids := strings.Fields(value); len(ids) > 0 {
				return strconv.Atoi(ids[0])
			}
		}
	}
	return 0, syscall.EPROTO
}

// explain explains what a child of ours met on its way into the namespace.
func (n *Namespace) explain(err error) error {
	var t *trouble
	if !errors.As(err, &t) {
		return err
	}
	text := fmt.Errorf("%v: %w", n.target, t)
	if t.errno != syscall.EPERM || t.step > stepNet {
		return text
	}
	if hint := n.hint(t.step); hint != "" {
		return &hinted{text, hint}
	}
	return text
}

// hint says what helps when joining is not permitted (user_namespaces(7)).
func (n *Namespace) hint(s step) string {
	uid, owned := ownerUID(n.user)
	switch {
	case s == stepUser && owned && uid != os.Geteuid():
		return fmt.Sprintf("the user namespace belongs to user %d: run as that user, or as root", uid)
	case s == stepUser:
		return "the user namespace is not below ours: run outside of the container or namespace we are in"
	case n.user == nil && n.owner != nil:
		if same, err := isOurs(n.owner, "user"); err == nil && same {
			return "the network namespace belongs to our own user namespace: run as root there"
		}
		return "join its user namespace too, or run as root"
	case n.owner == nil:
		return "the network namespace belongs to a user namespace that is not below ours: " +
			"run outside of the container or namespace we are in"
	}
	return "the network namespace does not belong to that user namespace"
}

// ownerUID returns the user who made a user namespace.
func ownerUID(user *os.File) (uid int, ok bool) {
	if user == nil {
		return 0, false
	}
	id, err := unix.IoctlGetUint32(int(user.Fd()), unix.NS_GET_OWNER_UID) // since Linux 4.11
	return int(id), err == nil
}
