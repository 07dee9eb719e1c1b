package main

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// framePair returns two ends of something that keeps frames apart.
func framePair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close() })
	return ours, theirs
}

// TestPath sends frames with numbers: nearly all arrive, in order and late.
func TestPath(t *testing.T) {
	p := new(path)
	from, in := framePair(t)
	to, out := framePair(t)
	p.ends = [2]*os.File{in, out}
	p.forward(in, out, rand.New(rand.NewPCG(0, 0)))
	const count = 2000
	go func() {
		for i := range uint64(count) {
			if _, err := from.Write(binary.BigEndian.AppendUint64(nil, i)); err != nil {
				return // the test has failed
			}
		}
	}()
	start := time.Now()
	frame := make([]byte, 64)
	received := 0
	for last := uint64(0); last < count-1; received++ {
		if err := to.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := to.Read(frame)
		if err != nil || n != 8 {
			t.Fatalf("frame %d: got %d bytes and %v", received, n, err)
		}
		number := binary.BigEndian.Uint64(frame)
		if received > 0 && number <= last {
			t.Fatalf("got frame %d after %d", number, last)
		}
		last = number
	}
	if took := time.Since(start); took < pathDelay {
		t.Errorf("got all in %v, want at least %v", took, pathDelay)
	}
	if received == count || received < count*99/100 {
		t.Errorf("got %d of %d, want a few lost", received, count)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
