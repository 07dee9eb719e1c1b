package userns

import (
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A maker is a child that opens files and makes sockets inside existing
// namespaces, sends them out and ends, without ever running Go: it takes a fork
// and two calls for each of them, a tenth of what starting a program takes.
type maker struct {
	entry
	files   []rawFile
	sockets []rawSocket

	carrier uintptr // descriptor of who gets all: entry.socket, or somebody else's
	yes     uint32  // 1
	message unix.Msghdr
	part    unix.Iovec
	rights  rights
	pause   unix.Timespec // between two tries of send
}

// A file is one to be opened; close-on-exec is understood.
type file struct {
	path  string // absolute
	flags int    // of open(2)
}

// A rawFile is a file as the system call wants it.
type rawFile struct {
	path  *byte
	flags uintptr
}

// A rawSocket is a Socket as the system calls want it.
type rawSocket struct {
	family, kind, protocol uintptr
	address                [unix.SizeofSockaddrInet6]byte
	length                 uintptr // of address, 0 for none
	listen, reuse          bool
	inet6                  bool
	v6only                 uint32
	transparent            [2]uintptr // level and name of the option; 0 for none
	mark                   uint32
}

// rights is a control message that carries descriptors.
type rights struct {
	header unix.Cmsghdr
	fds    [maxSockets]int32 // of files, then of sockets
}

// newMaker prepares the opening of files and the making of sockets, which socket
// is to carry with its notice.
func (n *Namespace) newMaker(socket int, files []file, sockets []Socket) (*maker, error) {
	m := &maker{entry: n.newEntry(socket), carrier: uintptr(socket), yes: 1, files: make([]rawFile, len(files)), sockets: make([]rawSocket, len(sockets))}
	for i, f := range files {
		path, err := syscall.BytePtrFromString(f.path)
		if err != nil {
			return nil, err
		}
		m.files[i] = rawFile{path, uintptr(f.flags | unix.O_CLOEXEC)}
	}
	for i, s := range sockets {
		raw, err := s.raw()
		if err != nil {
			return nil, err
		}
		m.sockets[i] = raw
	}
	count := len(files) + len(sockets)
	m.notice.kind = packetSockets
	m.part.Base = (*byte)(unsafe.Pointer(&m.notice))
	m.part.SetLen(noticeSize)
	m.rights.header.Level = unix.SOL_SOCKET
	m.rights.header.Type = unix.SCM_RIGHTS
	m.rights.header.SetLen(unix.CmsgLen(4 * count))
	m.message.Iov = &m.part
	m.message.SetIovlen(1)
	m.message.Control = (*byte)(unsafe.Pointer(&m.rights))
	m.message.SetControllen(unix.CmsgSpace(4 * count))
	m.pause = unix.NsecToTimespec(int64(sendPause))
	return m, nil
}

// sendBy has another socket carry all, with a packet, which is not empty. The notice
// comes after that.
func (m *maker) sendBy(carrier uintptr, packet []byte) {
	m.carrier = carrier
	m.part.Base = &packet[0]
	m.part.SetLen(len(packet))
}

// raw returns the socket as the system calls want it.
func (s Socket) raw() (r rawSocket, err error) {
	r = rawSocket{
		family:   uintptr(s.Family),
		kind:     uintptr(s.Type | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK),
		protocol: uintptr(s.Protocol),
		listen:   s.Listen,
		reuse:    s.Listen || s.Reuse,
		inet6:    s.Family == unix.AF_INET6,
		mark:     s.Mark,
	}
	if s.V6Only {
		r.v6only = 1
	}
	if s.Transparent {
		r.transparent = [2]uintptr{unix.IPPROTO_IP, unix.IP_TRANSPARENT}
		if r.inet6 {
			r.transparent = [2]uintptr{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}
		}
	}
	r.address, r.length, err = s.sockaddr()
	return r, err
}

// fork starts the child.
func (m *maker) fork() (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer runtime.KeepAlive(m)
	return fork(m.clone)
}

// clone forks; the child never returns from it. See fork for the rules.
//
//go:nosplit
//go:norace
func (m *maker) clone() (pid uintptr, errno syscall.Errno) {
	if pid, errno = cloneSelf(); errno != 0 || pid != 0 {
		return pid, errno
	}
	if m.enter() && m.open() && m.make() && m.send() && m.tell() {
		exit(0)
	}
	exit(statusFailed)
	return 0, 0
}

// open opens the files.
//
//go:nosplit
//go:norace
func (m *maker) open() bool {
	for i := range m.files {
		f := &m.files[i]
		// The paths are absolute, so there is no directory to start from.
		fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, none, uintptr(unsafe.Pointer(f.path)), f.flags, 0, 0, 0)
		if errno != 0 {
			return m.fail(stepOpen, i, errno)
		}
		m.rights.fds[i] = int32(fd)
	}
	return true
}

// make makes the sockets.
//
//go:nosplit
//go:norace
func (m *maker) make() bool {
	for i := range m.sockets {
		s := &m.sockets[i]
		fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, s.family, s.kind, s.protocol)
		if errno != 0 {
			return m.fail(stepSocket, i, errno)
		}
		m.rights.fds[len(m.files)+i] = int32(fd)
		if s.inet6 && !m.option(i, fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, &s.v6only) {
			return false
		}
		if s.reuse && !m.option(i, fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, &m.yes) {
			return false
		}
		if s.transparent[1] != 0 && !m.option(i, fd, s.transparent[0], s.transparent[1], &m.yes) {
			return false
		}
		if s.mark != 0 && !m.option(i, fd, unix.SOL_SOCKET, unix.SO_MARK, &s.mark) {
			return false
		}
		if s.length > 0 {
			address := uintptr(unsafe.Pointer(&s.address))
			if _, _, errno := syscall.RawSyscall(unix.SYS_BIND, fd, address, s.length); errno != 0 {
				return m.fail(stepBind, i, errno)
			}
		}
		const longest = 1<<31 - 1 // the kernel takes net.core.somaxconn for it
		if s.listen {
			if _, _, errno := syscall.RawSyscall(unix.SYS_LISTEN, fd, longest, 0); errno != 0 {
				return m.fail(stepListen, i, errno)
			}
		}
	}
	return true
}

// option sets an option of the i-th socket.
//
//go:nosplit
//go:norace
func (m *maker) option(i int, fd, level, name uintptr, value *uint32) bool {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, level, name, uintptr(unsafe.Pointer(value)), 4, 0)
	return errno == 0 || m.fail(stepOption, i, errno)
}

// sendTries and sendPause are how often and at what pace descriptors are sent
// that cannot be since too many of the same user are on their way
// (ETOOMANYREFS in unix(7)), or since a non-blocking carrier is full.
const (
	sendTries = 5000
	sendPause = time.Millisecond
)

// send sends all out.
//
//go:nosplit
//go:norace
func (m *maker) send() bool {
	for i := 1; ; i++ {
		_, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, m.carrier, uintptr(unsafe.Pointer(&m.message)), unix.MSG_NOSIGNAL)
		if errno == 0 {
			return true
		}
		if errno != unix.ETOOMANYREFS && errno != unix.EAGAIN || i == sendTries {
			return m.fail(stepSend, 0, errno)
		}
		syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&m.pause)), 0, 0)
	}
}

// tell gives the notice that all is sent, if somebody else's socket carried it.
//
//go:nosplit
//go:norace
func (m *maker) tell() bool {
	if m.carrier == m.socket {
		return true
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, m.socket, uintptr(unsafe.Pointer(&m.notice)), noticeSize)
	return errno == 0
}
