package userns

import (
	"context"
	"os"
	"strings"
)

// A Follow says what the end of a Namespace is.
type Follow int

const (
	// FollowTarget is the end of what was named: the process is dead, or the path
	// is not that namespace any more, because it was deleted, unmounted or moved.
	// A path below /proc/PID lives as long as that process does.
	FollowTarget Follow = iota

	// FollowHolders is when no process that we can see is in the network
	// namespace, and nothing that we can see is a mount of it. Whether a process
	// only has it open, as we do, cannot be seen. It needs the capabilities that
	// OpenTarget had.
	FollowHolders
)

// String returns "target" or "holders".
func (f Follow) String() string {
	switch f {
	case FollowTarget:
		return "target"
	case FollowHolders:
		return "holders"
	}
	return "unknown"
}

// Wait returns nil when the namespace has come to its end, and otherwise why it
// cannot tell, ctx's error for one. It wakes when a process ends, a mount changes
// or, for a path that is no mount in our view, something happens in its
// directory; it has no timer.
func (n *Namespace) Wait(ctx context.Context, follow Follow) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.close()
	f := &follower{Namespace: n, watcher: w, follow: follow}
	if n.pid == 0 && strings.HasPrefix(n.target.NetNS, "/proc/") {
		f.follow = FollowHolders // a descriptor of our own lives as long as we
	}
	defer f.release()
	if err := f.watchAll(); err != nil {
		return err
	}
	return w.until(ctx, f.gone)
}

// A follower looks for the end of a namespace.
type follower struct {
	*Namespace
	*watcher
	follow Follow
	holder *os.File // a process in the namespace, by descriptor; or nil
}

// watchAll arms everything that can tell of a change.
func (f *follower) watchAll() error {
	if f.follow == FollowTarget && f.pidfd != nil {
		return f.watchProcess(f.pidfd)
	}
	if err := f.watchMounts(); err != nil {
		return err
	}
	if f.target.NetNS != "" && f.pidfd != nil { // with which the path ends
		if err := f.watchProcess(f.pidfd); err != nil {
			return err
		}
	}
	// A mount that we see tells of its end by itself, even if another mount
	// namespace deletes or moves the file below it (since Linux 3.18). An inotify
	// instance is spared for all others: a user has no more than 128 (inotify(7)).
	mounted, err := isMounted(f.id)
	if mounted || err != nil || f.target.NetNS == "" {
		return err
	}
	return f.watchDir(f.target.NetNS)
}

// gone says whether the end has come.
func (f *follower) gone() (bool, error) {
	switch {
	case f.follow == FollowTarget && f.pidfd != nil:
		return ended(int(f.pidfd.Fd()), 0), nil
	case f.follow == FollowTarget:
		return !f.atPath(), nil
	}
	held, err := f.held()
	return !held && err == nil, err
}

// atPath says whether the target's path still is the namespace.
func (f *follower) atPath() bool {
	if f.target.NetNS == "" {
		return false
	}
	id, err := inodeAt(f.target.NetNS)
	return err == nil && id == f.id
}

// held says whether a process or a mount holds the namespace. Of all processes
// it follows one at a time.
func (f *follower) held() (bool, error) {
	if f.holder != nil && !ended(int(f.holder.Fd()), 0) {
		return true, nil
	}
	f.release()
	mounted, err := isMounted(f.id)
	if mounted || err != nil {
		return mounted, err
	}
	if f.atPath() { // maybe a mount out of our sight, as below /proc/PID/root
		return true, nil
	}
	holder, err := f.findHolder()
	if holder == nil || err != nil {
		return false, err
	}
	f.holder = holder
	return true, f.watchProcess(holder)
}

// findHolder finds a process in the namespace; first it asks the one we know.
func (f *follower) findHolder() (*os.File, error) {
	if f.pid != 0 {
		if holder, err := openHolder(f.pid, f.id); holder != nil || err != nil {
			return holder, err
		}
	}
	return findHolder(f.id)
}

// release forgets the process that was followed.
func (f *follower) release() {
	closeFile(f.holder) // which ends the watch too
	f.holder = nil
}
