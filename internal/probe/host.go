package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"taproot/userns"
)

// subordinateIDs looks for what --map-auto needs.
func subordinateIDs() Result {
	r := Result{Name: nameSubIDs, Status: OK, Detail: "--map-auto has what it needs"}
	if err := userns.SubordinateIDs(); err != nil {
		r.Status, r.Detail, r.Remedy = Missing, err.Error(), hint(err)
	}
	return r
}

// hint returns the remedy that err brings, or "".
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// ping tries to open a ping socket, which the group of the user decides.
func ping() Result {
	r := Result{Name: namePing, Status: OK, Detail: "echo requests of the guest reach other machines"}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		r.Status, r.Detail = Missing, fmt.Sprintf("open ping socket: %v", err)
		r.Remedy = asRoot(`sysctl -w net.ipv4.ping_group_range="0 2147483647"`)
		return r
	}
	_ = unix.Close(fd)
	return r
}

// lowPorts says from which port on the user may listen on the host.
func (h host) lowPorts() Result {
	r := Result{Name: nameLowPorts, Status: OK, Detail: "any port of the host can be published"}
	const key = "net.ipv4.ip_unprivileged_port_start"
	first, err := strconv.Atoi(h.sysctl(key))
	if err != nil {
		first = 1024 // the default, and what kernels before 4.11 have built in
	}
	if first <= 1 || h.mayBindLow() {
		return r
	}
	r.Status, r.Detail = Degraded, fmt.Sprintf("ports of the host can be published from %d on", first)
	r.Remedy = asRoot("sysctl -w " + key + "=80")
	return r
}

// mayBindLow reports whether this process has CAP_NET_BIND_SERVICE.
func (h host) mayBindLow() bool {
	for line := range strings.SplitSeq(h.line("/proc/self/status"), "\n") {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && set&(1<<unix.CAP_NET_BIND_SERVICE) != 0
		}
	}
	return false
}

// ipv6 asks the kernel for a route out. To connect a UDP socket sends nothing.
func ipv6() Result {
	r := Result{Name: nameIPv6, Status: OK, Detail: "the host has a route to other networks"}
	const elsewhere = "[2001:db8::1]:9" // RFC 3849: nobody's address
	c, err := net.Dial("udp6", elsewhere)
	if err == nil {
		c.Close()
		return r
	}
	r.Remedy = "leave it out with: taproot run --ipv6=off"
	if errors.Is(err, unix.EAFNOSUPPORT) {
		r.Status, r.Detail = Missing, "the kernel has no IPv6"
		return r
	}
	r.Status, r.Detail = Degraded, "the host has no route to other networks"
	return r
}

// resolvers lists who will get the guest's queries.
func (h host) resolvers() Result {
	r := Result{Name: nameResolvers, Status: OK}
	var servers []string
	for line := range strings.SplitSeq(h.line("/etc/resolv.conf"), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if _, err := netip.ParseAddr(f[1]); err == nil {
			servers = append(servers, f[1])
		}
	}
	r.Detail = strings.Join(servers, ", ")
	if servers == nil {
		r.Status, r.Detail = Missing, "no nameserver in /etc/resolv.conf"
		r.Remedy = "name one with: taproot run --dns=ADDRESS"
	}
	return r
}
