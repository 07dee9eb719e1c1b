package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cellName is argv[0] of the test binary as a cell's process.
const cellName = "taproot-cell"

// A cellReport is what a cell's process finds.
type cellReport struct {
	PID, UID       int
	Group, Session int
	Host           string
	Entries        []string // of /
	Files          []int    // descriptors below 64 that are open
	Env            []string
	Capabilities   [2]unix.CapUserData
	Bounding       []int
	NoNewPrivs     int
	Blocked        bool   // a signal is
	Proc, Mount    string // what came of them
}

// reportCell is the main of a cell's process, which tells on descriptor 1.
func reportCell() int {
	if len(os.Args) > 1 { // wait, for what does not come
		_, _ = os.Stdin.Read(make([]byte, 1))
		return 0
	}
	r := cellReport{PID: os.Getpid(), UID: os.Getuid(), Env: os.Environ(), Proc: fmt.Sprint(unix.Access("/proc/self", unix.F_OK))}
	r.Group = unix.Getpgrp()
	r.Session, _ = unix.Getsid(0)
	r.Host, _ = os.Hostname()
	for fd := range 64 {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			r.Files = append(r.Files, fd)
		}
	}
	entries, _ := os.ReadDir("/")
	for _, e := range entries {
		r.Entries = append(r.Entries, e.Name())
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_ = unix.Capget(&header, &r.Capabilities[0])
	for c := range 64 {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && has == 1 {
			r.Bounding = append(r.Bounding, c)
		}
	}
	r.NoNewPrivs, _ = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	var mask unix.Sigset_t
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, nil, &mask)
	r.Blocked = mask != unix.Sigset_t{}
	r.Mount = fmt.Sprint(unix.Mount("", "/", "", unix.MS_REMOUNT, ""))
	if json.NewEncoder(os.Stdout).Encode(r) != nil {
		return 1
	}
	return 0
}

// startCell runs a cell's process to its end and returns what it has found. The
// files of the cell are set here.
func startCell(t *testing.T, c Cell) (cellReport, error) {
	t.Helper()
	program, err := SelfProgram()
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c.Program, c.Args, c.Files = program, []string{cellName}, []*os.File{null, write, write}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := c.Start()
	write.Close()
	if err != nil {
		return cellReport{}, err
	}
	text, err := io.ReadAll(read)
	state, waitErr := p.Wait()
	if err = errors.Join(err, waitErr); err != nil || !state.Success() {
		t.Fatalf("cell: %v, %v: %s", err, state, text)
	}
	var r cellReport
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return r, nil
}

// isStatic tells whether the test binary needs no other file to start.
func isStatic() bool {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	return errno != unix.ENOTSUP
}

func TestCell(t *testing.T) {
	for _, tt := range []struct {
		name             string
		namespaces, root bool
	}{
		{"nothing more", false, false},
		{"namespaces", true, false},
		{"root", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := startCell(t, Cell{Namespaces: tt.namespaces, Root: tt.root, Env: []string{"A=1"}})
			if tt.root && !isStatic() {
				var e *CellError
				if !errors.As(err, &e) || !e.Root || !errors.Is(err, syscall.ENOENT) {
					t.Errorf("without the dynamic linker: got %v, want %v for the root", err, syscall.ENOENT)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Capabilities != [2]unix.CapUserData{} || r.NoNewPrivs != 1 || r.Blocked || r.UID != os.Getuid() {
				t.Errorf("got %+v, want no capabilities, no_new_privs, no blocked signals and the user %d", r, os.Getuid())
			}
			if got, want := fmt.Sprint(r.Files, r.Env), "[0 1 2] [A=1]"; got != want {
				t.Errorf("descriptors and environment: got %v, want %v", got, want)
			}
			if r.Group != r.PID || r.Session != r.PID {
				t.Errorf("process group %d and session %d of process %d, want both to be its own", r.Group, r.Session, r.PID)
			}
			if tt.namespaces != (r.PID == 1) || tt.namespaces != (r.Host == "") || tt.namespaces && r.Bounding != nil {
				t.Errorf("got process %d on host %q with bounding set %v", r.PID, r.Host, r.Bounding)
			}
			if tt.root && (r.Entries != nil || r.Proc != syscall.ENOENT.Error()) {
				t.Errorf("root: got entries %v and proc %s", r.Entries, r.Proc)
			}
			if r.Mount != syscall.EPERM.Error() {
				t.Errorf("mount: got %s, want %v", r.Mount, syscall.EPERM)
			}
		})
	}
}

// TestCellRefused wants what was refused to be told, and for what it was.
func TestCellRefused(t *testing.T) {
	for _, tt := range []struct {
		trouble          trouble
		text             string
		namespaces, root bool
	}{
		{trouble{step: stepFiles, errno: syscall.EMFILE}, "keep descriptors: too many open files", false, false},
		{trouble{step: stepMap, errno: syscall.EPERM}, "map ids: operation not permitted", true, false},
		{trouble{step: stepTmpfs, errno: syscall.EACCES}, "mount tmpfs: permission denied", false, true},
		{trouble{step: stepPivot, errno: syscall.EINVAL}, "pivot_root: invalid argument", false, true},
		{trouble{step: stepExec, errno: syscall.ENOENT}, "execveat: no such file or directory", false, true},
		{trouble{step: stepExec, errno: syscall.EACCES}, "execveat: permission denied", false, false},
	} {
		var e *CellError
		if err := newCellError(&tt.trouble); !errors.As(err, &e) {
			t.Errorf("%s: got %v, want a CellError", tt.text, err)
			continue
		}
		if want := tt.root && tt.trouble.step == stepExec; e.NotStatic() != want {
			t.Errorf("%s: not static: got %v, want %v", tt.text, e.NotStatic(), want)
		}
		if e.Error() != tt.text || e.Namespaces != tt.namespaces || e.Root != tt.root || !errors.Is(e, tt.trouble.errno) {
			t.Errorf("got %+v, want %q for namespaces %v, root %v", e, tt.text, tt.namespaces, tt.root)
		}
	}
	if err := newCellError(syscall.EPROTO); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("got %v, want %v", err, syscall.EPROTO)
	}
	if _, err := startCell(t, Cell{Root: true}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a root without namespaces: got %v, want %v", err, syscall.EINVAL)
	}
}

// TestCellWithoutNamespaces has the kernel refuse namespaces, by their limit in
// a user namespace of the test's own.
func TestCellWithoutNamespaces(t *testing.T) {
	const variable = "TAPROOT_TEST_NO_NAMESPACES"
	if os.Getenv(variable) != "" {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		_, err := startCell(t, Cell{Namespaces: true, Root: true})
		var e *CellError
		if !errors.As(err, &e) || !e.Namespaces || e.Step != "clone" || e.Hint() == "" {
			t.Errorf("got %#v, want clone to be refused, and a hint", err)
		}
		return
	}
	cmd := exec.Command(selfExe, "-test.run=^TestCellWithoutNamespaces$")
	cmd.Env = append(os.Environ(), variable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: singleMap(0, os.Getuid()), GidMappings: singleMap(0, os.Getgid()),
	}
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "SKIP") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestCellDies wants a cell's process to end with the thread that started it.
func TestCellDies(t *testing.T) {
	program, err := SelfProgram()
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	var p *os.Process
	thread := newThread()
	for main := true; main; { // which does not end with its goroutine
		thread.do(func() { main = unix.Gettid() == os.Getpid() })
		if main {
			defer thread.stop()
			thread = newThread()
		}
	}
	thread.do(func() {
		p, err = (&Cell{Program: program, Args: []string{cellName, "wait"}, Files: []*os.File{read}}).Start()
	})
	read.Close()
	if err != nil {
		t.Fatal(err)
	}
	thread.stop()
	state, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if status := state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("got %v, want it killed", state)
	}
}
