package engine

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"taproot/portfwd"
	"taproot/userns"
)

// startAuto follows the listeners of the configuration until ctx ends, on
// a goroutine of wg.
func (s *supervisor) startAuto(ctx context.Context, wg *sync.WaitGroup) error {
	var autos []*portfwd.Auto
	for _, c := range s.cfg.Auto {
		a, err := s.newAuto(ctx, c)
		if err != nil {
			for _, a := range autos {
				a.Close()
			}
			return fmt.Errorf("automatic ports: %w", err)
		}
		autos = append(autos, a)
	}
	if len(autos) > 0 {
		wg.Go(func() { portfwd.Follow(ctx, autos, func(err error) { s.cfg.warn(err.Error(), "") }) })
	}
	return nil
}

// newAuto makes what watches the listeners of one side for one protocol.
func (s *supervisor) newAuto(ctx context.Context, c portfwd.AutoConfig) (*portfwd.Auto, error) {
	var diag *os.File
	var err error
	if c.Direction == portfwd.Inbound {
		diag, err = s.diagInGuest(ctx)
	} else {
		diag, err = diagSocket()
	}
	if err != nil {
		return nil, err
	}
	c.Table, c.Log = s.rules, s.log
	return portfwd.NewAuto(c, diag), nil
}

// diagInGuest returns a socket that tells of the guest's sockets.
func (s *supervisor) diagInGuest(ctx context.Context) (*os.File, error) {
	return s.oneInGuest(ctx, userns.Socket{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_SOCK_DIAG})
}

// refuseAgain is how long published ports stay open at least when it is not known
// who listens.
const refuseAgain = time.Second

// refuse has published ports refuse clients while nobody listens, until ctx ends.
func (s *supervisor) refuse(ctx context.Context) {
	for {
		err := s.refuser.Run(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Debug("published ports stay open", "error", err) // no descriptor, or the namespace is not known
		select {
		case <-time.After(refuseAgain):
		case <-ctx.Done():
			return
		}
	}
}

// diagSocket returns a socket that tells of the host's sockets.
func diagSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "sock_diag"), nil
}

// oneInGuest opens one socket inside the guest's namespace.
func (s *supervisor) oneInGuest(ctx context.Context, spec userns.Socket) (*os.File, error) {
	files, err := s.socketsInGuest(ctx, []userns.Socket{spec})
	if err != nil {
		return nil, err
	}
	return files[0], nil
}
