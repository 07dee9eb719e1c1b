package engine

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/test/settle"
)

// newWirePair returns both ends as wires, which the test closes.
func newWirePair(t *testing.T) (ours, theirs *wire) {
	t.Helper()
	ours, file, err := newWire()
	if err != nil {
		t.Fatal(err)
	}
	theirs = &wire{file}
	t.Cleanup(func() {
		ours.close()
		theirs.close()
	})
	return ours, theirs
}

func TestWire(t *testing.T) {
	ours, theirs := newWirePair(t)
	spec := testSpec(t, plan.Offsets{}, Config{})
	spec.Host = hostState{
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Servers:   []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:53")},
		Search:    []string{"example.test"},
	}
	for name, m := range map[string]message{
		"start": {Start: spec}, "host": {Host: &spec.Host}, "ready": {Ready: true}, "failed": {Failed: "x"}, "gone": {Gone: "y"},
	} {
		if err := ours.send(m); err != nil {
			t.Fatal(err)
		}
		got, f, err := theirs.receive()
		if err != nil || len(f) > 0 || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: got %+v, file %v and error %v, want %+v", name, got, f, err, m)
		}
	}
	ours.close()
	if _, _, err := theirs.receive(); err != io.EOF {
		t.Errorf("end: got %v, want %v", err, io.EOF)
	}
	if err := theirs.send(message{Ready: true}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send to nobody: got %v, want %v", err, unix.EPIPE)
	}
}

// TestWireDescriptor wants the same open file on the other side, closed in
// children.
func TestWireDescriptor(t *testing.T) {
	ours, theirs := newWirePair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := ours.send(message{Ready: true}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	m, files, err := theirs.receive()
	if err != nil || len(files) != 1 || !m.Ready {
		t.Fatalf("got %+v, files %v and error %v", m, files, err)
	}
	f := files[0]
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags: got %#x and error %v, want close-on-exec", flags, err)
	}
	if _, err := f.WriteString("through"); err != nil {
		t.Error(err)
	}
	f.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "through" {
		t.Errorf("got %q and error %v, want it through", b, err)
	}
}

// TestWireDescriptors wants all of them, in order.
func TestWireDescriptors(t *testing.T) {
	ours, theirs := newWirePair(t)
	var files []*os.File
	for range maxRights {
		files = append(files, device(t))
	}
	files[7] = ours.file
	if err := ours.send(message{Ready: true}, files...); err != nil {
		t.Fatal(err)
	}
	_, got, err := theirs.receive()
	if err != nil || len(got) != maxRights {
		t.Fatalf("got %d files and error %v, want %d", len(got), err, maxRights)
	}
	for i, f := range got {
		info, err := f.Stat()
		if socket := err == nil && info.Mode()&os.ModeSocket != 0; socket != (i == 7) {
			t.Errorf("file %d: got %v and error %v", i, info, err)
		}
	}
	closeAll(got)
}

func TestWireLimits(t *testing.T) {
	ours, theirs := newWirePair(t)
	if err := ours.send(message{Failed: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("too long: got no error")
	}
	long := message{Failed: strings.Repeat("x", maxMessage-20)}
	if err := ours.send(long); err != nil {
		t.Fatalf("just not too long: %v", err)
	}
	if m, _, err := theirs.receive(); err != nil || !reflect.DeepEqual(m, long) {
		t.Errorf("just not too long: got %d bytes and error %v", len(m.Failed), err)
	}
}

// TestWireRefuses sends what no supervisor or engine of ours does. Nothing may
// crash, and no descriptor may stay open.
func TestWireRefuses(t *testing.T) {
	ours, theirs := newWirePair(t)
	f := device(t)
	before := settle.Descriptors()
	fd := int(f.Fd())
	for name, tt := range map[string]struct {
		text   string
		rights []byte
	}{
		"no JSON":                    {"{", nil},
		"wrong type":                 {`{"Ready": 7}`, nil},
		"no JSON, with a descriptor": {"{", unix.UnixRights(fd)},
		"no JSON, with two":          {"{", unix.UnixRights(fd, fd)},
		"too long":                   {strings.Repeat(" ", maxMessage+1), nil},
	} {
		raw, err := ours.file.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var sendErr error
		if err := raw.Control(func(s uintptr) { sendErr = unix.Sendmsg(int(s), []byte(tt.text), tt.rights, nil, 0) }); err != nil || sendErr != nil {
			t.Fatal(err, sendErr)
		}
		m, got, err := theirs.receive()
		closeAll(got)
		if err == nil {
			t.Errorf("%s: got %+v, want an error", name, m)
		}
	}
	// What a test before this one has left open may be closed meanwhile.
	if after := settle.Descriptors(); after > before {
		t.Errorf("descriptors: got %d, want at most the %d of before", after, before)
	}
}

// TestLastWords wants what the other side said to arrive although it left
// something unread, which unix(7) makes a reset.
func TestLastWords(t *testing.T) {
	ours, theirs := newWirePair(t)
	if err := ours.send(message{Ping: true}); err != nil {
		t.Fatal(err)
	}
	if err := theirs.send(message{Failed: "no memory"}); err != nil {
		t.Fatal(err)
	}
	theirs.close()
	if m, _, err := ours.receive(); err != nil || m.Failed != "no memory" {
		t.Errorf("got %+v and error %v, want the last words", m, err)
	}
	if _, _, err := ours.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want %v", err, io.EOF)
	}
}

// TestLongestOrphans wants a page of the longest addresses to fit.
func TestLongestOrphans(t *testing.T) {
	end := netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")
	page := slices.Repeat([]portfwd.Connection{{Local: end, Peer: end}}, pageOrphans)
	if _, err := (message{Orphans: page}).encode(); err != nil {
		t.Error(err)
	}
}
