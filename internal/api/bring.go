package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"
)

// Adopt publishes a socket that is open already, bound and listening: f is what
// the one rule of p listens with. It stays the caller's.
func (c *Client) Adopt(ctx context.Context, p Publication, f *os.File) (rules Rules, err error) {
	p.Adopt = true
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", c.path)
			if err != nil {
				return nil, err
			}
			u := conn.(*net.UnixConn) // that is what it is for "unix"
			return &bringer{UnixConn: u, file: f}, nil
		},
		DisableCompression: true, DisableKeepAlives: true,
	}
	once := &Client{path: c.path, http: http.Client{Transport: transport}}
	err = once.do(ctx, http.MethodPost, "/v1/rules", p, &rules)
	return rules, err
}

// A bringer is a connection whose first bytes bring a descriptor along. One
// goroutine writes, that of package http.
type bringer struct {
	*net.UnixConn
	file *os.File // nil when it is sent
}

// Write implements net.Conn.
func (b *bringer) Write(p []byte) (n int, err error) {
	if b.file == nil || len(p) == 0 {
		return b.UnixConn.Write(p)
	}
	raw, err := b.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		n, _, err = b.WriteMsgUnix(p, unix.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(controlErr, err); err != nil {
		return n, err
	}
	b.file = nil
	if n < len(p) {
		more, err := b.UnixConn.Write(p[n:])
		return n + more, err
	}
	return n, nil
}
