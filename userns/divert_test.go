package userns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/tap"
)

// asUserWithTUN is asUser for tests that make a TAP device: where only root may
// open /dev/net/tun, the user gets one that everybody may.
func asUserWithTUN(t *testing.T) bool {
	t.Helper()
	if f, err := os.OpenFile(tap.Path, os.O_RDWR, 0); err != nil && !ordinary(t).root {
		t.Skip(err)
	} else if err == nil {
		f.Close()
	}
	if !ordinary(t).root {
		return true
	}
	done := make(chan error)
	dir := t.TempDir()
	go func() {
		runtime.LockOSThread() // not unlocked: the thread's mounts end with it
		err := publicTUN(dir)
		if err == nil {
			asUser(t)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skip(err)
	}
	return false
}

// publicTUN moves the calling thread to a mount namespace of its own, in which
// everybody may open /dev/net/tun.
func publicTUN(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	node := filepath.Join(dir, "tun")
	return errors.Join(
		unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), // Linux devices.txt: 10 char, 200 tun
		unix.Chmod(node, 0o666),
		unix.Mount(node, tap.Path, "", unix.MS_BIND, ""),
	)
}

// A tapDevice is a TAP device with offloads.
type tapDevice struct{ nullDevice }

func (tapDevice) Path() string { return tap.Path }
func (tapDevice) Attach(f *os.File, name string) error {
	_, err := tap.Attach(f, name, tap.OffloadOn)
	return err
}

// A world is a guest with a TAP device, whose other end the test plays, and a
// diversion.
type world struct {
	t         testing.TB
	ns        *Namespace
	p         *testTarget
	device    *os.File
	diversion *Diversion
	frames    chan frame // SYNs with a code point of ours that the guest sent
	plain     chan frame // other SYNs
	others    chan frame // everything else of TCP
}

// A frame is one from the guest, with its offload header.
type frame []byte

var gatewayMAC = net.HardwareAddr{0x02, 0, 0, 1, 2, 4}

// newWorld makes a guest whose TCP is diverted.
func newWorld(t testing.TB, d Divert) *world {
	t.Helper()
	w := newUndiverted(t)
	w.divert(d)
	return w
}

// behind are networks nested in the guest's that are diverted.
func behind() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("fc00::/7")}
}

// divert begins to divert the guest's TCP.
func (w *world) divert(d Divert) {
	w.t.Helper()
	d.Interface, d.Gateway = "tap0", gatewayMAC
	if d.Nested == nil {
		d.Nested = behind()
	}
	v, err := w.ns.Divert(context.Background(), d)
	if err != nil {
		var h interface{ Hint() string }
		if errors.As(err, &h) {
			w.t.Log(h.Hint())
		}
		w.t.Fatal(err)
	}
	w.diversion = v
	w.t.Cleanup(func() {
		if err := v.Remove(); err != nil {
			w.t.Error(err)
		}
		closeFiles(v.Listeners())
	})
}

// newUndiverted makes a guest with a device.
func newUndiverted(t testing.TB) *world {
	t.Helper()
	p := newTarget(t, "contain", rootTarget())
	w := &world{t: t, p: p, ns: openTarget(t, Target{PID: p.pid}),
		frames: make(chan frame, 1000), plain: make(chan frame, 1000), others: make(chan frame, 1000),
	}
	attached, _, err := w.ns.Attach(context.Background(), Setup{
		Interface: "tap0", MTU: 1500, MAC: net.HardwareAddr{0x02, 0, 0, 1, 2, 3},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("fd00::64/64")},
		Routes:    defaultRoutes("10.0.2.2", "fd00::2"),
		Device:    tapDevice{},
	})
	if err != nil {
		t.Fatal(err)
	}
	network, err := w.ns.network(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer network.close()
	link, err := network.routes.link("tap0")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"10.0.2.2", "10.0.2.3", "fd00::2", "fd00::3"} {
		if err := network.routes.neighbour(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE, link, netip.MustParseAddr(s), gatewayMAC); err != nil {
			t.Fatal(err)
		}
	}
	defer attached.Close()
	fd, err := unix.FcntlInt(attached.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel makes an IPv6 address local a little later.
	eventually(t, "a local address", func() bool {
		answers, err := network.routes.execute(unix.RTM_GETROUTE, netlink.Dump, unix.RtMsg{Family: unix.AF_INET6}, func(*netlink.AttributeEncoder) {})
		return err != nil || slices.ContainsFunc(answers, func(m netlink.Message) bool {
			return m.Data[7] == unix.RTN_LOCAL && bytes.Contains(m.Data, addrOf("fd00::64").AsSlice())
		})
	})
	if err := unix.SetNonblock(fd, true); err != nil { // which os.NewFile goes by
		t.Fatal(err)
	}
	device := os.NewFile(uintptr(fd), "tap0")
	w.device = device
	read := make(chan struct{})
	go func() {
		defer close(read)
		w.read()
	}()
	t.Cleanup(func() {
		device.Close()
		<-read
	})
	return w
}

// read sorts what the guest sends.
func (w *world) read() {
	b := make([]byte, 1<<17)
	for {
		n, err := w.device.Read(b)
		if err != nil {
			return
		}
		f := frame(append([]byte(nil), b[:n]...))
		if !f.isTCP() {
			continue
		}
		c := w.others
		if f.flags()&bareMask == bareSYN {
			c = w.plain
			if dscp := f.dscp(); dscp == mark.Local || dscp == mark.Nested {
				c = w.frames
			}
		}
		select {
		case c <- f:
		default:
		}
	}
}

const ethernet = tap.HeaderLen + 14

func (f frame) isTCP() bool {
	if len(f) < ethernet+40 {
		return false
	}
	switch f[ethernet] >> 4 {
	case 4:
		return f[ethernet+9] == unix.IPPROTO_TCP
	case 6:
		return f[ethernet+6] == unix.IPPROTO_TCP
	}
	return false
}

func (f frame) is4() bool { return f[ethernet]>>4 == 4 }

func (f frame) tcp() []byte {
	if f.is4() {
		return f[ethernet+int(f[ethernet]&15)*4:]
	}
	return f[ethernet+40:]
}

func (f frame) flags() byte { return f.tcp()[13] }

func (f frame) dscp() int {
	if f.is4() {
		return int(f[ethernet+1] >> 2)
	}
	return int(binary.BigEndian.Uint16(f[ethernet:])>>6) & 0x3f
}

func (f frame) setDSCP(dscp int) {
	if !f.is4() {
		binary.BigEndian.PutUint16(f[ethernet:], binary.BigEndian.Uint16(f[ethernet:])&^(0x3f<<6)|uint16(dscp)<<6)
		return
	}
	h := f[ethernet : ethernet+int(f[ethernet]&15)*4]
	h[1] = h[1]&3 | byte(dscp)<<2
	h[10], h[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
}

// source and destination of the frame.
func (f frame) ends() (source, destination netip.AddrPort) {
	ip, tcp := f[ethernet:], f.tcp()
	var a, b netip.Addr
	if f.is4() {
		a, b = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	} else {
		a, b = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(tcp)), netip.AddrPortFrom(b, binary.BigEndian.Uint16(tcp[2:]))
}

// putBack gives a SYN back to the guest, to be diverted.
func (w *world) putBack(f frame) {
	w.t.Helper()
	f = append(frame(nil), f...)
	e := f[tap.HeaderLen:]
	for i := range 6 {
		e[i], e[6+i] = e[6+i], e[i]
	}
	f.setDSCP(mark.Local)
	if _, err := w.device.Write(f); err != nil {
		w.t.Fatal(err)
	}
}

// next returns the next frame to a destination, or fails the test. Those before
// it are forgotten: SYNs are sent again.
func (w *world) next(c chan frame, to string) frame {
	w.t.Helper()
	var f frame
	eventually(w.t, "a frame to "+to, func() bool {
		select {
		case f = <-c:
			_, destination := f.ends()
			return destination.String() == to
		default:
			return false
		}
	})
	return f
}

// dial begins a connection of a socket in the guest; setup may change it first.
func (w *world) dial(to string, setup func(fd int) error) *os.File {
	w.t.Helper()
	return w.dialIn(w.ns, to, setup)
}

// dialIn is dial in another namespace.
func (w *world) dialIn(ns *Namespace, to string, setup func(fd int) error) *os.File {
	w.t.Helper()
	target := netip.MustParseAddrPort(to)
	files, err := ns.Sockets(context.Background(), []Socket{{Family: family(target.Addr()), Type: unix.SOCK_STREAM}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { files[0].Close() })
	fd := int(files[0].Fd())
	unix.SetNonblock(fd, true)
	if setup != nil {
		if err := setup(fd); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := unix.Connect(fd, sockaddrOf(target)); err != unix.EINPROGRESS {
		w.t.Fatalf("connect: got %v, want %v", err, unix.EINPROGRESS)
	}
	return files[0]
}

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPortOf(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	}
	return netip.AddrPort{}
}

// accept returns the connection that comes to a listener of the diversion.
func (w *world) accept(is4 bool) (fd int, peer, own netip.AddrPort) {
	w.t.Helper()
	l := w.diversion.Listeners()[0]
	if !is4 {
		l = w.diversion.Listeners()[1]
	}
	err := raw(w.t, l, func(s int) (err error) {
		eventually(w.t, "a diverted connection", func() bool {
			var from unix.Sockaddr
			fd, from, err = unix.Accept4(s, unix.SOCK_CLOEXEC)
			peer = addrPortOf(from)
			return err != unix.EAGAIN
		})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Close(fd) })
	return fd, peer, addrPortOf(name)
}

// exchange wants bytes to go both ways, and then ends.
func exchange(t testing.TB, guest *os.File, fd int) {
	t.Helper()
	for _, f := range []int{int(guest.Fd()), fd} {
		if err := unix.SetNonblock(f, false); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptTimeval(f, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
			t.Fatal(err)
		}
	}
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(i * 7 >> 3)
	}
	for _, way := range [][2]int{{int(guest.Fd()), fd}, {fd, int(guest.Fd())}} {
		sent := make(chan error, 1)
		go func() {
			rest := big
			for len(rest) > 0 {
				n, err := unix.Write(way[0], rest)
				if err != nil {
					sent <- err
					return
				}
				rest = rest[n:]
			}
			sent <- unix.Shutdown(way[0], unix.SHUT_WR)
		}()
		got := 0
		b := make([]byte, 1<<16)
		for {
			n, err := unix.Read(way[1], b)
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			if n == 0 {
				break
			}
			for i := range b[:n] {
				if b[i] != big[got+i] {
					t.Fatalf("byte %d: got %d, want %d", got+i, b[i], big[got+i])
				}
			}
			got += n
		}
		if err := <-sent; err != nil || got != len(big) {
			t.Fatalf("got %d bytes and error %v, want %d", got, err, len(big))
		}
	}
}

// TestDivert diverts a connection of each family and wants it to work.
func TestDivert(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		t.Run(to, func(t *testing.T) { w.converse(t, to, nil) })
	}
}

// converse connects, puts the SYN back and exchanges bytes.
func (w *world) converse(t *testing.T, to string, setup func(fd int) error) {
	t.Helper()
	w.converseIn(t, w.ns, to, mark.Local, setup)
}

// converseIn is converse in a namespace, whose SYNs have a code point.
func (w *world) converseIn(t *testing.T, ns *Namespace, to string, dscp int, setup func(fd int) error) {
	t.Helper()
	guest := w.dialIn(ns, to, setup)
	syn := w.next(w.frames, to)
	source, destination := syn.ends()
	if syn.dscp() != dscp {
		t.Fatalf("got a SYN with DSCP %d, want %d", syn.dscp(), dscp)
	}
	w.putBack(syn)
	fd, peer, own := w.accept(syn.is4())
	if peer != source || own != destination {
		t.Fatalf("got a connection from %v to %v, want %v to %v", peer, own, source, destination)
	}
	exchange(t, guest, fd)
	for len(w.others)+len(w.plain) > 0 {
		var f frame
		select {
		case f = <-w.plain:
		case f = <-w.others:
		}
		if a, b := f.ends(); a == source {
			t.Errorf("a frame came out, with flags %#x, from %v to %v", f.flags(), a, b)
		}
	}
}
