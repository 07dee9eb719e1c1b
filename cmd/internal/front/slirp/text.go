package slirp

import (
	"fmt"
	"io"
	"net"
	"net/netip"
)

// Help is the usage. Callers look for the names of options in it, as words.
const Help = `Usage: slirp4netns [OPTION]... PID TAPNAME
       slirp4netns [OPTION]... --netns-type=path PATH TAPNAME
       slirp4netns [OPTION]... --netns-type=tapfd FD
       slirp4netns [OPTION]... --target-type=bess SOCKET

Give an existing network namespace a network without root (this is taproot).

-c, --configure          set the device up: address, MTU and default route
-e, --exit-fd=FD         leave when this descriptor hangs up
-r, --ready-fd=FD        write "1" to this descriptor when the network works
-m, --mtu=MTU            MTU of the network (default=1500, max=65521)
-6, --enable-ipv6        add IPv6, announced by router advertisements
-a, --api-socket=PATH    socket for publishing ports at run time
--cidr=CIDR              IPv4 network (default=10.0.2.0/24)
--disable-host-loopback  close the host's 127.0.0.1 and ::1, which are open to
                         the guest at the gateway's address (10.0.2.2, fd00::2)
--netns-type=TYPE        what the first operand is (pid, path or tapfd,
                         default=pid)
--userns-path=PATH       user namespace to join first
--enable-sandbox         warn if what reads the guest's frames sees files
--enable-seccomp         fail if it cannot have a filter of system calls
--outbound-addr=IPv4     address or interface that outgoing IPv4 comes from
--outbound-addr6=IPv6    address or interface that outgoing IPv6 comes from
--disable-dns            do not answer at the address for DNS (10.0.2.3)
--macaddress=MAC         hardware address of the device (only with -c)
--target-type=TYPE       what the network is for (netns or bess, default=netns)
--shortcut=auto|on|off   TCP from socket to socket, by rules in the namespace;
                         only in taproot (default=auto)
-h, --help               print this help and exit
-v, --version            print the version and exit
`

// follows is the version of slirp4netns that this one can stand in for.
const follows = "1.3.3"

// versionText returns what --version prints: lines with the names that
// slirp4netns's have, and what is true of us.
func versionText(version string) string {
	return "slirp4netns version " + follows + "\n" +
		"commit: taproot " + version + "\n" +
		"libslirp: none, taproot has a stack of its own\n" +
		"SLIRP_CONFIG_VERSION_MAX: 6\n" + // what --disable-dns and the rest need is there
		"libseccomp: none, taproot has filters of its own\n"
}

// Offsets in the network besides those that package plan has.
const (
	gatewayOffset, resolverOffset, guestOffset = 2, 3, 100
	leaseFirst, leaseLast                      = 15, 30
)

// describe prints the addresses as slirp4netns does when it starts.
func (o *options) describe(w io.Writer) {
	at := func(offset byte) netip.Addr { return offsetIn(o.network, offset) }
	fmt.Fprintf(w, "Starting slirp\n* MTU:             %d\n", o.mtu)
	for _, line := range []struct {
		name  string
		value any
	}{
		{"Network:", o.network.Addr()},
		{"Netmask:", net.IP(net.CIDRMask(o.network.Bits(), 32))},
		{"Gateway:", at(gatewayOffset)},
		{"DNS:", at(resolverOffset)},
		{"DHCP begin:", at(leaseFirst)},
		{"DHCP end:", at(leaseLast)},
		{"Recommended IP:", at(guestOffset)},
	} {
		fmt.Fprintf(w, "* %-16s %v\n", line.name, line.value)
	}
	if o.api != "" {
		fmt.Fprintf(w, "* API Socket:      %s\n", o.api)
	}
	if o.outbound.IsValid() {
		fmt.Fprintf(w, "* Outbound IPv4:    %v\n", o.outbound)
	}
	if o.outbound6.IsValid() {
		fmt.Fprintf(w, "* Outbound IPv6:    %v\n", o.outbound6)
	}
	if !o.disableLoopback {
		fmt.Fprintf(w, "WARNING: 127.0.0.1:* on the host is accessible as %v"+
			" (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)\n", at(gatewayOffset))
	}
}

// offsetIn returns the address of network with that offset, for which check
// has seen to it that there is room.
func offsetIn(network netip.Prefix, offset byte) netip.Addr {
	b := network.Addr().As4()
	b[3] += offset
	return netip.AddrFrom4(b)
}
