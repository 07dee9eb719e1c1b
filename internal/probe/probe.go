package probe

import (
	"context"
	"errors"
)

// Names of the rows, which are part of the JSON form.
const (
	nameUserNS    = "user namespaces"
	nameTUN       = "tun"
	nameOffloads  = "offloads"
	nameSubIDs    = "subordinate ids"
	namePing      = "ping"
	nameLowPorts  = "low ports"
	nameIPv6      = "ipv6"
	nameResolvers = "resolvers"
	nameLandlock  = "landlock"
	nameSeccomp   = "seccomp"
	nameTProxy    = "tproxy"
	nameSandbox   = "sandbox"
)

// All tries everything and returns a row for each feature, always the same
// rows in the same order. It takes some 20 ms, most of them for the child.
func All(ctx context.Context) []Result {
	var h host
	user, inside := h.tryChild(ctx)
	return []Result{
		user,
		inside.row(nameTUN),
		inside.row(nameOffloads),
		subordinateIDs(),
		ping(),
		h.lowPorts(),
		ipv6(),
		h.resolvers(),
		landlock(),
		seccomp(),
		inside.row(nameTProxy),
		cell(),
	}
}

// Required tries only what `run` cannot do without, and returns the first
// feature that is missing as an *Unsupported, or nil.
func Required(ctx context.Context) error {
	var h host
	user, inside := h.tryChild(ctx)
	for _, r := range []Result{user, inside.row(nameTUN)} {
		if r.Status == Missing {
			return &Unsupported{Feature: r.Name, Remedy: r.Remedy, Err: errors.New(r.Detail)}
		}
	}
	return nil
}

// A host is where the probes that need no namespace look.
type host struct {
	root string // prefix of every path read, "" but in tests
}
