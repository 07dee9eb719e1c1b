package userns

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"taproot/userns/nft"
)

// TryDivert makes the rules of a diversion in the network namespace that the
// process itself is in, and removes them. less says what of them the kernel lacks
// and Divert leaves out, nil if nothing; err why Divert would not work. Either has
// a remedy, see Divert.
func TryDivert() (less, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, noTables(os.NewSyscallError("socket", err))
	}
	socket, err := newKernelSocket(os.NewFile(uintptr(fd), "netlink"))
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	return tryRules(nft.NewConn(socket))
}

// tryRules makes all rules and removes them.
func tryRules(rules *nft.Conn) (less, err error) {
	every := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	d := &Diversion{want: Divert{Nested: every}, options: allOptions(true), crowded: true, link: loopbackIndex, sides: sides(), rules: rules}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.setRules(); err != nil {
		return nil, err
	}
	return errors.Join(d.lacks...), d.rules.Remove(d.tables())
}
