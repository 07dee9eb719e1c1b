package portfwd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"taproot/stack/flow"
)

// A BindError says which port could not be published. Err is or wraps a
// syscall.Errno.
type BindError struct {
	Proto flow.Proto
	Port  uint16
	Addr  netip.Addr // invalid: every address
	Err   error

	// Holder is who has the port, as in "python3 (pid 1234)", "" if nobody has
	// or we cannot know.
	Holder string

	need    int  // how many descriptors would be enough; 0: not the trouble
	leaving bool // who has it is about to be gone, as far as can be seen
}

// Error returns operation, object and cause.
func (e *BindError) Error() string {
	s := fmt.Sprintf("publish %s/%s: %v", endpoint(netip.AddrPortFrom(e.Addr, e.Port)), e.Proto, e.Err)
	if e.Holder != "" {
		s += ": held by " + e.Holder
	}
	return s
}

// Unwrap returns Err.
func (e *BindError) Unwrap() error { return e.Err }

// Hint returns what the user can do about it: a command to paste, or a choice,
// or "".
func (e *BindError) Hint() string {
	switch {
	case errors.Is(e.Err, syscall.EACCES) && e.Port > 0 && e.Port < 1024:
		return "sysctl net.ipv4.ip_unprivileged_port_start=" + strconv.Itoa(int(e.Port))
	case errors.Is(e.Err, syscall.EMFILE) && e.need > 0:
		return "ulimit -n " + strconv.Itoa(e.need)
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return addressHint(e.Addr)
	}
	return ""
}

// addressHint tells the host's addresses of a family.
func addressHint(missing netip.Addr) string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var names []string
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() == missing.Is4() && !prefix.Addr().IsLinkLocalUnicast() {
			names = append(names, prefix.Addr().String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "the host has " + strings.Join(names, ", ")
}
