package engine

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"taproot/portfwd"
	"taproot/userns"
)

// addAuto adds the automatic rules of the configuration.
func (s *supervisor) addAuto(ctx context.Context) error {
	for _, c := range s.cfg.Auto {
		if _, err := s.rules.AddAuto(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// diag returns a socket that tells of those of the guest for inbound rules, and
// of the host for outbound ones.
func (s *supervisor) diag(ctx context.Context, d portfwd.Direction) (*os.File, error) {
	if d == portfwd.Outbound {
		return diagSocket()
	}
	return s.diagInGuest(ctx)
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
