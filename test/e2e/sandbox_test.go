package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// sandboxCalls are system calls that steps of the sandbox need, by name.
func sandboxCalls() map[string]uint32 {
	return map[string]uint32{
		"landlock_create_ruleset": unix.SYS_LANDLOCK_CREATE_RULESET,
		"pivot_root":              unix.SYS_PIVOT_ROOT,
		"seccomp":                 unix.SYS_SECCOMP,
	}
}

// refusingProgram CALL COMMAND... runs a command for which the kernel does not have a
// system call. It does not run in a guest but instead of one.
func refusingProgram(args []string) int {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number, which struct seccomp_data begins with
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: sandboxCalls()[args[0]], Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return quit(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return quit(errno)
	}
	return quit(syscall.Exec(args[1], args[1:], syscall.Environ()))
}

// instead is a command line of taproot's that another of the test's programs starts.
func instead(l *lab.Lab, c *lab.Cmd, name string, args ...string) *lab.Cmd {
	words := l.ProgramArgs(name, append(args, c.Args...)...)
	other := l.User(words[0], words[1:]...)
	other.Env = append(other.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
	return other
}

// TestSandboxMissing: where the kernel does not offer a step of the sandbox, who
// requires it gets an error and no guest. Otherwise there is a guest, and the API and
// the log say what is missing; it is a warning if nothing else does the same.
func TestSandboxMissing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		call, step string
		warns      bool
	}{
		{"landlock_create_ruleset", "landlock", false},
		{"pivot_root", "root", false},
		{"seccomp", "seccomp", true},
	} {
		t.Run(test.step, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			require := instead(l, guest(l, []string{"--sandbox=require"}, "echo", "started"), "refusing", test.call).MustStart()
			if got := require.Status(); got != 125 {
				t.Errorf("require: status: got %d, want 125", got)
			}
			wantText(t, "require: output", require.Out(), "")
			wantContains(t, "require: message", require.Err(), "sandbox: "+test.step+": ", "function not implemented")
			wantContains(t, "require: hint", require.Err(), "taproot: hint: ")

			server := join(lab.Outside4, serveTCP(t, l.Outside, echo))
			w := newWebOf(l, startShell(t, instead(l, guest(l, []string{"-v", "--name=web"}, "sh"), "refusing", test.call)))
			wantText(t, "auto", networkOf(t, l, w.shell).Program("connect", server).MustRun(), "connected")
			if on, why := w.sandboxStep(test.step); on || !strings.Contains(why, "function not implemented") {
				t.Errorf("auto: %s: got on %v, %q", test.step, on, why)
			}
			wantContains(t, "auto: log", w.Err(), "sandbox incomplete", test.step+": ")
			if got := strings.Contains(w.Err(), "level=WARN msg=\"sandbox incomplete\""); got != test.warns {
				t.Errorf("auto: warns: got %v, want %v: %s", got, test.warns, w.Err())
			}
		})
	}
}

// sandboxSteps is what the API says of the engine's sandbox.
func (w *web) sandboxSteps() map[string]string {
	w.t.Helper()
	info, _ := w.ask("GET", "/v1/info", "")
	sandbox, _ := info["sandbox"].(map[string]any)
	list, _ := sandbox["steps"].([]any)
	steps := make(map[string]string)
	for _, step := range list {
		s, _ := step.(map[string]any)
		steps[fmt.Sprint(s["name"])] = fmt.Sprint(s["on"], " ", s["detail"])
	}
	return steps
}

// sandboxStep is what the API says of one step of it.
func (w *web) sandboxStep(name string) (on bool, detail string) {
	w.t.Helper()
	text, detail, _ := strings.Cut(w.sandboxSteps()[name], " ")
	return text == "true", detail
}

// crampedProgram N COMMAND... runs a command where there may be N user namespaces,
// below its own. It does not run in a guest but instead of one.
func crampedProgram(args []string) int {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte(args[0]), 0); err != nil {
		return quit(err)
	}
	return quit(syscall.Exec(args[1], args[1:], syscall.Environ()))
}

// exhaustProgram makes user namespaces until there may be no more. It prints the
// processes that are in them, which go on.
func exhaustProgram([]string) int {
	for {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
		err := cmd.Start()
		if errors.Is(err, syscall.ENOSPC) {
			fmt.Println()
			return 0
		}
		if err != nil {
			return quit(err)
		}
		fmt.Print(cmd.Process.Pid, " ")
	}
}

// TestExhausted has a guest use up the user namespaces that there may be, and its
// engine end: the next one is not started in a weaker cell, but when there is room.
func TestExhausted(t *testing.T) {
	t.Parallel()
	const few = 12
	l := newLab(t)
	path := filepath.Join(runtimeDir(l), "web.sock")
	c := instead(l, guest(l, []string{"--api=" + path}, "sh"), "cramped", strconv.Itoa(few))
	c.SysProcAttr = rootOfOneMore()
	w := newWebOf(l, startShell(t, c))
	w.path = path
	before := w.sandboxSteps()
	if on, why := w.sandboxStep("namespaces"); !on {
		t.Fatalf("no namespaces: %s", why)
	}
	holders := w.must(strings.Join(l.ProgramArgs("exhaust"), " "))
	syscall.Kill(process(t, l, engineName).PID, syscall.SIGKILL)
	l.Eventually("no other engine is started", func() bool {
		info, _ := w.ask("GET", "/v1/info", "")
		e := info["engine"].(map[string]any)
		if e["state"] == "running" && e["restarts"] != 0.0 {
			t.Fatalf("got %v", info)
		}
		return strings.Contains(fmt.Sprint(e["why"]), "no space left on device")
	})
	w.must("kill " + holders)
	l.Eventually("there is one again", func() bool {
		info, _ := w.ask("GET", "/v1/info", "")
		return info["engine"].(map[string]any)["state"] == "running"
	})
	if got := w.sandboxSteps(); !maps.Equal(got, before) {
		t.Errorf("sandbox: got %v, want %v", got, before)
	}
	server := join(lab.Outside4, serveTCP(t, l.Outside, echo))
	wantText(t, "afterwards", networkOf(t, l, w.shell).Program("connect", server).MustRun(), "connected")
	w.in.Close()
	w.Wait() // who removes the socket
}
