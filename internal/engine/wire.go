package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"taproot/stack/policy"
	"taproot/tap"
)

// A spec is all that the engine is told at its start. It comes with the TAP
// device's descriptor.
type spec struct {
	Features tap.Features
	MTU      int    // bytes of IP packet
	MAC      []byte // the gateway's

	// The guest's network; invalid values for a family that is off.
	Guest4, Guest6       netip.Prefix
	Gateway4, Gateway6   netip.Addr
	Resolver4, Resolver6 netip.Addr

	HostLoopback, AllowHost policy.Ports
	AllowLinkLocal          bool

	ServeDNS bool // whether the resolver's address answers
	Verbose  bool // debug log to stderr

	Host hostState
}

// A hostState is what the engine knows of the host. The supervisor sends a new
// one when it changes.
type hostState struct {
	Addresses []netip.Addr     // the host's own
	Servers   []netip.AddrPort // resolvers
	Search    []string         // domains
}

// A message is what supervisor and engine say to each other. Exactly one field
// is set.
type message struct {
	Start  *spec      `json:",omitempty"` // to the engine, with the device
	Host   *hostState `json:",omitempty"` // to the engine
	Ready  bool       `json:",omitempty"` // from the engine: packets move
	Failed string     `json:",omitempty"` // from the engine: why it cannot start
	Gone   string     `json:",omitempty"` // from the engine: the device is gone
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

// send sends m, and a descriptor with it unless f is nil.
func (w *wire) send(m message, f *os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d fit", len(b), maxMessage)
	}
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), b, rights, nil, unix.MSG_NOSIGNAL)
		return sendErr != unix.EAGAIN
	}); err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", sendErr)
}

// receive returns the next message and the descriptor that came with it, nil
// if none did. It returns io.EOF when the other side is gone.
func (w *wire) receive() (message, *os.File, error) {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return message{}, nil, err
	}
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var receiveErr error
	if err := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, receiveErr = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
		return receiveErr != unix.EAGAIN && receiveErr != unix.EINTR
	}); err != nil {
		return message{}, nil, err
	}
	if receiveErr != nil {
		return message{}, nil, os.NewSyscallError("recvmsg", receiveErr)
	}
	if n == 0 {
		return message{}, nil, io.EOF
	}
	f, err := parseRights(oob[:oobn])
	if err != nil {
		return message{}, nil, err
	}
	var m message
	if err := json.Unmarshal(b[:n], &m); err != nil {
		return message{}, f, fmt.Errorf("message: %w", err)
	}
	return m, f, nil
}

// parseRights returns the one descriptor in a control message, or nil.
func parseRights(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(cmsgs) != 1 {
		return nil, errors.Join(errors.New("control message"), err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, errors.Join(fmt.Errorf("%d passed descriptors", len(fds)), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, os.NewSyscallError("set non-blocking", err)
	}
	return os.NewFile(uintptr(fds[0]), "tap"), nil
}
