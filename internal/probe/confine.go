package probe

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/userns"
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

// cell starts a process as the engine is started.
func cell() Result {
	r := Result{Name: nameSandbox, Status: OK, Detail: "the engine has namespaces of its own and an empty root"}
	err := startCell(userns.Cell{Namespaces: true, Root: true})
	if err == nil {
		return r
	}
	r.Status, r.Detail, r.Remedy = Degraded, fmt.Sprintf("no empty root for the engine: %v", err), hint(err)
	if startCell(userns.Cell{Namespaces: true}) != nil {
		r.Detail = fmt.Sprintf("no namespaces for the engine: %v", err)
	}
	return r
}

// startCell starts a process in a cell and waits for its end.
func startCell(c userns.Cell) error {
	program, err := userns.SelfProgram()
	if err != nil {
		return err
	}
	defer program.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	c.Program, c.Args, c.Files = program, []string{ChildName, nameSandbox}, []*os.File{null, null, null}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := c.Start()
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}
