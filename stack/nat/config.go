package nat

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"

	"golang.org/x/time/rate"

	"taproot/internal/socket"
	"taproot/stack/flow"
	"taproot/stack/policy"
)

// A Config is what TCP, UDP and Echo need alike.
type Config struct {
	Guest Guest         // gets replies and errors
	Rules *policy.Rules // asked for each new flow
	Flows *flow.Table   // counts the flows

	// Gateway4 and Gateway6 are the gateway's addresses in the guest's
	// network: the source of errors that nobody else sent. The zero Addr
	// stands for a family that the guest does not have.
	Gateway4, Gateway6 netip.Addr

	// Bind says where the host's sockets start.
	Bind Bind

	// Descriptors is what the sockets of new flows must stay below: at it there is
	// no flow, with EMFILE.
	Descriptors socket.Ceiling

	// ErrorsPerSecond is how many ICMP errors each way out makes itself; 0
	// means the constant of that name.
	ErrorsPerSecond int

	// errors limits Unreachable.
	errors *rate.Limiter

	// Denied is what the guest is told of a destination that a rule forbids; 0
	// means AdminProhibited.
	Denied ErrorKind

	// Log gets each flow at level Debug; nil means no log.
	Log *slog.Logger
}

// A Guest is the guest as the NAT sees it: *stack.Stack. Both methods may be
// called from several goroutines; what they are given stays the caller's.
type Guest interface {
	// SendUDP sends a datagram to the guest; source is the outside end as the
	// guest sees it. With segment > 0, payload is several datagrams of that
	// size, the last one of which may be shorter.
	SendUDP(source, destination netip.AddrPort, payload []byte, segment int) error

	// SendPacket sends a complete IP packet to the guest, in fragments where
	// it is larger than the guest's MTU.
	SendPacket(b []byte) error
}

// Complete puts in what zero fields mean, or says what must not be zero.
func (c *Config) Complete() error {
	switch {
	case c.Guest == nil:
		return errors.New("nat: Guest is missing")
	case c.Rules == nil:
		return errors.New("nat: Rules are missing")
	case c.Flows == nil:
		return errors.New("nat: Flows are missing")
	}
	if c.ErrorsPerSecond <= 0 {
		c.ErrorsPerSecond = ErrorsPerSecond
	}
	c.errors = rate.NewLimiter(rate.Limit(c.ErrorsPerSecond), errorBurst)
	if c.Denied == 0 {
		c.Denied = AdminProhibited
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Stream is Bind.Stream for a new flow.
func (c *Config) Stream(target netip.Addr) (fd int, err error) {
	if fd, err = c.Bind.Stream(target); err != nil {
		return -1, err
	}
	if err := c.Descriptors.Admit(fd); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, nil
}

// gatewayFor returns the gateway's address of the family of addr.
func (c *Config) gatewayFor(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return c.Gateway4
	}
	return c.Gateway6
}
