package caller

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// The environment of a service of systemd, sd_notify(3), sd_watchdog_enabled(3) and
// systemd.exec(5).
const (
	notifySocket = "NOTIFY_SOCKET"
	watchdogUsec = "WATCHDOG_USEC"
	watchdogPID  = "WATCHDOG_PID"
	execPID      = "SYSTEMD_EXEC_PID"
)

// Words for the service manager.
const (
	NotifyReady    = "READY=1"
	NotifyStopping = "STOPPING=1"
	NotifyAlive    = "WATCHDOG=1"
	notifyStatus   = "STATUS="
)

// NotifyStatus returns the word that says in free text how the service does.
func NotifyStatus(text string) string {
	return notifyStatus + strings.ReplaceAll(text, "\n", " ")
}

// A Manager is the service manager that has started us and wants to know how we do.
// nil is none, to which all methods say nothing.
type Manager struct {
	conn     *net.UnixConn
	watchdog time.Duration
}

// errNotifySocket says that a socket's name is none that we know.
var errNotifySocket = errors.New("neither a path nor an abstract name")

// NewManager returns the service manager, nil if there is none or it has started
// somebody else, who started us: those words are not ours to say. Otherwise it
// removes from the environment what says so, for the processes that we start are
// not the service. It is to be closed.
func NewManager() (*Manager, error) {
	name := os.Getenv(notifySocket)
	if name == "" {
		return nil, nil
	}
	if pid := os.Getenv(execPID); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	watchdog := watchdogTime()
	for _, variable := range [...]string{notifySocket, watchdogUsec, watchdogPID} {
		os.Unsetenv(variable)
	}
	if name[0] != '/' && name[0] != '@' {
		return nil, fmt.Errorf("%s=%s: %w", notifySocket, name, errNotifySocket)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", notifySocket, name, errors.Unwrap(err))
	}
	return &Manager{conn, watchdog}, nil
}

// watchdogTime returns after what silence the manager kills us, 0 for never.
func watchdogTime() time.Duration {
	if pid := os.Getenv(watchdogPID); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	n, err := strconv.ParseUint(os.Getenv(watchdogUsec), 10, 63)
	if err != nil || n > uint64(longestWatchdog/time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// longestWatchdog is the longest time that is one: whoever says more means never.
const longestWatchdog = 365 * 24 * time.Hour

// Watchdog returns how often the manager wants to hear NotifyAlive: twice in the time
// after which it kills us (sd_watchdog_enabled(3)). 0 is never.
func (m *Manager) Watchdog() time.Duration {
	if m == nil {
		return 0
	}
	return m.watchdog / 2
}

// notifyGrace is how long a manager may take to read what it was told before.
const notifyGrace = time.Second

// Tell tells the manager something. One that does not listen is no error of ours.
func (m *Manager) Tell(words ...string) {
	if m == nil {
		return
	}
	_ = m.conn.SetWriteDeadline(time.Now().Add(notifyGrace)) // it is open
	_, _ = m.conn.Write([]byte(strings.Join(words, "\n")))
}

// Close ends the connection.
func (m *Manager) Close() {
	if m != nil {
		m.conn.Close()
	}
}
