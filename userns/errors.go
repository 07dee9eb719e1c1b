package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// A CommandError says that the command could not be executed.
type CommandError struct {
	Command string // as given in Config.Command
	Err     error  // a syscall.Errno
}

// Error returns the message in the form "COMMAND: cause". The cause of a
// missing command is "not found", as shells say it.
func (e *CommandError) Error() string {
	if errors.Is(e.Err, syscall.ENOENT) {
		return e.Command + ": not found"
	}
	return e.Command + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// Status returns the exit status that shells use: 127 if there is no such
// command, 126 if it is there but cannot be executed.
func (e *CommandError) Status() int {
	if errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.ENOTDIR) {
		return 127
	}
	return 126
}

// A hinted error has a remedy. Front ends ask for it with errors.As and an
// interface of the one method Hint.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint returns what the user can do about the error: a command to paste.
func (e *hinted) Hint() string { return e.hint }

// A failure is an error of the stage, made ready for its way to the supervisor.
type failure struct {
	Text    string
	Hint    string
	Errno   syscall.Errno // 0 if there is none
	Command *string       // of a CommandError, whose cause is Errno; else nil
}

// newFailure packs err.
func newFailure(err error) *failure {
	f := &failure{Text: err.Error()}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		f.Hint = hint.Hint()
	}
	errors.As(err, &f.Errno)
	var command *CommandError
	if errors.As(err, &command) {
		f.Command = &command.Command
	}
	return f
}

// err unpacks the error.
func (f *failure) err() error {
	if f.Command != nil {
		return &CommandError{Command: *f.Command, Err: f.Errno}
	}
	err := error(&remoteError{text: f.Text, errno: f.Errno})
	if f.Hint != "" {
		return &hinted{err, f.Hint}
	}
	return withHint(err)
}

// withHint adds what may help to do something in a user namespace, unless err
// has a hint already.
func withHint(err error) error {
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if hint := appArmorHint(readSysctl); hint != "" {
		return &hinted{err, hint}
	}
	return err
}

// A remoteError is an error that happened in the stage.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e *remoteError) Error() string { return e.text }

// Unwrap returns the system call's error, so that errors.Is works.
func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// namespaceError explains why there is no stage.
func namespaceError(err error) error {
	if hint := NamespaceHint(err); hint != "" {
		return &hinted{fmt.Errorf("make user namespace: %w", err), hint}
	}
	return fmt.Errorf("start stage: %w", err)
}

// NamespaceHint returns what the user can do about an error of making
// namespaces, or of being refused something as root of them; "" if that is not
// known.
func NamespaceHint(err error) string { return namespaceHint(err, readSysctl) }

// namespaceHint returns the remedy for an error of clone(2), after a look at
// the switches that distributions have; sysctl returns "" for those that this
// kernel does not know.
func namespaceHint(err error, sysctl func(name string) string) string {
	switch {
	case sysctl("kernel.unprivileged_userns_clone") == "0": // Debian's patch
		return "as root: sysctl kernel.unprivileged_userns_clone=1"
	case sysctl("user.max_user_namespaces") == "0": // since Linux 4.9
		return "as root: sysctl user.max_user_namespaces=15000"
	case sysctl("user.max_net_namespaces") == "0":
		return "as root: sysctl user.max_net_namespaces=15000"
	case errors.Is(err, syscall.ENOSPC):
		return "the limit of namespaces is reached, raise it: as root: sysctl user.max_user_namespaces=" +
			"60000 user.max_net_namespaces=60000 user.max_mnt_namespaces=60000"
	case errors.Is(err, syscall.EINVAL):
		return "this kernel has no user namespaces: it needs CONFIG_USER_NS=y"
	case errors.Is(err, syscall.EPERM):
		if hint := appArmorHint(sysctl); hint != "" {
			return hint
		}
		return "inside a container, start it with: --security-opt seccomp=unconfined"
	}
	return ""
}

// appArmorHint returns the remedy for Ubuntu's restriction (since 23.10), which
// lets everybody make a user namespace and then forbids to do anything in it.
func appArmorHint(sysctl func(name string) string) string {
	if sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1" {
		return "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
	}
	return ""
}

// readSysctl returns a sysctl's value, or "" if there is none.
func readSysctl(name string) string {
	b, err := os.ReadFile(sysctlPath(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// sysctlPath returns the file of a sysctl whose name's parts have no dots.
func sysctlPath(name string) string {
	return "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
}
