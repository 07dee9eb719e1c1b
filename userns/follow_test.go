package userns

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waiting starts to wait for a namespace's end, and checks that it does not
// return before something happens. The result is Wait's.
func waiting(t *testing.T, n *Namespace, follow Follow) <-chan error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	c := make(chan error, 1)
	go func() { c <- n.Wait(ctx, follow) }()
	return c
}

// stays checks that Wait does not return.
func stays(t *testing.T, what string, c <-chan error) {
	t.Helper()
	select {
	case err := <-c:
		t.Errorf("%s: got %v, want it to go on", what, err)
	case <-time.After(30 * time.Millisecond): // long after the event that woke it
	}
}

// ends checks that Wait returns nil soon enough.
func ends(t *testing.T, what string, c <-chan error) {
	t.Helper()
	start := time.Now()
	if err := <-c; err != nil {
		t.Errorf("%s: got %v, want nil", what, err)
	}
	t.Logf("%s: after %v", what, time.Since(start))
}

// share starts a second process in a target's namespaces.
func share(t *testing.T, p *testTarget) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("nsenter", "--preserve-credentials", "-U", "-n", "-t", strconv.Itoa(p.pid), "cat")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	in.Write([]byte{'x'})
	if _, err := out.Read(make([]byte, 1)); err != nil { // it runs, in there
		t.Fatal(err)
	}
	return cmd
}

func TestWaitProcess(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	second := share(t, p)
	byPID := openTarget(t, Target{PID: p.pid})
	byPath := openTarget(t, Target{NetNS: namespacePath(p.pid, "net")})
	target, path := waiting(t, byPID, FollowTarget), waiting(t, byPath, FollowTarget)
	holders, pathHolders := waiting(t, byPID, FollowHolders), waiting(t, byPath, FollowHolders)
	stays(t, "process lives", target)
	p.end()
	ends(t, "process", target)
	ends(t, "process by path", path)
	stays(t, "another process", holders)
	second.Process.Kill()
	second.Wait()
	ends(t, "last process", holders)
	ends(t, "last process by path", pathHolders)
	ends(t, "once more", waiting(t, byPID, FollowTarget))
	ends(t, "once more", waiting(t, byPath, FollowHolders))
}

// TestWaitPath lets a mount go in each way.
func TestWaitPath(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	for _, tt := range []struct {
		name string
		link bool // the path is a symbolic link
		end  func(path string) error
	}{
		{"unmount", false, func(path string) error { return unix.Unmount(path, 0) }},
		{"unmount and delete", false, func(path string) error {
			return errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))
		}},
		{"unmount link", true, func(path string) error { return unix.Unmount(path, 0) }},
		{"another in its place", false, func(path string) error {
			return unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTarget(t, "answer", netTarget())
			mount := mountNamespace(t, p.pid)
			path := mount
			if tt.link {
				path = t.TempDir() + "/link"
				if err := os.Symlink(mount, path); err != nil {
					t.Fatal(err)
				}
			}
			n := openTarget(t, Target{NetNS: path})
			target, holders := waiting(t, n, FollowTarget), waiting(t, n, FollowHolders)
			p.end()
			stays(t, "mounted", holders)
			stays(t, "mounted", target)
			other := t.TempDir()
			if err := errors.Join(unix.Mount("tmpfs", other, "tmpfs", 0, ""), unix.Unmount(other, 0)); err != nil {
				t.Fatal(err)
			}
			stays(t, "another mount", target)
			if err := tt.end(mount); err != nil {
				t.Fatal(err)
			}
			ends(t, "target", target)
			if tt.name == "another in its place" {
				stays(t, "hidden mount", holders)
				return
			}
			ends(t, "holders", holders)
		})
	}
}

// TestWaitPathElsewhere follows a path that is a mount of another mount
// namespace, where it is deleted, and one that leads through a symbolic link.
func TestWaitPathElsewhere(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	p := newTarget(t, "answer", netTarget())
	dir := t.TempDir()
	link := dir + "/link"
	// A descriptor of ours holds the namespace, so nothing but the link can end.
	f, err := os.Open(namespacePath(p.pid, "net"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, end := range map[string]func() error{
		"delete": func() error { return os.Remove(link) },
		"move":   func() error { return os.Rename(link, dir+"/moved") },
		"replace": func() error {
			return errors.Join(os.Symlink("/dev/null", dir+"/new"), os.Rename(dir+"/new", link))
		},
		"directory": func() error { return os.RemoveAll(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			os.Remove(link)
			os.MkdirAll(dir, 0o700)
			if err := os.Symlink("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), link); err != nil {
				t.Fatal(err)
			}
			c := waiting(t, openTarget(t, Target{NetNS: link}), FollowTarget)
			stays(t, "link", c)
			if err := end(); err != nil {
				t.Fatal(err)
			}
			ends(t, name, c)
		})
	}
}

// TestWaitWithoutInotify notices the end of a path when other programs of the
// user have all inotify instances.
func TestWaitWithoutInotify(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	const limit = "/proc/sys/user/max_inotify_instances" // of this user namespace
	if err := os.WriteFile(limit, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC); err != unix.EMFILE {
		unix.Close(fd)
		t.Fatalf("with a limit of 0: got %v, want %v", err, unix.EMFILE)
	}
	p := newTarget(t, "answer", netTarget())
	link := t.TempDir() + "/link"
	f, err := os.Open(namespacePath(p.pid, "net"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Symlink("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), link); err != nil {
		t.Fatal(err)
	}
	c := waiting(t, openTarget(t, Target{NetNS: link}), FollowTarget)
	stays(t, "link", c)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	ends(t, "link", c)
}

// TestWaitOtherMounts deletes the file of a mount in another mount namespace.
func TestWaitOtherMounts(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	p := newTarget(t, "answer", netTarget())
	path := mountNamespace(t, p.pid)
	n := openTarget(t, Target{NetNS: path})
	target, holders := waiting(t, n, FollowTarget), waiting(t, n, FollowHolders)
	p.end()
	stays(t, "mounted", target)
	cmd := exec.Command("/bin/sh", "-c", `umount -l "$1" && rm "$1"`, "sh", path)
	cmd.SysProcAttr = netTarget()
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ends(t, "target", target)
	ends(t, "holders", holders)
}

// TestWaitMountOfProcess: a mount in the mount namespace of a process, seen below
// /proc/PID/root, holds a network namespace in which nobody is.
func TestWaitMountOfProcess(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	p := newTarget(t, "answer", netTarget())
	path := t.TempDir() + "/netns"
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	owner := exec.Command("/bin/sh", "-c", `mount --make-rprivate / && mount --bind "$1" "$2" && echo ready && exec cat`, "sh", namespacePath(p.pid, "net"), path)
	owner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	in, err1 := owner.StdinPipe()
	out, err2 := owner.StdoutPipe()
	if err := errors.Join(err1, err2, owner.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); owner.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("owner of the mount: got %q and error %v", line, err)
	}
	n := openTarget(t, Target{NetNS: "/proc/" + strconv.Itoa(owner.Process.Pid) + "/root" + path})
	holders := waiting(t, n, FollowHolders)
	p.end()
	stays(t, "mounted", holders)
	if t.Failed() {
		return
	}
	owner.Process.Kill()
	ends(t, "holders", holders)
}

// TestWaitFork follows processes that hand the namespace on and end.
func TestWaitFork(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	holders := waiting(t, n, FollowHolders)
	const generations = `n=$1; test "$n" = 0 && exit; (setsid sh -c "$0" "$((n-1))" &)`
	cmd := exec.Command("nsenter", "--preserve-credentials", "-U", "-n", "-t", strconv.Itoa(p.pid),
		"sh", "-c", generations, generations, "20")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	p.end()
	cmd.Wait()
	ends(t, "last of the family", holders)
	found, err := findHolder(n.id)
	if found != nil || err != nil {
		t.Errorf("after the end: got %v and error %v, want none", found, err)
	}
}

// TestWaitCancelled wants the context's error, and no descriptor left.
func TestWaitCancelled(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	descriptors := descriptorsOpen(t)
	for _, follow := range []Follow{FollowTarget, FollowHolders} {
		ctx, cancel := context.WithCancel(context.Background())
		c := make(chan error)
		go func() { c <- n.Wait(ctx, follow) }()
		stays(t, follow.String(), c)
		cancel()
		if err := <-c; !errors.Is(err, context.Canceled) {
			t.Errorf("%v: got %v, want %v", follow, err, context.Canceled)
		}
	}
	if got := descriptorsOpen(t); got != descriptors {
		t.Errorf("descriptors: got %d, want %d", got, descriptors)
	}
}

// FuzzMountedIn wants an answer about any list, and the right one about a line
// that was added.
func FuzzMountedIn(f *testing.F) {
	f.Add([]byte("94 28 0:4 net:[4026532345] /run/netns/x rw shared:7 - nsfs nsfs rw\n"), uint64(4026532345))
	f.Add([]byte("22 28 0:21 / /sys rw\n23"), uint64(0))
	f.Fuzz(func(t *testing.T, list []byte, number uint64) {
		mountedIn(list, number)
		line := "\n1 1 0:4 net:[" + strconv.FormatUint(number, 10) + "] /x rw - nsfs nsfs rw\n"
		if !mountedIn(append(list, line...), number) {
			t.Errorf("%d not found in %q", number, line)
		}
	})
}
