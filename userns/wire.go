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
	packetTrouble = 2 // the notice of a child that does not run Go
	packetSockets = 3 // the notice of one that has made what was asked for
)

// A message is what the supervisor and the stage tell each other. One field is
// set. Order and Run go to the stage, and Signal too, if it stays as process 1.
type message struct {
	Order   *order       `json:",omitempty"`
	Run     bool         `json:",omitempty"`
	Signal  *signalOrder `json:",omitempty"`
	Ready   *ready       `json:",omitempty"`
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

	ResolvConf, Hosts []byte // as in Setup
}

// A signalOrder asks process 1 to pass a signal on to the command.
type signalOrder struct {
	Number int

	// Group says that the supervisor's whole process group has got it. The
	// command has it already then, unless it has left the group.
	Group bool
}

// ready says that the stage has done all but to run the command.
type ready struct {
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

// send sends m.
func (w *wire) send(m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	packet := make([]byte, 0, 1+chunkSize)
	for {
		n := min(len(b), chunkSize)
		kind := byte(packetLast)
		if n < len(b) {
			kind = packetMore
		}
		packet = append(append(packet[:0], kind), b[:n]...)
		if _, err := w.conn.Write(packet); err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}

// recv waits for a message. The error is io.EOF if the other side has ended.
func (w *wire) recv() (m message, err error) {
	var b []byte
	packet := make([]byte, 1+chunkSize)
	for more := true; more; {
		n, err := w.conn.Read(packet)
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
			err = syscall.EPROTO
		}
		if err != nil {
			return message{}, err
		}
		b = append(b, packet[1:n]...)
		more = packet[0] == packetMore
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, err
	}
	return m, nil
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
