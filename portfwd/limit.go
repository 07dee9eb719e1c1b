package portfwd

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultMaxSockets is how many sockets all rules have at most: three quarters
// of the limit of open files. The engine has the same limit, and needs the rest
// for connections.
func defaultMaxSockets() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 / 4 * 3
	}
	return int(min(limit.Cur, 1<<24) / 4 * 3)
}

// reserve makes room for a rule's sockets, which release gives back, or says
// why there is none.
func (t *Table) reserve(r Rule) (sockets int, err error) {
	sockets = r.Count() * len(r.addresses())
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sockets+sockets > t.cfg.MaxSockets {
		return 0, &BindError{
			Proto: r.Proto, Port: r.Listen.Port(), Addr: r.Listen.Addr(),
			Err:  fmt.Errorf("%d sockets, with %d of other rules, and the limit is %d: %w", sockets, t.sockets, t.cfg.MaxSockets, syscall.EMFILE),
			need: (t.sockets+sockets)/3*4 + 4, // see defaultMaxSockets
		}
	}
	t.sockets += sockets
	return sockets, nil
}

func (t *Table) release(sockets int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sockets -= sockets
}
