package tap

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxFrame is the longest frame that a device with offloads gives, in bytes:
// an Ethernet header with a VLAN tag and the longest IP packet.
const MaxFrame = 18 + 65535

// maxBuffers is how many buffers one frame is read into or written from:
// header, link and network headers, and up to 32 pieces of payload.
const maxBuffers = 36

// A Device reads and writes frames. One goroutine may read while others write.
type Device struct {
	file     *os.File
	raw      syscall.RawConn
	features Features

	closed atomic.Bool // by us

	// dropped counts frames that the device did not take.
	dropped atomic.Uint64
}

// New returns the device on a file that Open returned, here or in another
// process, and takes the file over.
func New(f *os.File, features Features) (*Device, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", f.Name(), err)
	}
	return &Device{file: f, raw: raw, features: features}, nil
}

// Features returns what the device was opened with.
func (d *Device) Features() Features { return d.features }

// Dropped returns how many frames the device did not take, because it was
// down, for instance.
func (d *Device) Dropped() uint64 { return d.dropped.Load() }

// Stop ends Reader.Run after the frames that are waiting now. The device is
// still to be closed.
func (d *Device) Stop() error {
	d.closed.Store(true)
	return d.file.SetReadDeadline(time.Unix(1, 0))
}

// Close ends Reader.Run and further writes.
func (d *Device) Close() error {
	d.closed.Store(true)
	return d.file.Close()
}

// A Reader reads a device's frames into buffers of its caller. It is not safe
// for concurrent use.
type Reader struct {
	device *Device
	iov    [maxBuffers]unix.Iovec
	n      int // buffers in use

	// Idle is called, unless it is nil, whenever the frames that were waiting
	// have been read, before Run waits for more.
	Idle func()

	// Yield is called, unless it is nil, when there have been frames for so long
	// without a pause that others, who wait for descriptors, shall have a turn.
	Yield func()

	// Linger is called, unless it is nil, when what was waiting in a device that was
	// stopped has been read. It returns how long Run is to wait for one more frame,
	// and for those that come with it.
	Linger func() time.Duration

	since time.Time // when there was the last pause; zero if it is now
}

// NewReader returns a reader that spreads each frame, with its virtio-net
// header if the device has one, over bufs in order.
func (d *Device) NewReader(bufs ...[]byte) *Reader {
	r := &Reader{device: d, n: len(bufs)}
	for i, b := range bufs {
		r.SetBuffer(i, b)
	}
	return r
}

// Len returns the number of buffers.
func (r *Reader) Len() int { return r.n }

// SetBuffer replaces the i-th buffer, from the next frame on.
func (r *Reader) SetBuffer(i int, b []byte) {
	r.iov[i].Base = unsafe.SliceData(b)
	r.iov[i].SetLen(len(b))
}

// Run calls frame for each frame, with its length in bytes, until the device
// is closed or gone. Between two calls the caller may set new buffers. Run
// returns nil when the device was closed by us, and the cause otherwise:
// EBADFD, EIO or ENODEV when the guest deleted it.
func (r *Reader) Run(frame func(n int)) error {
	var readErr error
	for {
		err := r.device.raw.Read(func(fd uintptr) bool {
			readErr = r.drain(fd, frame)
			if r.Idle != nil {
				r.Idle()
			}
			if readErr == unix.EAGAIN {
				r.since = time.Time{}
			}
			return readErr != unix.EAGAIN
		})
		if r.device.closed.Load() {
			r.finish(frame)
			return nil
		}
		if err != nil { // the poller gave up on a device that is gone
			readErr = r.cause(frame)
		}
		switch readErr {
		case nil:
			r.share()
		case io.EOF:
			return nil
		default:
			return fmt.Errorf("read %s: %w", r.device.file.Name(), readErr)
		}
	}
}

// quantum is how long frames are read without a pause before Yield is called: a
// flood of small ones never ends, and on one processor the runtime would ask its
// poller for what others wait for every 10 ms only. An exchange on a connection that
// needs two such turns then took 20 ms; with this, less than one.
const quantum = 200 * time.Microsecond

// share gives others a turn, when there are more frames.
func (r *Reader) share() {
	now := time.Now()
	switch {
	case r.since.IsZero():
		r.since = now
	case r.Yield != nil && now.Sub(r.since) > quantum:
		r.Yield()
		r.since = now
		return
	}
	runtime.Gosched()
}

// finish reads what is waiting in a device that was stopped: a guest's program
// may have sent it just before its end. In one that was closed there is nothing.
func (r *Reader) finish(frame func(n int)) {
	r.empty(frame)
	if r.Linger == nil {
		return
	}
	d := r.Linger()
	if d <= 0 || r.device.file.SetReadDeadline(time.Now().Add(d)) != nil {
		return
	}
	_ = r.device.raw.Read(func(fd uintptr) bool { return r.drain(fd, frame) != unix.EAGAIN || r.Linger() <= 0 })
	r.empty(frame)
}

// empty reads what is waiting.
func (r *Reader) empty(frame func(n int)) {
	_ = r.device.raw.Control(func(fd uintptr) {
		for range finishMax {
			if r.drain(fd, frame) != nil {
				break
			}
		}
		if r.Idle != nil {
			r.Idle()
		}
	})
}

// cause reads once more, for the device's own error. While the kernel is about
// to delete the device, which the poller hears of first, it has none.
func (r *Reader) cause(frame func(n int)) error {
	var readErr error
	if err := r.device.raw.Control(func(fd uintptr) { readErr = r.drain(fd, frame) }); err != nil {
		return err
	}
	if readErr == unix.EAGAIN {
		return unix.ENODEV
	}
	return readErr
}

// drainMax bounds the frames that are read in one go, before all others have
// their turn. 32 superframes are 2 MiB, which are still in the processor's
// caches when they are sent: with 256, eight uploads at MTU 1500 took 0.63
// seconds of processor per GB, with 32 they take 0.52 to 0.60.
const drainMax = 32

// finishMax bounds what empty reads, in drains: more frames than the device's
// queue holds (1000, IFF_TAP's default) come from somebody who goes on sending.
const finishMax = 32

// drain reads the frames that are waiting. It returns EAGAIN when there are no
// more, nil after drainMax.
//
// The call is raw: it returns at once, and the two copies of the scheduler's
// state around an ordinary call, with the processor taken away in calls of
// over 20 us, cost a third of the throughput.
func (r *Reader) drain(fd uintptr, frame func(n int)) error {
	for range drainMax {
		n, _, errno := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&r.iov[0])), uintptr(r.n))
		switch errno {
		case 0:
			if n == 0 {
				return io.EOF // only a test's wire ends
			}
			frame(int(n))
		case unix.EINTR:
		case unix.ECONNRESET:
			return io.EOF // a wire again, whose other end left frames unread
		default:
			return errno
		}
	}
	return nil
}

// A Writer writes frames from pieces. It is not safe for concurrent use.
type Writer struct {
	device *Device
	iov    [maxBuffers]unix.Iovec
	n      int
	spill  []byte // the tail of a frame in more pieces than iov holds

	// attempt is made once: a callback made for each frame would be allocated
	// for each frame. Its result is err.
	attempt func(fd uintptr) bool
	err     error
}

// NewWriter returns a writer to d.
func (d *Device) NewWriter() *Writer {
	w := &Writer{device: d}
	w.attempt = func(fd uintptr) bool {
		w.err = w.write(fd)
		return w.err != unix.EAGAIN
	}
	return w
}

// Add appends a piece to the frame being built. The piece must stay as it is
// until Flush.
func (w *Writer) Add(b []byte) {
	if len(b) == 0 {
		return
	}
	if w.n == maxBuffers-1 {
		w.spill = append(w.spill, b...)
		return
	}
	w.iov[w.n].Base = unsafe.SliceData(b)
	w.iov[w.n].SetLen(len(b))
	w.n++
}

// Flush writes the frame. A frame that the device does not take is counted and
// dropped, as on a wire; the error says why.
func (w *Writer) Flush() error {
	if len(w.spill) > 0 {
		w.iov[w.n].Base = unsafe.SliceData(w.spill)
		w.iov[w.n].SetLen(len(w.spill))
		w.n++
	}
	err := w.device.raw.Write(w.attempt)
	clear(w.iov[:w.n])
	w.n, w.spill = 0, w.spill[:0]
	if err == nil {
		err = w.err
	}
	if err != nil {
		w.device.dropped.Add(1)
		return fmt.Errorf("write %s: %w", w.device.file.Name(), err)
	}
	return nil
}

// write is writev(2), or write(2) for a frame in one piece, which costs the kernel
// less.
func (w *Writer) write(fd uintptr) error {
	for {
		var errno unix.Errno
		if w.n == 1 {
			_, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(w.iov[0].Base)), uintptr(w.iov[0].Len))
		} else {
			_, _, errno = unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(w.n))
		}
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
