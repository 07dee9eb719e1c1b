package userns

import (
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// forgetConnections empties connection tracking, as conntrack -F does.
func (w *world) forgetConnections(t *testing.T) {
	t.Helper()
	const deleteEntry = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
	data := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}
	s := w.filterSocket(t)
	err := s.SendMessages([]netlink.Message{{
		Header: netlink.Header{Length: uint32(unix.NLMSG_HDRLEN + len(data)), Type: deleteEntry, Flags: netlink.Request | netlink.Acknowledge},
		Data:   data,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if answers, err := s.Receive(); err != nil || len(answers) != 1 || binary.NativeEndian.Uint32(answers[0].Data) != 0 {
		t.Fatalf("forget connections: got %v and error %v", answers, err)
	}
}

// TestDivertStray wants a connection that connection tracking has forgotten to go
// on when its segments are put back, and without that after the first.
func TestDivertStray(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		t.Run(to, func(t *testing.T) {
			w.t = t
			guest := w.dial(to, nil)
			syn := w.next(w.frames, to)
			w.putBack(syn)
			fd, _, _ := w.accept(syn.is4())
			w.forgetConnections(t)
			if _, err := unix.Write(int(guest.Fd()), []byte{0}); err != nil {
				t.Fatal(err)
			}
			w.putBack(w.next(w.others, to))
			if err := unix.SetNonblock(fd, false); err != nil {
				t.Fatal(err)
			}
			if n, err := unix.Read(fd, make([]byte, 2)); n != 1 {
				t.Fatalf("got %d bytes and error %v, want 1", n, err)
			}
			exchange(t, guest, fd)
		})
	}
}
