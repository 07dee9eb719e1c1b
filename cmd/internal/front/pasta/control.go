package pasta

import (
	"context"
	"log/slog"
	"net/netip"
	"os"

	"taproot/internal/api"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// listen makes the socket of --conf-path, which is that of taproot's API: pesto and
// `taproot ctl` see and change the same rules there. Without the option it is the one
// of api.ListenAsked, by which nobody opens what the other options close; who asks
// for a control socket wants to change these rules.
func (o *options) listen(version string, log *slog.Logger) (*api.Server, error) {
	cfg := api.Config{Name: api.NewName(Name), Path: o.control, Version: version, Log: log}
	if o.control != "" {
		return api.Listen(cfg)
	}
	cfg.Closed = o.closed()
	s, err := api.ListenAsked(cfg)
	if err != nil {
		log.Warn("no API socket", "error", err)
	}
	return s, nil
}

// closed returns what the options close: a protocol, or the host's loopback to the
// guest. "-t none" does not: it opens no port at the start, and what may be opened
// later is the guest's own.
func (o *options) closed() (list []api.Closed) {
	for i, s := range sides {
		if option := o.closes(i); option != "" {
			list = append(list, api.Closed{Direction: s.direction, Proto: s.proto, Option: option})
		}
	}
	return list
}

// closes returns the option that closes a side to what it does not name, "" if none
// does. i is an index of options.ports.
func (o *options) closes(i int) string {
	switch on := sides[i]; {
	case on.proto == flow.TCP && o.noTCP:
		return "--no-tcp"
	case on.proto == flow.UDP && o.noUDP:
		return "--no-udp"
	case on.direction == portfwd.Inbound:
		return ""
	}
	if o.loopbackOff != "" {
		return o.loopbackOff
	}
	specs := o.ports[i]
	if i == udpOut && len(specs) == 0 {
		specs = o.ports[tcpOut] // see companions
	}
	for _, s := range specs {
		if !s.auto && !s.all || len(s.maps)+len(s.exclude) > 0 {
			return s.option + " " + s.text
		}
	}
	return ""
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
	a.Period = automaticPeriod
	return c.Table.AddAuto(ctx, a)
}

// Adopt is that of portfwd.Table. The socket says where it listens.
func (c completed) Adopt(ctx context.Context, r portfwd.Rule, f *os.File) (id int, err error) {
	local, freebind := r.Local, r.Freebind
	r = c.options.complete(r)
	r.Local, r.Freebind = local, freebind
	return c.Table.Adopt(ctx, r, f)
}
