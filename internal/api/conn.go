package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// peerOf returns who is at the other end of a Unix socket, as the kernel knows
// it.
func peerOf(c net.Conn) (unix.Ucred, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return unix.Ucred{}, fmt.Errorf("peer of %T: %w", c, unix.EAFNOSUPPORT)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return unix.Ucred{}, err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return unix.Ucred{}, err
	}
	if peerErr != nil {
		return unix.Ucred{}, os.NewSyscallError("get SO_PEERCRED", peerErr)
	}
	return *peer, nil
}

// A guard lets in whom it trusts, and so many at once. The others wait in the
// socket's queue.
type guard struct {
	*net.UnixListener
	trusts    func(uid uint32) bool
	strangers *atomic.Uint64 // counts the others
	slots     chan struct{}
}

// Accept implements net.Listener.
func (g *guard) Accept() (net.Conn, error) {
	g.slots <- struct{}{}
	for {
		c, err := g.AcceptUnix()
		if err != nil {
			<-g.slots
			return nil, passes(err)
		}
		if peer, err := peerOf(c); err != nil || !g.trusts(peer.Uid) {
			g.strangers.Add(1)
			c.Close()
			continue
		}
		return &conn{UnixConn: c, release: func() { <-g.slots }}, nil
	}
}

// A passing error is one after which package http accepts again, a while later.
type passing struct{ error }

// Timeout and Temporary implement net.Error.
func (passing) Timeout() bool   { return false }
func (passing) Temporary() bool { return true }

// Unwrap gives the cause.
func (p passing) Unwrap() error { return p.error }

// passes returns an error of accept(2) as one that passes, if it is for lack of
// memory: package http knows that only of descriptors, and would end the API for as
// long as the instance lives.
func passes(err error) error {
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) {
		return passing{err}
	}
	return err
}

// maxRights is how many descriptors wait on a connection for a request that
// wants them; more are closed.
const maxRights = 4

// A conn is a connection that keeps the descriptors that come with its bytes.
type conn struct {
	*net.UnixConn
	release  func()
	once     sync.Once
	progress progress

	mu sync.Mutex
	// +checklocks:mu
	files []*os.File
	// +checklocks:mu
	closed bool
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	var space [128]byte
	oob := space[:unix.CmsgSpace(4*maxRights)] // the kernel closes what does not fit
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	c.progress.note(err)
	if oobn > 0 {
		c.keep(oob[:oobn])
	}
	return n, err
}

// keep keeps descriptors.
func (c *conn) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if len(c.files) == maxRights || c.closed {
				unix.Close(fd)
				continue
			}
			c.files = append(c.files, os.NewFile(uintptr(fd), "passed"))
		}
	}
}

// take returns the descriptors that have come until now, which are the
// caller's.
func (c *conn) take() []*os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	files := c.files
	c.files = nil
	return files
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(c.release)
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	closeAll(c.take())
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Limits of a connection.
const (
	maxConns      = 1024             // more wait to be accepted
	maxBody       = 256 << 10        // bytes of a request: thousands of rules
	maxHeader     = 8 << 10          // bytes
	headerTimeout = 5 * time.Second  // for the header of a request
	bodyTimeout   = 15 * time.Second // for the whole of a request
	writeTimeout  = 30 * time.Second // for a reply to be taken, and for each event
	idleTimeout   = time.Minute      // between requests
	maxStreams    = 64               // of events
)
