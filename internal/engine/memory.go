package engine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// mostMemory is what the engine's memory may grow to before Go's runtime does
	// all it can to stay below, in bytes: 16384 idle connections by frames, which
	// is all there may be, take 360 MB of it, and buffers as much again.
	mostMemory = 1 << 30

	// leastMemory is enough for a hundred connections, in bytes.
	leastMemory = 64 << 20
)

// boundedMemory returns an environment in which the engine's memory is limited,
// unless env says otherwise. Where the machine has little, the engine gets a
// quarter of it.
func boundedMemory(env []string) []string {
	if os.Getenv("GOMEMLIMIT") != "" {
		return env
	}
	limit := uint64(mostMemory)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		limit = min(limit, max(uint64(info.Totalram)*uint64(info.Unit)/4, leastMemory))
	}
	return append(env, fmt.Sprintf("GOMEMLIMIT=%d", limit))
}
