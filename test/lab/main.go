package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Programs are small programs that the test binary itself can be, by name: a
// client inside the guest, for instance. Each gets its arguments and returns
// its exit status. See [Lab.Program].
type Programs map[string]func(args []string) int

// programArg is the first argument of a test binary that is a program.
const programArg = "taproot-lab-program"

// stageVar tells a test binary which of the processes in doc.go it is, and
// what the one before has prepared.
const stageVar = "TAPROOT_LAB_STAGE"

// A stage is what one process of the chain tells the next.
type stage struct {
	Name    string // "init", "tests", or "plain" where no laboratory can be made
	Dir     string // for everybody to read: taproot and the test binary
	Wide    bool   // L has 65536 ids, not just one
	Missing string // why there is no laboratory, if Name is "plain"
	Init    int    // process id of init
}

// Main runs the tests of m inside the user namespace that laboratories need,
// and returns the exit status for TestMain. Where that namespace cannot be
// made, it runs them outside, and [New] skips them with the reason.
func Main(m Runner, programs Programs) int {
	if len(os.Args) > 2 && os.Args[1] == programArg {
		return runProgram(programs)
	}
	s, err := currentStage()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	switch s.Name {
	case "":
		return outer()
	case "init":
		return inner(s)
	default:
		return m.Run()
	}
}

func runProgram(programs Programs) int {
	name := os.Args[2]
	run, ok := programs[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "lab: program %s: unknown\n", name)
		return 127
	}
	return run(os.Args[3:])
}

func currentStage() (stage, error) {
	var s stage
	text := os.Getenv(stageVar)
	if text == "" {
		return s, nil
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("read %s: %w", stageVar, err)
	}
	return s, nil
}

func (s stage) environ() string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, numbers and booleans always have a JSON form
	}
	return stageVar + "=" + string(text)
}

// outer prepares the files, starts init in a new user namespace and waits.
func outer() int {
	dir, err := publicDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	// The child's parent-death signal is bound to the thread that starts it,
	// and so is the mount namespace that privateTUN makes.
	return status(onThread(func() error { return runTests(dir) }))
}

// runTests runs the tests in L, or where there can be no L outside, and
// returns what [exec.Cmd.Wait] does.
func runTests(dir string) error {
	cmd, err := startInit(dir, os.Geteuid() == 0)
	if err != nil {
		// Root of a container has no ids to give away, and is no more than
		// an ordinary user.
		cmd, err = startInit(dir, false)
	}
	if err != nil {
		s := stage{Name: "plain", Dir: dir, Missing: err.Error()}
		cmd = itself(s)
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	stop := passSignals(cmd.Process)
	defer stop()
	return cmd.Wait()
}

// publicDir makes the directory with taproot and the test binary, readable by
// whoever the ordinary user turns out to be.
func publicDir() (string, error) {
	dir, err := os.MkdirTemp("", "taproot-lab-")
	if err != nil {
		return "", err
	}
	err = errors.Join(
		os.Chmod(dir, 0o755),
		os.Mkdir(filepath.Join(dir, "tmp"), 0o755),
		copyFile(filepath.Join(dir, "test"), "/proc/self/exe"),
		buildTaproot(filepath.Join(dir, "taproot")),
	)
	if err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return dir, nil
}

// buildTaproot leaves the program under test at path. It is not an error that
// there is none to build: package lab tests itself without one.
func buildTaproot(path string) error {
	if binary := os.Getenv("TAPROOT_BIN"); binary != "" {
		return copyFile(path, binary)
	}
	cmd := exec.Command("go", "build", "-o", path, "taproot/cmd/taproot")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		note := fmt.Sprintf("#!/bin/sh\ncat >&2 <<'END'\ngo build taproot: %v\n%s\nEND\nexit 125\n", err, out)
		return os.WriteFile(path, []byte(note), 0o755)
	}
	return os.Chmod(path, 0o755)
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		return err
	}
	return os.Chmod(to, 0o755)
}

// itself is the command that runs this test binary once more, with the same
// arguments, as stage s.
func itself(s stage) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.Dir, "test"), withoutLog(os.Args[1:])...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), s.environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// withoutLog leaves out the file in which a test notes for go test what it has
// read. The ordinary user could not write it; and without it go test does not
// take the result for valid when only taproot has changed, of which the test
// binary contains nothing.
func withoutLog(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
		return strings.HasPrefix(arg, "-test.testlogfile=")
	})
}

// passSignals hands the signals that end a test run on to p. The function it
// returns ends that; the one goroutine has then returned.
func passSignals(p *os.Process) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range signals {
			p.Signal(s)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// status turns the result of [exec.Cmd.Wait] into an exit status as a shell
// counts it.
func status(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return waitStatus(exit.Sys().(syscall.WaitStatus))
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
}

func waitStatus(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
