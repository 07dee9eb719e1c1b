// The QUIC load generator of the benchmark, with a module of its own so that
// a QUIC implementation never enters the program's.
module taproot/test/bench/quic

go 1.26.3

require github.com/quic-go/quic-go v0.65.0

require (
	golang.org/x/crypto v0.54.0 // indirect
	golang.org/x/net v0.56.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
