//go:build !amd64 && !arm64

package sandbox

// There is no filter for other processors.
const (
	arch       = 0
	foreignABI = 0
)

// denied is not asked.
func denied() []uint32 { return nil }
