package link

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"taproot/tap"
	"taproot/test/settle"
)

// captured returns the frames of a capture, read as pcap-savefile(5) says.
func captured(t *testing.T, path string) (frames [][]byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }
	if len(b) < 24 || u32(0) != 0xa1b2c3d4 || u32(16) != 262144 || u32(20) != 1 ||
		binary.NativeEndian.Uint16(b[4:]) != 2 || binary.NativeEndian.Uint16(b[6:]) != 4 {
		t.Fatalf("head of the file: got %x", b[:min(len(b), 24)])
	}
	for b = b[24:]; len(b) > 0; {
		if len(b) < 16 || u32(8) != u32(12) || len(b) < 16+u32(8) {
			t.Fatalf("head of a frame: got %x", b[:min(len(b), 16)])
		}
		at := time.Unix(int64(u32(0)), int64(u32(4))*1000)
		if age := time.Since(at); age < -time.Second || age > settle.Patience {
			t.Errorf("time: got %v, %v ago", at, age)
		}
		size := u32(8)
		frames = append(frames, b[16:16+size])
		b = b[16+size:]
	}
	return frames
}

func TestCapture(t *testing.T) {
	eachWay(t, func(t *testing.T, features tap.Features) {
		path := filepath.Join(t.TempDir(), "pcap")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, features, func(c *Config) {
			c.Capture = file
			c.Filter = func(head []byte) bool { return len(head) != 20 }
		})
		var want [][]byte
		for _, size := range []int{15, 20, headView, headView + 1, 1514, 14 + 65535} {
			f := frame(size, etherTest)
			want = append(want, f)
			b.send(t, tap.Header{}, f)
			if size != 20 { // which is refused, and captured all the same
				next(t, "frame", b.stack).pkt.DecRef()
			}
		}
		sent := b.read(t)
		b.writePackets(t, newPacket(20, 20, 3000, 3))
		want = append(want, next(t, "packet of the stack", sent).frame)
		if err := b.SendFrame(tap.Header{}, []byte{0x45, 1}, nil, []byte("rest")); err != nil {
			t.Fatal(err)
		}
		want = append(want, next(t, "packet of others", sent).frame)
		if err := b.SendARP([]byte("arp")); err != nil {
			t.Fatal(err)
		}
		want = append(want, next(t, "ARP", sent).frame)
		b.stop()
		if err := <-b.ended; err != nil {
			t.Fatal(err)
		}
		got := captured(t, path)
		if len(got) != len(want) {
			t.Fatalf("got %d frames, want %d", len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("frame %d: got %d bytes, want %d: %.64x", i, len(got[i]), len(want[i]), got[i])
			}
		}
		if _, err := file.Stat(); err == nil {
			t.Error("the file is open")
		}
	})
}

// TestCaptureContinues begins with a file that another engine has written to.
func TestCaptureContinues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pcap")
	for i, word := range []string{"first engine", "second engine"} {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 { // where a descriptor that is passed on has its offset
			if _, err := file.Seek(0, 2); err != nil {
				t.Fatal(err)
			}
		}
		b := newBench(t, features["plain"], func(c *Config) { c.Capture = file })
		if err := b.SendFrame(tap.Header{}, []byte("E"+word)); err != nil {
			t.Fatal(err)
		}
		b.stop()
		<-b.ended
	}
	if got := captured(t, path); len(got) != 2 || !bytes.HasSuffix(got[1], []byte("second engine")) {
		t.Errorf("got %q, want two frames", got)
	}
}

// TestCaptureFails writes to a full device: traffic goes on.
func TestCaptureFails(t *testing.T) {
	for name, flag := range map[string]int{"full": os.O_WRONLY, "not for writing": os.O_RDONLY} {
		t.Run(name, func(t *testing.T) {
			file, err := os.OpenFile("/dev/full", flag, 0)
			if err != nil {
				t.Fatal(err)
			}
			b := newBench(t, features["plain"], func(c *Config) { c.Capture = file })
			sent := b.read(t)
			for range 3 {
				if err := b.SendFrame(tap.Header{}, []byte("E...")); err != nil {
					t.Fatal(err)
				}
				next(t, "frame", sent)
			}
			if got := b.Stats.Uncaptured.Load(); got != 3 {
				t.Errorf("uncaptured: got %d, want 3", got)
			}
		})
	}
}

// FuzzCapture captures any frames, in any pieces, and reads them again.
func FuzzCapture(f *testing.F) {
	f.Add([]byte("one frame"), uint8(3))
	f.Add(make([]byte, 70000), uint8(200))
	f.Add([]byte{}, uint8(0))
	path := filepath.Join(f.TempDir(), "pcap")
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		var lost atomic.Uint64
		c := newCapture(file, &lost)
		at := min(int(cut), len(b))
		c.add(b)
		c.add(b[:at], nil, b[at:])
		c.add()
		c.close()
		got := captured(t, path)
		if len(got) != 3 || !bytes.Equal(got[0], b) || !bytes.Equal(got[1], b) || len(got[2]) != 0 || lost.Load() != 0 {
			t.Errorf("got %d frames and %d lost, want the same as went in", len(got), lost.Load())
		}
	})
}
