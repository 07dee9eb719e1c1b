package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
	"taproot/internal/socket"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// A hostState is what the engine knows of the host. The supervisor sends a new
// one when it changes.
type hostState struct {
	Addresses []netip.Addr     // the host's own
	Servers   []netip.AddrPort // resolvers
	Search    []string         // domains
}

// A message is what supervisor and engine say to each other. Exactly one field
// is set, except where it says otherwise.
type message struct {
	// To the engine:
	Start     *spec                `json:",omitempty"` // with the device and perhaps a capture file
	Host      *hostState           `json:",omitempty"` // what has changed
	Plan      *plan.Plan           `json:",omitempty"` // the guest's new addresses
	Publish   []portfwd.Listener   `json:",omitempty"` // with their sockets, maxRights at most
	Unpublish int                  `json:",omitempty"` // the rule's id
	EndFlows  bool                 `json:",omitempty"` // with Unpublish: the rule's flows end too
	Pause     *portfwd.SocketID    `json:",omitempty"` // that is not to listen
	Resume    *portfwd.SocketID    `json:",omitempty"` // that is to listen again
	Sockets   *socketReply         `json:",omitempty"` // with sockets
	Divert    *divertState         `json:",omitempty"` // with listeners perhaps
	Query     *query               `json:",omitempty"`
	Connected *connectReply        `json:",omitempty"` // with a socket perhaps
	Ping      bool                 `json:",omitempty"` // a Pong is wanted
	Orphans   []portfwd.Connection `json:",omitempty"` // of the guest, that an engine before had
	Go        bool                 `json:",omitempty"` // with spec.Waits: packets are to move
	Yield     bool                 `json:",omitempty"` // it is to hand over its connections, and to end

	// First from the one, then from the other, if the engine is of another build
	// perhaps; before all else.
	Hello *hello `json:",omitempty"`

	// From the engine:
	Pong    bool              `json:",omitempty"` // it lives
	Ready   bool              `json:",omitempty"` // packets move
	Sandbox []SandboxStep     `json:",omitempty"` // with Ready: what it has given up itself
	Failed  string            `json:",omitempty"` // why it cannot start
	Gone    string            `json:",omitempty"` // why the device is gone
	Need    *socketRequest    `json:",omitempty"` // sockets inside the guest
	Closed  int               `json:",omitempty"` // the id of a rule whose sockets are closed
	Refused *portfwd.SocketID `json:",omitempty"` // whose client the guest refused
	Missed  bool              `json:",omitempty"` // there was no room for a socket to be published

	Connect *connectRequest `json:",omitempty"` // to a Unix socket

	Undiverted bool `json:",omitempty"` // the rules of the shortcut do nothing

	// From the engine that yields, and to the one that waits: connections, with their
	// descriptors.
	Handed *handed `json:",omitempty"`

	Answer  *answer     `json:",omitempty"` // to a query, or a part of one
	Limited *flow.Proto `json:",omitempty"` // flows that met a limit
}

// A socketRequest asks for unconnected sockets inside the guest.
type socketRequest struct {
	Family, Type int // AF_INET or AF_INET6; SOCK_STREAM or SOCK_DGRAM

	// Clients is how many are wanted that can stand for clients of published ports,
	// maxRights at most; 0 wants a batch of others.
	Clients int `json:",omitempty"`
}

// socketKinds is how many requests there can be: two families of two types, and of
// clients.
const socketKinds = 6

// valid tells whether an engine of ours would ask for it.
func (r socketRequest) valid() bool {
	if r.Clients < 0 || r.Clients > maxRights || r.Clients > 0 && r.Type != unix.SOCK_STREAM {
		return false
	}
	return (r.Family == unix.AF_INET || r.Family == unix.AF_INET6) && (r.Type == unix.SOCK_STREAM || r.Type == unix.SOCK_DGRAM)
}

// A socketReply comes with as many sockets as there are, or says why there are
// none.
type socketReply struct {
	Request socketRequest
	Error   string
}

// maxMessage is the longest message in bytes: a host with a thousand addresses
// needs 40 KB. The default socket buffer holds it.
const maxMessage = 128 << 10

// A wire is a SEQPACKET socket between supervisor and engine. One goroutine
// may receive while another sends.
type wire struct{ file *os.File }

// newWire returns a connected pair; the second is given to the child.
func newWire() (ours *wire, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return &wire{os.NewFile(uintptr(fds[0]), "engine")}, os.NewFile(uintptr(fds[1]), "supervisor"), nil
}

func (w *wire) close() { w.file.Close() }

// hangUp is close for who does not trust the other side: what that has sent and nobody
// has received is closed as passed.close does, and not by the kernel.
func (w *wire) hangUp() {
	defer w.close()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.Shutdown(int(fd), unix.SHUT_RDWR) // nothing more comes
		b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*maxRights))
		for empty := 0; empty < emptyMost; {
			n, oobn, _, _, err := unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			switch {
			case err == unix.EINTR, err == unix.ECONNRESET:
				continue
			case err != nil:
				return
			case n == 0 && oobn == 0: // the end, or an empty packet
				empty++
			}
			fds, _ := parseRights(oob[:oobn]) // the kernel makes no others
			fds.close()
		}
	})
}

// emptyMost is more empty packets than wait in a socket: net.unix.max_dgram_qlen, 10 or
// 512 mostly (unix(7)).
const emptyMost = 1024

const (
	// sendPause and sendLongest are how often and for how long files are sent
	// while too many are on their way (ETOOMANYREFS in unix(7)): to the one at
	// the other end, who takes them, or to others of the same user.
	sendPause   = time.Millisecond
	sendLongest = 5 * time.Second
)

// send sends m, and files with it, which stay the caller's.
func (w *wire) send(m message, files ...*os.File) error {
	return withRights(files, func(rights []byte) error { return w.sendWith(m, rights) })
}

// sendPassed is send for descriptors that the runtime's poller does not know. They
// stay the caller's.
func (w *wire) sendPassed(m message, fds passed) error {
	if len(fds) == 0 {
		return w.sendWith(m, nil)
	}
	return w.sendWith(m, unix.UnixRights(fds...))
}

// sendWith is send with the control message as it is sent.
func (w *wire) sendWith(m message, rights []byte) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	for begun := time.Now(); ; time.Sleep(sendPause) {
		err := w.sendPacket(b, rights)
		if !errors.Is(err, unix.ETOOMANYREFS) || time.Since(begun) > sendLongest {
			return err
		}
	}
}

// sendBytes sends one packet, when there is room.
func (w *wire) sendBytes(b []byte, files []*os.File) error {
	return withRights(files, func(rights []byte) error { return w.sendPacket(b, rights) })
}

// sendPacket is sendBytes with the control message as it is sent.
func (w *wire) sendPacket(b, rights []byte) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), b, rights, nil, unix.MSG_NOSIGNAL)
		return sendErr != unix.EAGAIN && sendErr != unix.EINTR
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", sendErr)
}

// try sends m unless it had to wait, which is EAGAIN: for room, not for others
// who send.
func (w *wire) try(m message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) {
		sendErr = unix.Sendmsg(int(fd), b, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	}); err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", sendErr)
}

// encode returns a message as it is sent.
func (m message) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err == nil && len(b) > maxMessage {
		err = fmt.Errorf("message of %d bytes, at most %d fit", len(b), maxMessage)
	}
	return b, err
}

// withRights calls f with the control message that carries files, all of which
// stay open meanwhile. It does not use Fd, which would make them blocking, in
// the other process too.
func withRights(files []*os.File, f func(rights []byte) error) error {
	fds := make([]int, 0, len(files))
	var hold func(rest []*os.File) error
	hold = func(rest []*os.File) error {
		if len(rest) == 0 {
			if len(fds) == 0 {
				return f(nil)
			}
			return f(unix.UnixRights(fds...))
		}
		raw, err := rest[0].SyscallConn()
		if err != nil {
			return err
		}
		controlErr := raw.Control(func(fd uintptr) {
			fds = append(fds, int(fd))
			err = hold(rest[1:])
		})
		return errors.Join(controlErr, err)
	}
	return hold(files)
}

// errMessage says that the other side has said what makes no sense.
var errMessage = errors.New("bad message")

// receive returns the next message and the files that came with it, made
// non-blocking. It returns io.EOF when the other side is gone, and errMessage for
// what is none.
func (w *wire) receive() (message, []*os.File, error) {
	m, fds, err := w.receiveRaw()
	if err != nil {
		fds.close()
		return message{}, nil, err
	}
	files, err := fds.files()
	if err != nil {
		return message{}, nil, err
	}
	return m, files, nil
}

// receiveRaw is receive for descriptors that the runtime's poller shall not know:
// it wakes us at once for each socket that is not connected.
func (w *wire) receiveRaw() (message, passed, error) {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return message{}, nil, err
	}
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxRights))
	var n, oobn, flags int
	var receiveErr error
	if err := raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, receiveErr = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
		if receiveErr == unix.ECONNRESET { // told once: the other side left something unread, and its last words are still there
			n, oobn, flags, _, receiveErr = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
		}
		return receiveErr != unix.EAGAIN && receiveErr != unix.EINTR
	}); err != nil {
		return message{}, nil, err
	}
	if receiveErr != nil {
		return message{}, nil, os.NewSyscallError("recvmsg", receiveErr)
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		return message{}, nil, err
	}
	if n == 0 {
		return message{}, fds, io.EOF
	}
	var m message
	if err := json.Unmarshal(b[:n], &m); err != nil {
		return message{}, fds, fmt.Errorf("%w: %w", errMessage, err)
	}
	if m.Handed != nil {
		m.Handed.lost = flags&unix.MSG_CTRUNC != 0
	}
	return m, fds, nil
}

// maxRights is how many descriptors a message may carry: SCM_MAX_FD of the
// kernel (unix(7)).
const maxRights = 253

// passed are descriptors that came with a message.
type passed []int

// parseRights returns the descriptors in a control message.
func parseRights(oob []byte) (passed, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(cmsgs) != 1 {
		return nil, errors.Join(errors.New("control message"), err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil {
		return nil, fmt.Errorf("passed descriptors: %w", err)
	}
	return fds, nil
}

// files makes files of descriptors, non-blocking ones.
func (p passed) files() ([]*os.File, error) {
	if len(p) == 0 {
		return nil, nil
	}
	var err error
	files := make([]*os.File, len(p))
	for i, fd := range p {
		err = errors.Join(err, unix.SetNonblock(fd, true))
		files[i] = os.NewFile(uintptr(fd), "passed")
	}
	if err != nil {
		closeAll(files)
		return nil, os.NewSyscallError("set non-blocking", err)
	}
	return files, nil
}

// admitted returns those that are below a ceiling, and closes the others.
func (p passed) admitted(c socket.Ceiling) passed {
	return slices.DeleteFunc(p, func(fd int) bool { return c.Admit(fd) != nil })
}

// close closes them, at once: whoever has sent a socket may have made its last close
// wait for what it has to send (SO_LINGER of socket(7)). A connection of which there is
// no other descriptor is reset.
func (p passed) close() {
	for _, fd := range p {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // ENOTSOCK of what is none
		unix.Close(fd)
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
