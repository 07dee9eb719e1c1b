package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"taproot/internal/plan"
	"taproot/tap"
	"taproot/userns"
)

// Run runs a command in a network of its own and returns the command's exit
// status, 128+n if signal n ended it. An error means that the command did not
// run, or that we failed; one that has a remedy has a method Hint() string.
func Run(ctx context.Context, command userns.Config, cfg Config) (status int, err error) {
	c := &commandWorld{config: command}
	err = supervise(ctx, cfg, c)
	return c.status, err
}

// Attach serves the network of namespaces that exist. It returns nil when they
// are gone, or when ctx has ended. An error means that the network does not
// work; one that has a remedy has a method Hint() string.
func Attach(ctx context.Context, to Attachment, cfg Config) error {
	return supervise(ctx, cfg, &attachedWorld{to: to})
}

// A world is where the guest lives.
type world interface {
	// open gets hold of the namespaces and of the device in them, set up as
	// the supervisor's plan says.
	open(ctx context.Context, s *supervisor) (device *os.File, features tap.Features, err error)

	// namespace returns the guest's namespaces, or why they are out of reach. It
	// may be called from several goroutines.
	namespace() (*userns.Namespace, error)

	// live returns when the guest is gone. It is called when everything works.
	live(ctx context.Context, s *supervisor) error

	// place is where the guest is: the process that it was entered by, and the
	// path of its network namespace, each as far as it is known.
	place() (process int, path string)

	// bare tells whether the device is opened and not set up.
	bare() bool

	// outlives tells whether the guest goes on when the supervisor is killed.
	outlives() bool

	// close lets everything go that open and namespace have taken.
	close()
}

// A commandWorld is made for a command and ends with it.
type commandWorld struct {
	config userns.Config
	guest  *userns.Guest
	ns     *userns.Namespace
	nsErr  error // why ns is nil
	status int
}

func (c *commandWorld) open(ctx context.Context, s *supervisor) (device *os.File, _ tap.Features, err error) {
	d := &tapDevice{offload: s.cfg.Offload}
	setup := s.setup(d)
	if !s.cfg.KeepFiles {
		setup.ResolvConf, setup.Hosts = s.files()
	}
	c.config.Log = s.log
	if c.guest, err = userns.Start(ctx, c.config, setup); err != nil {
		return nil, tap.Features{}, err
	}
	// Now, while the guest's first process is where we have put it.
	c.ns, c.nsErr = c.guest.Namespace()
	return c.guest.Device(), d.features, nil
}

// files returns the contents of the command's resolv.conf and hosts; nil leaves
// the host's in view.
func (s *supervisor) files() (resolvConf, hosts []byte) {
	if !s.cfg.DNS.Off && hasResolver(&s.plan) {
		resolvConf = guestResolvConf(&s.plan, s.spec.Host)
	}
	return resolvConf, guestHosts(&s.plan)
}

func (c *commandWorld) namespace() (*userns.Namespace, error) { return c.ns, c.nsErr }

func (c *commandWorld) place() (process int, path string) {
	process = c.guest.PID()
	return process, fmt.Sprintf("/proc/%d/ns/net", process)
}

func (c *commandWorld) bare() bool { return false }

func (c *commandWorld) outlives() bool { return false }

func (c *commandWorld) live(ctx context.Context, s *supervisor) (err error) {
	if err := c.guest.Go(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.guest.Keep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the host's files come into the guest's view when they are replaced", "error", err)
		}
	})
	defer wg.Wait()
	defer cancel()
	c.status, err = c.guest.Wait()
	return err
}

func (c *commandWorld) close() {
	if c.ns != nil {
		c.ns.Close()
	}
	if c.guest != nil {
		c.guest.Close()
	}
}

// An attachedWorld exists already.
type attachedWorld struct {
	to Attachment
	ns *userns.Namespace
}

func (a *attachedWorld) open(ctx context.Context, s *supervisor) (device *os.File, _ tap.Features, err error) {
	if a.to.Device != nil {
		return openInherited(a.to.Device, s.cfg.Offload)
	}
	d := &tapDevice{offload: s.cfg.Offload}
	setup := s.setup(d)
	setup.Bare = a.to.Bare
	if a.ns, err = userns.OpenTarget(a.to.Target); err != nil {
		return nil, tap.Features{}, err
	}
	device, warnings, err := a.ns.Attach(ctx, setup)
	for _, text := range warnings {
		s.log.Warn(text)
	}
	return device, d.features, err
}

// errNoNamespace says that a rule needs sockets in a namespace that we were
// not told of.
var errNoNamespace = errors.New("the guest's namespace is not known, only its device")

func (a *attachedWorld) namespace() (*userns.Namespace, error) {
	if a.ns == nil {
		return nil, errNoNamespace
	}
	return a.ns, nil
}

func (a *attachedWorld) place() (process int, path string) {
	t := a.to.Target
	if t.PID != 0 {
		return t.PID, fmt.Sprintf("/proc/%d/ns/net", t.PID)
	}
	return 0, t.NetNS
}

func (a *attachedWorld) bare() bool { return a.to.Bare }

func (a *attachedWorld) outlives() bool { return true }

func (a *attachedWorld) live(ctx context.Context, s *supervisor) error {
	if a.ns == nil || a.to.Stay {
		select {
		case <-ctx.Done():
			return nil
		case why := <-s.gone:
			return why
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left := make(chan error, 1)
	go func() { left <- a.ns.Wait(ctx, a.to.Follow) }() // ends with ctx
	select {
	case err := <-left:
		if ctx.Err() != nil {
			return nil
		}
		return err
	case why := <-s.gone:
		cancel()
		<-left
		return why
	}
}

func (a *attachedWorld) close() {
	if a.ns != nil {
		a.ns.Close()
	}
}

func hasResolver(p *plan.Plan) bool { return p.V4.Resolver.IsValid() || p.V6.Resolver.IsValid() }
