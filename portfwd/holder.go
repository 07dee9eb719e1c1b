package portfwd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// explain adds to a *BindError who has the port, if somebody has.
func (t *Table) explain(ctx context.Context, r Rule, err error) error {
	var bind *BindError
	if !errors.As(err, &bind) || !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	if bind.Holder = t.ruleAt(r, netip.AddrPortFrom(bind.Addr, bind.Port)); bind.Holder != "" {
		return err
	}
	diag, diagErr := t.diag(ctx, r.Direction)
	if diagErr != nil {
		return err
	}
	defer diag.Close()
	bind.leaving = true // gone, if nobody has it now
	if o, ok := diag.at(bind); ok {
		bind.Holder, bind.leaving = o.holder()
	}
	return err
}

// isLeaving tells errors that are over in a moment, perhaps.
func isLeaving(err error) bool {
	var bind *BindError
	return errors.As(err, &bind) && bind.leaving
}

// ruleAt names the rule that has a port that r would have, "" if none has.
func (t *Table) ruleAt(r Rule, at netip.AddrPort) string {
	r.Listen, r.Local, r.Ports = at, false, 1
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.takenLocked(r); e != nil && e.State != StateWaiting {
		return "rule " + strconv.Itoa(e.ID)
	}
	return ""
}

// diag returns a Scanner of the side that rules of a direction listen on.
func (t *Table) diag(ctx context.Context, d Direction) (*Scanner, error) {
	spec := Socket{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_SOCK_DIAG}
	if d == Inbound {
		fd, err := unix.Socket(spec.Family, spec.Type|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, spec.Protocol)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		return NewScanner(os.NewFile(uintptr(fd), "sock_diag")), nil
	}
	if t.cfg.Sockets == nil {
		return nil, errNoGuest
	}
	files, err := t.cfg.Sockets(ctx, []Socket{spec})
	if err != nil {
		return nil, err
	}
	return NewScanner(files[0]), nil
}

// at returns the socket that keeps e's port: rather a listener than a
// connection, which has it too if it was there first, and rather one of the
// same address.
func (s *Scanner) at(e *BindError) (found owned, ok bool) {
	const servers = 1<<stateListen | 1<<stateBound | 1<<stateClose
	for _, states := range [...]uint32{servers, ^uint32(servers)} {
		exact := false
		_ = s.each(e.Proto, states, func(o owned) {
			if o.Port != e.Port || exact {
				return
			}
			found, ok, exact = o, true, meet(o.Addr, e.Addr)
		})
		if ok {
			break
		}
	}
	return found, ok
}

// holder names the process that has a socket as well as we can. leaving tells that no
// process of this user's has it that we see: one that was killed closes its files
// when it can be seen no more. One that may not be looked into looks the same.
func (o owned) holder() (name string, leaving bool) {
	if o.inode == 0 {
		return "a connection that has just ended", false
	}
	if pid, command := processOf(o.inode); pid != 0 {
		return fmt.Sprintf("%s (pid %d)", command, pid), false
	}
	return fmt.Sprintf("a process of uid %d", o.uid), int(o.uid) == os.Geteuid()
}

// processOf finds a process that has a socket among those that we may look
// into. Without one the pid is 0.
func processOf(inode uint32) (pid int, command string) {
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, ""
	}
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil {
			continue
		}
		directory := filepath.Join("/proc", process.Name(), "fd")
		files, err := os.ReadDir(directory)
		if err != nil {
			continue // somebody else's, or gone
		}
		for _, f := range files {
			if link, err := os.Readlink(filepath.Join(directory, f.Name())); err == nil && link == want {
				name, _ := os.ReadFile(filepath.Join("/proc", process.Name(), "comm")) // "" if it is gone
				return pid, strings.TrimSpace(string(name))
			}
		}
	}
	return 0, ""
}
