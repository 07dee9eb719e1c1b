package probe

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// landlock asks for the ABI's number.
func landlock() Result {
	r := Result{Name: nameLandlock, Status: OK}
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		r.Detail = fmt.Sprintf("ABI %d", abi)
	case unix.EOPNOTSUPP:
		r.Status, r.Detail = Missing, "switched off at boot"
		r.Remedy = "add landlock to the list of the kernel's boot parameter lsm="
	default:
		r.Status, r.Detail = Missing, fmt.Sprintf("%v (Linux 5.13 has it)", errno)
	}
	return r
}

// seccomp asks whether a filter may kill the process, not only a thread.
func seccomp() Result {
	r := Result{Name: nameSeccomp, Status: OK, Detail: "filters that kill the process"}
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		r.Status, r.Detail = Missing, fmt.Sprintf("%v (Linux 4.14 has it)", errno)
	}
	return r
}
