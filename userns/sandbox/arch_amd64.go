package sandbox

import "golang.org/x/sys/unix"

// What a filter must know of the processor.
const (
	arch = unix.AUDIT_ARCH_X86_64

	// foreignABI is the bit by which the x32 system calls differ from ours.
	foreignABI = 0x40000000
)
