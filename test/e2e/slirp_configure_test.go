package e2e

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"taproot/test/lab"
)

// TestSlirpConfigure: what the namespace looks like when the helper is ready.
func TestSlirpConfigure(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		options string
		want    lab.Link // all but what is always the same; no MAC is any
	}{
		{"defaults", "-c", lab.Link{MTU: 1500, Addresses: []string{"10.0.2.100/24"}, Routes: []string{"0.0.0.0/0 via 10.0.2.2"}}},
		{"cidr /25", "-c --cidr=192.168.77.128/25",
			lab.Link{MTU: 1500, Addresses: []string{"192.168.77.228/25"}, Routes: []string{"0.0.0.0/0 via 192.168.77.130"}}},
		{"cidr /16", "-c --cidr=10.7.0.0/16",
			lab.Link{MTU: 1500, Addresses: []string{"10.7.0.100/16"}, Routes: []string{"0.0.0.0/0 via 10.7.0.2"}}},
		{"cidr /8", "-c --cidr=10.0.0.0/8",
			lab.Link{MTU: 1500, Addresses: []string{"10.0.0.100/8"}, Routes: []string{"0.0.0.0/0 via 10.0.0.2"}}},
		{"mac", "-c --macaddress=02:00:5e:10:20:30",
			lab.Link{MTU: 1500, MAC: "02:00:5e:10:20:30", Addresses: []string{"10.0.2.100/24"}, Routes: []string{"0.0.0.0/0 via 10.0.2.2"}}},
		{"mtu", "-c --mtu=65520",
			lab.Link{MTU: 65520, Addresses: []string{"10.0.2.100/24"}, Routes: []string{"0.0.0.0/0 via 10.0.2.2"}}},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				s := s.with(t)
				to := s.target(t)
				h := s.run(t, append(strings.Fields(tt.options), to.pid(), "tap0")...)
				got := to.link(t)
				tt.want.Name, tt.want.Up = "tap0", true
				tt.want.Multicast = !s.original // setting the flags to just two takes it away
				if got := withoutIPv6(got); !sameLink(got, tt.want) {
					t.Errorf("interface: got %+v, want %+v", got, tt.want)
				}
				to.wantLoopback(t)
				h.stop(t)
			})
		}
	})
}

// TestSlirpNotConfigured: without --configure the device is there, and that is
// all.
func TestSlirpNotConfigured(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		h := s.run(t, to.pid(), "tap0")
		if l := to.link(t); l.Name != "tap0" || l.Up || l.Addresses != nil || l.Routes != nil {
			t.Errorf("interface: got %+v, want tap0, down and without addresses", l)
		}
		h.stop(t)
	})
}

// TestSlirpLongName: a name that is too long is cut.
func TestSlirpLongName(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		h := s.run(t, "-c", to.pid(), "a-name-too-long-for-linux")
		wantText(t, "name", to.link(t).Name, "a-name-too-long")
		h.stop(t)
	})
}

// TestSlirpIPv6: the kernel makes itself an address of the announced prefix.
// Podman reads that address off the interface.
func TestSlirpIPv6(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.IPv6)
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		h := s.run(t, "-c", "-6", "--macaddress=02:00:5e:10:20:30", to.pid(), "tap0")
		to.wantIPv6(t)
		l := to.link(t)
		if want := "fd00::5eff:fe10:2030/64"; !slices.Contains(l.Addresses, want) {
			t.Errorf("addresses: got %v, want %s", l.Addresses, want)
		}
		if want := "::/0 via fe80::2"; !slices.Contains(l.Routes, want) {
			t.Errorf("routes: got %v, want %s", l.Routes, want)
		}
		h.stop(t)
	})
	// Nobody asked for it: nothing is announced.
	t.Run("off", func(t *testing.T) {
		ourSlirp(t, func(t *testing.T, s slirp) {
			to := s.target(t)
			h := s.attach(t, to)
			for _, a := range to.link(t).Addresses {
				if strings.Contains(a, ":") {
					t.Errorf("address %s without --enable-ipv6", a)
				}
			}
			h.stop(t)
		})
	})
}

// TestSlirpPersistent: rootlesskit makes the device itself, sets it up and gives
// it its address.
func TestSlirpPersistent(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		to.net.PersistentTAP("tap0")
		to.net.Addresses("tap0", "10.0.2.100/24")
		to.net.AddRoute("tap0", "0.0.0.0/0", gateway4)
		for range 2 { // it outlives the helper, and another one takes it
			h := s.run(t, "--mtu=65520", to.pid(), "tap0")
			listener := s.Host.Listen("tcp", "127.0.0.1:0")
			if got := to.connect(t, gateway4, listener.Addr()); got != "connected" {
				t.Errorf("connect: got %s, want connected", got)
			}
			h.stop(t)
			wantText(t, "device after the helper", to.link(t).Name, "tap0")
		}
	})
}

// TestSlirpTargets: the user's id in the target's user namespace does not
// matter, and neither does where the helper is started.
func TestSlirpTargets(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		options []string // of unshare
		args    func(to *target) []string
		inside  bool // the helper runs in the target's user namespace
	}{
		{"mapped to root", []string{"--map-root-user"}, slirpByPID, false},
		{"mapped to itself", []string{"--map-current-user"}, slirpByPID, false},
		{"not mapped", []string{}, slirpByPID, false},
		{"paths", nil, func(to *target) []string {
			return []string{"--userns-path=" + to.user(), "--netns-type=path", to.network(), "tap0"}
		}, false},
		{"any other type is a path", nil, func(to *target) []string {
			return []string{"--userns-path=" + to.user(), "--netns-type=frobnicate", to.network(), "tap0"}
		}, false},
		{"path from inside", nil, func(to *target) []string {
			return []string{"--netns-type=path", to.network(), "tap0"}
		}, true},
		{"pid from inside", nil, slirpByPID, true},
		{"sandbox", nil, func(to *target) []string { return append([]string{"--enable-sandbox"}, slirpByPID(to)...) }, false},
		{"sandbox from inside", nil, func(to *target) []string {
			return []string{"--enable-sandbox", "--enable-seccomp", "--netns-type=path", to.network(), "tap0"}
		}, true},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				s := s.with(t)
				to := s.target(t, tt.options...)
				if tt.inside {
					s.inside = to
				}
				h := s.run(t, append([]string{"-c"}, tt.args(to)...)...)
				listener := s.Host.Listen("tcp", "127.0.0.1:0")
				if got := to.connect(t, gateway4, listener.Addr()); got != "connected" {
					t.Errorf("connect: got %s, want connected", got)
				}
				h.stop(t)
			})
		}
		t.Run("path without its user namespace", func(t *testing.T) {
			s := s.with(t)
			to := s.target(t)
			args := []string{"-c", "--netns-type=path", to.network(), "tap0"}
			if !s.original { // the namespace tells whose it is
				s.run(t, args...).stop(t)
				return
			}
			h := s.start(t, args...)
			wantText(t, "ready descriptor", h.said(t), "")
			if got := h.Status(); got != 1 {
				t.Errorf("status: got %d, want 1", got)
			}
		})
	})
}

func slirpByPID(to *target) []string { return []string{to.pid(), "tap0"} }

// TestSlirpMounted: a namespace without any process, which podman keeps by a
// mount.
func TestSlirpMounted(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		path := filepath.Join(s.session.RuntimeDir, "netns")
		const script = `touch $1 && unshare --net=$1 true && shift && exec "$@"`
		helperArgs := []string{s.path, "-c", "-r", "3", "-e", "4", "--netns-type=path", path, "tap0"}
		c := s.session.Command("unshare", append([]string{"--map-root-user", "--mount", "sh", "-c", script, "sh", path}, helperArgs...)...)
		ready, readyIn := pipe(t)
		exitOut, exit := pipe(t)
		c.ExtraFiles = []*os.File{readyIn, exitOut}
		c.MustStart()
		readyIn.Close()
		exitOut.Close()
		h := &helper{c, ready, exit}
		h.wantReady(t)
		in := "/proc/" + (&target{Cmd: c}).pid() + "/ns/"
		got := s.session.Command("nsenter", "--user="+in+"user", "--mount="+in+"mnt", "--preserve-credentials",
			"nsenter", "--net="+path, "cat", "/proc/net/route").MustRun()
		wantContains(t, "routes", got, "tap0\t00000000\t0202000A")
		h.stop(t)
	})
}

// TestSlirpTapFD: a device that the caller has opened, as version 1.3 of the
// original takes it.
func TestSlirpTapFD(t *testing.T) {
	t.Parallel()
	ourSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		device := to.net.OpenTAP("mytap")
		to.net.SetUp("mytap")
		to.net.Addresses("mytap", "10.0.2.100/24")
		c := s.command("-e", "3", "-r", "4", "--netns-type=tapfd", "5")
		exitOut, exit := pipe(t)
		ready, readyIn := pipe(t)
		c.ExtraFiles = []*os.File{exitOut, readyIn, device}
		c.MustStart()
		exitOut.Close()
		readyIn.Close()
		h := &helper{c, ready, exit}
		h.wantReady(t)
		listener := s.Host.Listen("tcp", "127.0.0.1:0")
		if got := to.connect(t, gateway4, listener.Addr()); got != "connected" {
			t.Errorf("connect: got %s, want connected", got)
		}
		h.stop(t)
	})
}

// TestSlirpBESS: frames over a socket, to which the BESS switch connects. The
// test asks for the gateway's address.
func TestSlirpBESS(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		path := filepath.Join(s.session.RuntimeDir, "bess")
		h := s.start(t, "--target-type=bess", path)
		var conn net.Conn
		s.Eventually("it listens", func() (ok bool) {
			var err error
			conn, err = s.Host.Dial(t.Context(), "unixpacket", path)
			return err == nil
		})
		defer conn.Close()
		h.wantReady(t)
		conn.SetDeadline(time.Now().Add(lab.Patience))
		if _, err := conn.Write(arpRequest(netip.MustParseAddr(guest4), netip.MustParseAddr(gateway4))); err != nil {
			t.Fatal(err)
		}
		for {
			frame := make([]byte, 65536)
			n, err := conn.Read(frame)
			if err != nil {
				t.Fatalf("waiting for the ARP reply: %v", err)
			}
			if isARPReply(frame[:n], netip.MustParseAddr(gateway4)) {
				break
			}
		}
		h.stop(t)
	})
}

// arpRequest is a frame that asks who has an address (RFC 826).
func arpRequest(from, to netip.Addr) []byte {
	mac := []byte{2, 0, 0x5e, 0x10, 0x20, 0x30}
	b := slices.Repeat([]byte{0xff}, 6)
	b = append(b, mac...)
	b = binary.BigEndian.AppendUint16(b, 0x0806) // ARP
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)        // Ethernet, IPv4, lengths, request
	b = append(append(b, mac...), from.AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
	return append(b, make([]byte, 60-len(b))...) // the shortest frame
}

// isARPReply reports whether a frame is an ARP reply from an address.
func isARPReply(frame []byte, from netip.Addr) bool {
	return len(frame) >= 42 && binary.BigEndian.Uint16(frame[12:]) == 0x0806 &&
		binary.BigEndian.Uint16(frame[20:]) == 2 && netip.AddrFrom4([4]byte(frame[28:32])) == from
}

// wantIPv6 waits for the address that the kernel forms from the router
// advertisement.
func (t *target) wantIPv6(tb testing.TB) {
	tb.Helper()
	lab.Eventually(tb, "an address of fd00::/64", func() bool {
		l := t.link(tb)
		return len(l.Tentative) == 0 && slices.ContainsFunc(l.Addresses, func(a string) bool {
			return strings.HasPrefix(a, "fd00::")
		})
	})
}

// wantLoopback wants the namespace's lo to be up.
func (t *target) wantLoopback(tb testing.TB) {
	tb.Helper()
	err := t.net.Do(func() error {
		lo, err := net.InterfaceByName("lo")
		if err == nil && lo.Flags&net.FlagUp == 0 {
			tb.Error("lo is down, want it up")
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// withoutIPv6 is the interface without what IPv6 has added by itself.
func withoutIPv6(l lab.Link) lab.Link {
	isIPv6 := func(text string) bool { return strings.Contains(text, ":") }
	l.Addresses = slices.DeleteFunc(slices.Clone(l.Addresses), isIPv6)
	l.Routes = slices.DeleteFunc(slices.Clone(l.Routes), isIPv6)
	l.Tentative = nil
	return l
}

// sameLink compares two interfaces; an empty MAC of want is any.
func sameLink(got, want lab.Link) bool {
	return got.Name == want.Name && got.MTU == want.MTU && got.Up == want.Up && got.Multicast == want.Multicast &&
		(want.MAC == "" || got.MAC == want.MAC) &&
		slices.Equal(got.Addresses, want.Addresses) && slices.Equal(got.Routes, want.Routes)
}
