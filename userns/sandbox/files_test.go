package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// doFiles takes the step and works on.
func doFiles([]string) error {
	if _, err := Files(); err != nil {
		return err
	}
	return work()
}

// doBoth takes both steps and works on.
func doBoth([]string) error {
	if _, err := Files(); err != nil {
		return err
	}
	return errors.Join(Seccomp(), work())
}

// doOpen tries on several threads, old and new, to get at files: at those of a
// directory by name, and by a descriptor of the directory.
func doOpen(args []string) error {
	dir, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer dir.Close()
	const threads = 8
	var started, ended sync.WaitGroup
	begin := make(chan struct{})
	errs := make([]error, 2*threads)
	start := func(i int) {
		started.Add(1)
		ended.Go(func() {
			runtime.LockOSThread()
			started.Done()
			<-begin
			errs[i] = tryFiles(args[0], int(dir.Fd()))
		})
	}
	for i := range threads {
		start(i)
	}
	started.Wait()
	if _, err := Files(); err != nil {
		return err
	}
	for i := range threads {
		start(threads + i)
	}
	started.Wait()
	close(begin)
	ended.Wait()
	return errors.Join(errs...)
}

// tryFiles returns what was possible and should not have been.
func tryFiles(path string, dir int) error {
	file, fresh := filepath.Join(path, "file"), filepath.Join(path, "fresh")
	var errs []error
	for name, try := range map[string]func() error{
		"read":       func() error { return opened(unix.AT_FDCWD, file, unix.O_RDONLY) },
		"write":      func() error { return opened(unix.AT_FDCWD, file, unix.O_WRONLY) },
		"create":     func() error { return opened(unix.AT_FDCWD, fresh, unix.O_CREAT|unix.O_WRONLY) },
		"temporary":  func() error { return opened(unix.AT_FDCWD, path, unix.O_TMPFILE|unix.O_RDWR) },
		"list":       func() error { return opened(unix.AT_FDCWD, path, unix.O_DIRECTORY|unix.O_RDONLY) },
		"below":      func() error { return opened(dir, "file", unix.O_RDONLY) },
		"above":      func() error { return opened(dir, "..", unix.O_RDONLY) },
		"proc":       func() error { return opened(unix.AT_FDCWD, "/proc/self/status", unix.O_RDONLY) },
		"descriptor": func() error { return opened(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(dir), unix.O_RDONLY) },
		"remove":     func() error { return unix.Unlink(file) },
		"rename":     func() error { return unix.Rename(file, fresh) },
		"directory":  func() error { return unix.Mkdir(fresh, 0o700) },
		"link":       func() error { return unix.Symlink("file", fresh) },
		"socket":     func() error { return unix.Mknod(fresh, unix.S_IFSOCK, 0) },
		"execute":    func() error { return unix.Exec(filepath.Join(path, "program"), []string{"program"}, nil) },
	} {
		if err := try(); !errors.Is(err, unix.EACCES) {
			errs = append(errs, fmt.Errorf("%s: got %v, want %v", name, err, unix.EACCES))
		}
	}
	return errors.Join(errs...)
}

// opened opens a file.
func opened(dir int, path string, flags int) error {
	fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// doOutside tries to reach its parent: by a signal, and by the abstract Unix
// socket that is its argument.
func doOutside(args []string) error {
	abi, err := Files()
	if err != nil {
		return err
	}
	if signalsScoped(abi) {
		if err := unix.Kill(os.Getppid(), unix.SIGCONT); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("signal: got %v, want %v", err, unix.EPERM)
		}
	}
	if abi < abiScopes {
		return nil
	}
	conn, err := net.Dial("unix", args[0])
	if err == nil {
		return errors.Join(errors.New("connected to an abstract socket"), conn.Close())
	}
	if !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("connect: got %w, want %w", err, unix.EPERM)
	}
	return nil
}

func TestFiles(t *testing.T) {
	if _, err := landlockVersion(); err != nil {
		t.Skip(err)
	}
	path := static(t)
	t.Run("work", func(t *testing.T) { succeed(t, child(path, "files")) })
	t.Run("both steps", func(t *testing.T) { succeed(t, child(path, "both")) })
	t.Run("open", func(t *testing.T) {
		dir := t.TempDir()
		program, err := os.ReadFile("/bin/true")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(
			os.WriteFile(filepath.Join(dir, "file"), []byte("secret"), 0o600),
			os.WriteFile(filepath.Join(dir, "program"), program, 0o700),
		); err != nil {
			t.Fatal(err)
		}
		succeed(t, child(path, "open", dir))
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Error(err)
		}
	})
	t.Run("outside", func(t *testing.T) {
		name := fmt.Sprintf("@taproot-sandbox-%d", os.Getpid())
		listener, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		succeed(t, child(path, "outside", name))
	})
}

// TestNoFiles checks that each version takes what the one before took.
func TestNoFiles(t *testing.T) {
	for abi := 2; abi <= 12; abi++ {
		before, attr := noFiles(abi-1), noFiles(abi)
		if lost := before.Handled_access_fs &^ attr.Handled_access_fs; lost != 0 {
			t.Errorf("version %d: got no rights %#x, want those of version %d", abi, lost, abi-1)
		}
		if attr.Handled_access_net != 0 {
			t.Errorf("version %d: got network rights %#x, want none", abi, attr.Handled_access_net)
		}
	}
	if got, want := noFiles(1).Handled_access_fs, uint64(1<<13-1); got != want {
		t.Errorf("version 1: got rights %#x, want %#x", got, want)
	}
}
