package pasta

import (
	"bytes"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strconv"
	"sync"
	"time"
)

// minLogSize keeps a log file from being cut at each line.
const minLogSize = 4096 // bytes

// parseLogSize parses the argument of --log-size in bytes.
func parseLogSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < minLogSize {
		return 0, invalid("--log-size", s)
	}
	return n, nil
}

// parseDelay parses the value of --stats.
func parseDelay(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == 0 {
		return 0, invalid("--stats", s)
	}
	return time.Duration(n) * time.Second, nil
}

// A sink is where messages go: to standard error, or after we have left it to
// the system's log; always to the log file if there is one. It is safe for
// concurrent use.
type sink struct {
	mu sync.Mutex
	// +checklocks:mu
	to io.Writer
}

func newSink(to io.Writer) *sink {
	s := &sink{}
	s.redirect(to)
	return s
}

// Write implements io.Writer.
func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(b)
}

// redirect makes messages go elsewhere from now on.
func (s *sink) redirect(to io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = to
}

// newLog returns the log of the options.
func (o *options) newLog(to io.Writer) *slog.Logger {
	level := slog.LevelWarn
	switch {
	case o.debug:
		level = slog.LevelDebug
	case o.quiet:
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: level}))
}

// A systemLog writes to the system's log, if there is one. The connection is
// made by the first message: most helpers have none to write.
type systemLog struct{ w *syslog.Writer }

// Write implements io.Writer. It never fails: there is nobody to tell.
func (s *systemLog) Write(b []byte) (int, error) {
	if s.w == nil {
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, Name)
		if err != nil {
			return len(b), nil
		}
		s.w = w
	}
	_, _ = s.w.Write(b)
	return len(b), nil
}

// A logFile is a file that does not grow beyond a size: its older half is given
// up when it would.
type logFile struct {
	file *os.File
	max  int64 // bytes
	size int64
}

// openLogFile opens or makes a log file and adds to it.
func openLogFile(path string, limit int64) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &logFile{file: f, max: limit, size: size}, nil
}

// Write implements io.Writer.
func (l *logFile) Write(b []byte) (int, error) {
	if l.size+int64(len(b)) > l.max {
		if err := l.cut(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	return n, err
}

// cut leaves whole lines of at most half the size.
func (l *logFile) cut() error {
	keep := make([]byte, min(l.size, l.max/2))
	n, err := l.file.ReadAt(keep, l.size-int64(len(keep)))
	if err != nil && err != io.EOF {
		return err
	}
	_, rest, _ := bytes.Cut(keep[:n], []byte("\n"))
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	n, err = l.file.Write(rest)
	l.size = int64(n)
	return err
}
