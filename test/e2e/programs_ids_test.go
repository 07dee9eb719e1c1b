package e2e

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// fewIDsProgram COMMAND... runs a command as uid 1000 of the last user
// namespace that may be made: it is root of one in which there may be only one
// more. It does not run in a guest but instead of one.
func fewIDsProgram(args []string) int {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("1"), 0); err != nil {
		return quit(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	ids := []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{Uid: 1000, Gid: 1000, NoSetGroups: true},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return quit(err)
	}
	return 0
}

// rootOfOneMore starts fewids as root of a user namespace below the
// laboratory's.
func rootOfOneMore() *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{NoSetGroups: true},
	}
}
