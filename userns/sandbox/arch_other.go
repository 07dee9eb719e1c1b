//go:build !amd64 && !arm64

package sandbox

// There is no filter for other processors.
const (
	arch       = 0
	foreignABI = 0
)

// Nobody asks for these.
func allowed() []uint32        { return nil }
func refused() []uint32        { return nil }
func restricted() []rule       { return nil }
func neededByNobody() []uint32 { return nil }
