package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"taproot/userns/sandbox"
)

func capabilities() (unix.CapUserHeader, [2]unix.CapUserData, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return header, sets, fmt.Errorf("read capabilities: %w", err)
	}
	return header, sets, nil
}

// errPrivileged says that the engine has what it must not have.
var errPrivileged = errors.New("the engine has capabilities or may gain them")

// confine checks that the engine was born without privileges, forbids other
// processes of the user to look into it, and gives up what is left. It must come
// before the first frame. What this kernel does not offer is skipped.
func confine(mode SandboxMode) ([]SandboxStep, error) {
	_, sets, err := capabilities()
	if err != nil {
		return nil, err
	}
	noNewPrivs, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("read no_new_privs: %w", err)
	}
	if noNewPrivs != 1 || sets != [2]unix.CapUserData{} {
		return nil, errPrivileged
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set not dumpable: %w", err)
	}
	files, calls := SandboxStep{Name: StepLandlock}, SandboxStep{Name: StepSeccomp}
	if mode == SandboxOff {
		files.Detail, calls.Detail = switchedOff, switchedOff
		return []SandboxStep{files, calls}, nil
	}
	if abi, err := sandbox.Files(); err == nil {
		files.On, files.Detail = true, fmt.Sprintf("ABI %d", abi)
	} else {
		files.Detail = err.Error()
	}
	if err := sandbox.Seccomp(); err == nil {
		calls.On = true
	} else {
		calls.Detail = err.Error()
	}
	return []SandboxStep{files, calls}, nil
}
