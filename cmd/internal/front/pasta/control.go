package pasta

import (
	"context"
	"log/slog"
	"net/netip"
	"os"

	"taproot/internal/api"
	"taproot/portfwd"
)

// listen makes the socket of --conf-path, which is that of taproot's API: pesto and
// `taproot ctl` see and change the same rules there. Without the option it is the
// one that the environment asks for, or none.
func (o *options) listen(version string, log *slog.Logger) (*api.Server, error) {
	cfg := api.Config{Name: api.NewName(Name), Path: o.control, Version: version, Log: log}
	if o.control != "" {
		return api.Listen(cfg)
	}
	s, err := api.ListenAsked(cfg)
	if err != nil {
		log.Warn("no API socket", "error", err)
	}
	return s, nil
}

// A completed table holds for rules that come later what the options say of
// those of the start.
type completed struct {
	*portfwd.Table
	options *options
}

// Add is that of portfwd.Table.
func (c completed) Add(ctx context.Context, r portfwd.Rule) (id int, err error) {
	return c.Table.Add(ctx, c.options.complete(r))
}

// AddAuto is that of portfwd.Table.
func (c completed) AddAuto(ctx context.Context, a portfwd.AutoConfig) (id int, err error) {
	r := c.options.complete(portfwd.Rule{
		Direction: a.Direction, Listen: netip.AddrPortFrom(a.Listen, 0), Device: a.Device,
		Local: a.Local, Loopback: a.Loopback, Freebind: a.Freebind,
	})
	a.Local, a.Loopback, a.Freebind = r.Local, r.Loopback, r.Freebind
	return c.Table.AddAuto(ctx, a)
}

// Adopt is that of portfwd.Table. The socket says where it listens.
func (c completed) Adopt(ctx context.Context, r portfwd.Rule, f *os.File) (id int, err error) {
	local, freebind := r.Local, r.Freebind
	r = c.options.complete(r)
	r.Local, r.Freebind = local, freebind
	return c.Table.Adopt(ctx, r, f)
}
