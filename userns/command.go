package userns

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultPath is where a command is looked for without PATH (execvp(3)).
const defaultPath = "/bin:/usr/bin"

// lookPath finds a command as shells do, in the PATH of its own environment.
// The error is a *CommandError.
func lookPath(name string, env []string) (string, error) {
	if name == "" {
		return "", &CommandError{name, syscall.ENOENT}
	}
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", &CommandError{name, err}
		}
		return name, nil
	}
	cause := syscall.ENOENT
	for _, dir := range strings.Split(variable(env, "PATH", defaultPath), ":") {
		if dir == "" {
			dir = "."
		}
		path := strings.TrimSuffix(dir, "/") + "/" + name
		switch err := executable(path); {
		case err == nil:
			return path, nil
		case err == syscall.EACCES && exists(path):
			cause = syscall.EACCES // unless a later directory has it
		}
	}
	return "", &CommandError{name, cause}
}

// executable says why a path cannot be executed. The kernel has the last word.
func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return syscall.EISDIR
	}
	return unix.Access(path, unix.X_OK)
}

// exists says whether there is such a file, as far as we can see.
func exists(path string) bool {
	return unix.Access(path, unix.F_OK) == nil
}

// variable returns a variable of an environment.
func variable(env []string, name, otherwise string) string {
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return otherwise
}

// execCommand runs the command by exec, which is syscall.Exec or starts a child
// with the same arguments. A file of no known format is given to the shell, as
// execvp(3) does. The error is a *CommandError.
func execCommand(path string, o *order, exec func(path string, argv, env []string) error) error {
	err := exec(path, o.Command, o.Env)
	if errors.Is(err, syscall.ENOEXEC) {
		err = exec("/bin/sh", append([]string{"/bin/sh", path}, o.Command[1:]...), o.Env)
	}
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return os.NewSyscallError("execve", err)
	}
	return &CommandError{o.Command[0], errno}
}

// dropCapabilities takes what setting up needed. Root in the guest gets all
// capabilities of its namespaces again by exec; others, with nothing left to
// inherit, get none. It is this thread's only.
func dropCapabilities(id Identity) error {
	if id == IdentityRoot {
		return nil
	}
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // two words of each set, in version 3
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		data[i].Inheritable = 0
		if id == IdentityKeep {
			data[i].Effective, data[i].Permitted = 0, 0
		}
	}
	return os.NewSyscallError("capset", unix.Capset(&header, &data[0]))
}
