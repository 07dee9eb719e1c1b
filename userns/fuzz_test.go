package userns

import (
	"encoding/binary"
	"encoding/json"
	"syscall"
	"testing"
)

// FuzzWire has a process inside the guest's namespaces say anything. What is not a
// message is an error; what is one can be handled.
func FuzzWire(f *testing.F) {
	for _, m := range []message{
		{Ready: &ready{Warnings: []string{"x"}}}, {Started: true}, {Stopped: 19}, {Failure: newFailure(&CommandError{"x", syscall.EACCES})}, {Failure: &failure{}},
	} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append([]byte{byte((1 + len(b)) >> 8), byte(1 + len(b)), packetLast}, b...))
		f.Add(append([]byte{0, 2, packetMore, b[0], byte(len(b) >> 8), byte(len(b)), packetLast}, b[1:]...))
	}
	f.Add([]byte{0, 8, packetTrouble, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{0, 0, 0, 1, packetLast})
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, fd, err := newWirePair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.close()
		theirs, err := newWire(fd)
		if err != nil {
			t.Fatal(err)
		}
		go speak(theirs, b)
		for {
			m, err := ours.recv()
			if err != nil {
				break
			}
			if m.Failure != nil {
				_ = m.Failure.err().Error()
			}
		}
		_ = noticed(b).Error()
	})
}

// speak sends what an input holds: for each packet two bytes of length, and as many
// bytes. Then it hangs up.
func speak(w *wire, b []byte) {
	defer w.close()
	for len(b) >= 2 {
		n := min(int(binary.BigEndian.Uint16(b)), len(b)-2, 1+chunkSize)
		if _, err := w.conn.Write(b[2 : 2+n]); err != nil {
			return
		}
		b = b[2+n:]
	}
}
