package pasta

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"taproot/internal/api"
	"taproot/internal/engine"
	"taproot/portfwd"
)

// A control is the socket of --conf-path, which is that of taproot's API: pesto
// and `taproot ctl` see and change the same rules there. The zero value is
// without one.
type control struct {
	server *api.Server
	log    *slog.Logger
	wg     sync.WaitGroup
}

// listen makes the socket, unless path is empty. Who connects is answered once
// run was called.
func (c *control) listen(path, version string, log *slog.Logger) (err error) {
	if path == "" {
		return nil
	}
	c.log = log
	c.server, err = api.Listen(api.Config{Name: api.NewName(Name), Path: path, Version: version, Log: log})
	return err
}

// run answers clients from now on, until close is called. It has one goroutine.
func (c *control) run(ctx context.Context, in *engine.Instance, o *options) {
	if c.server == nil {
		return
	}
	c.wg.Go(func() {
		if err := c.server.Run(ctx, in, completed{in.Rules, o}); err != nil {
			c.log.Warn("control socket", "error", err)
		}
	})
}

// close removes the socket and waits for clients to be gone.
func (c *control) close() {
	if c.server == nil {
		return
	}
	if err := c.server.Close(); err != nil {
		c.log.Warn("control socket", "error", err)
	}
	c.wg.Wait()
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
