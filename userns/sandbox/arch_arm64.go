package sandbox

import "golang.org/x/sys/unix"

// What a filter must know of the processor.
const (
	arch       = unix.AUDIT_ARCH_AARCH64
	foreignABI = 0 // programs for 32 bits have another arch
)
