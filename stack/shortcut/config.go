package shortcut

import (
	"errors"
	"net/netip"
	"os"

	"taproot/internal/relay"
	"taproot/stack"
	"taproot/stack/nat"
)

// A Config says what a Shortcut works with.
type Config struct {
	// Config is the same as nat.TCP's. Its Guest may be left out.
	nat.Config

	// Stack is where SYNs come from and where they are put back.
	Stack *stack.Stack

	// TCP is the other way: it adopts connections that this one cannot finish.
	TCP *nat.TCP

	// Mover moves the bytes.
	Mover *relay.Mover

	// Listeners are the transparent listeners in the guest's namespace, one for
	// each family. New takes them over, also when it fails.
	Listeners []*os.File

	// Except tells destinations that only the stack can serve: those of the
	// gateway's own services. nil excepts none.
	Except func(netip.AddrPort) bool

	// MaxPending is how many connections may wait for their target or for the guest;
	// 0 means stack.MaxPending.
	MaxPending int

	// Broken is called when the rules in the guest's namespace do not do what they
	// should, and the shortcut was disabled therefore. It must not block. nil
	// calls nobody.
	Broken func()
}

func (c *Config) complete() error {
	switch {
	case c.Stack == nil:
		return errors.New("shortcut: Stack is missing")
	case c.TCP == nil:
		return errors.New("shortcut: TCP is missing")
	case c.Mover == nil:
		return errors.New("shortcut: Mover is missing")
	case len(c.Listeners) == 0:
		return errors.New("shortcut: Listeners are missing")
	}
	if c.MaxPending <= 0 {
		c.MaxPending = stack.MaxPending
	}
	if c.Guest == nil {
		c.Guest = c.Stack
	}
	if c.Except == nil {
		c.Except = func(netip.AddrPort) bool { return false }
	}
	if c.Broken == nil {
		c.Broken = func() {}
	}
	return c.Config.Complete()
}
