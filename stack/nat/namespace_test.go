package nat

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// namespaceEnv is set in the test binary that runs in namespaces of its own.
const namespaceEnv = "TAPROOT_NAT_NAMESPACE"

// What the namespace's loopback device answers to, besides the usual.
const (
	outside4      = "198.51.100.1"
	otherOutside4 = "198.51.100.2"
	outside6      = "2001:db8::1"
)

// inNamespace returns true in a process that has a user and a network
// namespace of its own, with the addresses above. In any other process it runs
// the test again in such a one and returns false.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != "" {
		setUpLoopback(t)
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	// The race detector would wait a second at the end of each process.
	cmd.Env = append(os.Environ(), namespaceEnv+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		t.Errorf("in a namespace: %v\n%s", err, out)
	case strings.Contains(os.Getenv("TAPROOT_MUST"), "netns"):
		t.Fatalf("make a namespace: %v", err)
	default:
		t.Skipf("make a namespace: %v", err)
	}
	return false
}

func setUpLoopback(t *testing.T) {
	t.Helper()
	s4 := controlSocket(t, unix.AF_INET)
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifreq.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s4, unix.SIOCSIFFLAGS, ifreq); err != nil {
		t.Fatalf("lo up: %v", err)
	}
	for alias, address := range map[string]string{"lo:1": outside4, "lo:2": otherOutside4} {
		ifreq, err := unix.NewIfreq(alias)
		if err != nil {
			t.Fatal(err)
		}
		b := netip.MustParseAddr(address).As4()
		if err := ifreq.SetInet4Addr(b[:]); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(s4, unix.SIOCSIFADDR, ifreq); err != nil {
			t.Fatalf("address %s: %v", address, err)
		}
		b = [4]byte{255, 255, 255, 255}
		if err := ifreq.SetInet4Addr(b[:]); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(s4, unix.SIOCSIFNETMASK, ifreq); err != nil {
			t.Fatalf("netmask of %s: %v", address, err)
		}
	}
	// struct in6_ifreq of linux/ipv6.h
	in6 := struct {
		address [16]byte
		prefix  uint32
		index   int32
	}{netip.MustParseAddr(outside6).As16(), 128, 1}
	s6 := controlSocket(t, unix.AF_INET6)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s6), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&in6))); errno != 0 {
		t.Fatalf("address %s: %v", outside6, errno)
	}
	// The kernel's duplicate address detection is over at once on a loopback
	// device, but in another thread.
	settle.Until(t, outside6+" is usable", func() bool {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(outside6)})
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// setMTU sets the MTU of the namespace's loopback device, in bytes.
func setMTU(t *testing.T, mtu uint32) {
	t.Helper()
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifreq.SetUint32(mtu)
	if err := unix.IoctlIfreq(controlSocket(t, unix.AF_INET), unix.SIOCSIFMTU, ifreq); err != nil {
		t.Fatalf("MTU: %v", err)
	}
}

func controlSocket(t *testing.T, family int) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// inject sends an ICMPv4 error from a router to the host, about a packet from
// the host.
func inject(t *testing.T, router string, kind ErrorKind, original []byte, mtu int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	packet := icmpError(kind, original, netip.MustParseAddr(router), mtu)
	to := &unix.SockaddrInet4{Addr: [4]byte(original[12:16])}
	if err := unix.Sendto(fd, packet, 0, to); err != nil {
		t.Fatalf("inject: %v", err)
	}
}
