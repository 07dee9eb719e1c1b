package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// chunkSize is how much of a message goes into one packet of the socket: far
	// below the smallest send buffer that a system gives (212,992 bytes).
	chunkSize = 32 << 10

	// maxMessage bounds what is read as one message. The largest honest one is
	// an order with an /etc/hosts of block lists, a few megabytes.
	maxMessage = 64 << 20
)

// The first byte of a packet is its kind.
const (
	packetLast    = 0 // the end of a message
	packetMore    = 1 // a part of a message, and more follow
	packetTrouble = 2 // the notice of a child that does not run Go yet
	packetSockets = 3 // the notice of one that has made its sockets
)

// A message is what the supervisor and the stage tell each other. One field is
// set. Order and Run go to the stage, and Signal too, if it stays as process 1.
type message struct {
	Order   *order       `json:",omitempty"`
	Run     bool         `json:",omitempty"`
	Signal  *signalOrder `json:",omitempty"`
	Ready   *ready       `json:",omitempty"` // carries the device's descriptor
	Failure *failure     `json:",omitempty"`
	Started bool         `json:",omitempty"` // process 1 has started the command
	Stopped int          `json:",omitempty"` // signal that stopped the command
}

// An order is all that the stage needs to know. Its slices of bytes are not
// omitted when empty: an empty file is not the same as none.
type order struct {
	Command   []string
	Dir       string
	Env       []string
	Identity  Identity
	PID       bool
	Hostname  string
	PingRange string // for net.ipv4.ping_group_range, in the guest's ids
	Setup     Setup

	// Before is what Setup takes the place of; nil for a device to be opened.
	Before *Setup `json:",omitempty"`
}

// A signalOrder asks process 1 to pass a signal on to the command.
type signalOrder struct {
	Number int

	// Group says that the supervisor's whole process group has got it. The
	// command has it already then, unless it has left the group.
	Group bool
}

// ready says that everything is set up.
type ready struct {
	Report   json.RawMessage `json:",omitempty"` // of the opener
	Warnings []string
}

// A wire carries messages between two processes over a SEQPACKET socket, whose
// end is the end of the process on the other side. A message is cut into
// packets.
type wire struct {
	conn *net.UnixConn
}

// newWirePair returns a wire and the raw descriptor of its other end, which is
// close-on-exec and belongs to the caller.
func newWirePair() (*wire, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	w, err := newWire(fds[0])
	if err != nil {
		unix.Close(fds[1])
		return nil, -1, err
	}
	return w, fds[1], nil
}

// newWire makes a wire of a descriptor, which it takes over.
func newWire(fd int) (*wire, error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "wire")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor %d: %w", fd, syscall.ENOTSOCK)
	}
	return &wire{conn}, nil
}

func (w *wire) close() error { return w.conn.Close() }

// send sends m, and f with it unless it is nil. f stays the caller's.
func (w *wire) send(m message, f *os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if f != nil {
		if rights, err = rightsOf(f); err != nil {
			return err
		}
	}
	packet := make([]byte, 0, 1+chunkSize)
	for {
		n := min(len(b), chunkSize)
		kind := byte(packetLast)
		if n < len(b) {
			kind = packetMore
		}
		packet = append(append(packet[:0], kind), b[:n]...)
		if _, _, err := w.conn.WriteMsgUnix(packet, rights, nil); err != nil {
			return err
		}
		if b, rights = b[n:], nil; len(b) == 0 {
			return nil
		}
	}
}

// recv waits for a message and the descriptor that came with it, or nil. The
// caller owns the descriptor. The error is io.EOF if the other side has ended,
// and a *trouble if it reports one.
func (w *wire) recv() (m message, f *os.File, err error) {
	var b []byte
	packet := make([]byte, 1+chunkSize)
	oob := make([]byte, unix.CmsgSpace(4))
	for more := true; more; {
		n, oobn, _, _, err := w.conn.ReadMsgUnix(packet, oob)
		if oobn > 0 && f == nil {
			f = descriptor(oob[:oobn])
		}
		switch {
		case errors.Is(err, syscall.ECONNRESET):
			// Gone without having read everything. The kernel says so once, and
			// before it gives us what was sent to us.
			continue
		case err == nil && n == 0:
			err = io.EOF
		case err == nil && len(b)+n > maxMessage:
			err = syscall.EMSGSIZE
		case err == nil && packet[0] > packetMore:
			err = noticed(packet[:n])
		}
		if err != nil {
			closeFile(f)
			return message{}, nil, err
		}
		b = append(b, packet[1:n]...)
		more = packet[0] == packetMore
	}
	if err := json.Unmarshal(b, &m); err != nil {
		closeFile(f)
		return message{}, nil, err
	}
	return m, f, nil
}

// open says whether the process on the other side still lives.
func (w *wire) open() bool {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		alive = n > 0 || errors.Is(err, unix.EAGAIN)
	})
	return err == nil && alive
}

// rightsOf returns the control message that carries f. It does not use Fd, which
// would make the descriptor blocking, on the other side too.
func rightsOf(f *os.File) (rights []byte, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	err = raw.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) })
	return rights, err
}

// descriptor returns the first descriptor in a control message, or nil.
func descriptor(oob []byte) *os.File {
	fds := rightsIn(oob)
	if len(fds) == 0 {
		return nil
	}
	closeAll(fds[1:])
	return os.NewFile(uintptr(fds[0]), "device")
}

// rightsIn returns the descriptors in a control message.
func rightsIn(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil
	}
	return fds
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}
