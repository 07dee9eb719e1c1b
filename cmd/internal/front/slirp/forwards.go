package slirp

import (
	"context"
	"errors"

	"taproot/internal/control"
	"taproot/portfwd"
)

// forwards shows published ports to the API socket.
type forwards struct {
	rules *portfwd.Table
}

// Add implements control.Forwarder.
func (f forwards) Add(ctx context.Context, c control.Forward) (id int, err error) {
	return f.rules.Add(ctx, portfwd.Rule{
		Direction: portfwd.Inbound,
		Proto:     c.Proto,
		Listen:    c.Host,
		Target:    c.Guest,
	})
}

// List implements control.Forwarder.
func (f forwards) List() []control.Forward {
	var list []control.Forward
	for _, e := range f.rules.List() {
		list = append(list, control.Forward{ID: e.ID, Proto: e.Rule.Proto, Host: e.Rule.Listen, Guest: e.Rule.Target})
	}
	return list
}

// Remove implements control.Forwarder.
func (f forwards) Remove(id int) error {
	err := f.rules.Remove(id)
	if errors.Is(err, portfwd.ErrNoRule) {
		return control.ErrNoForward
	}
	return err
}
