package userns

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

// sysctl sets one of the guest's network.
func (w *world) sysctl(t *testing.T, name, value string) {
	t.Helper()
	files, err := w.ns.make(context.Background(), []file{{"/proc/sys/net/" + name, unix.O_RDWR}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	if _, err := files[0].WriteString(value); err != nil {
		t.Fatal(err)
	}
}

// TestDivertCookies diverts where each handshake is made with SYN cookies, as
// when many are half open.
func TestDivertCookies(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	w.sysctl(t, "ipv4/tcp_syncookies", "2")
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		t.Run("local to "+to, func(t *testing.T) {
			w.t = t
			w.converse(t, to, nil)
		})
	}
}

// TestDivertAgain puts SYNs back twice, and uses ports twice.
func TestDivertAgain(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	for _, tt := range []struct{ to, from string }{
		{"198.51.100.7:80", "10.0.2.100:4000"}, {"[2001:db8::7]:80", "[fd00::64]:4000"},
	} {
		bind := func(fd int) error {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return err
			}
			return unix.Bind(fd, sockaddrOf(addrPort(tt.from)))
		}
		for range 3 {
			guest := w.dial(tt.to, bind)
			syn := w.next(w.frames, tt.to)
			w.putBack(syn)
			w.putBack(syn)
			fd, _, _ := w.accept(syn.is4())
			exchange(t, guest, fd)
			// The diverted end closes first, so it is the one in TIME_WAIT.
			unix.Shutdown(fd, unix.SHUT_RDWR)
			guest.Close()
		}
		again := 0
		raw(t, w.diversion.Listeners()[0], func(s int) error {
			fd, _, err := unix.Accept4(s, unix.SOCK_CLOEXEC)
			if err == nil {
				again++
				unix.Close(fd)
			}
			return nil
		})
		if again > 0 {
			t.Error("a SYN that was put back twice made two connections")
		}
	}
}

// TestDivertSigns wants SYNs of all kinds of ECN and of the guest's own DSCP to be
// signed, and the two bits of ECN left alone.
func TestDivertSigns(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	w.sysctl(t, "ipv4/tcp_ecn", "1")
	for to, option := range map[string][2]int{
		"198.51.100.7:80":  {unix.IPPROTO_IP, unix.IP_TOS},
		"[2001:db8::7]:80": {unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
	} {
		w.converse(t, to, func(fd int) error { return unix.SetsockoptInt(fd, option[0], option[1], 0xb8) })
	}
}
