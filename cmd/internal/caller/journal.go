package caller

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// journalStream is set by systemd for what writes to the journal: "DEVICE:INODE" of
// standard output or error (systemd.exec(5), $JOURNAL_STREAM).
const journalStream = "JOURNAL_STREAM"

// ToJournal tells whether what is written to f goes to the systemd journal, which
// takes a mark of priority at the beginning of each line (sd-daemon(3)). The variable
// alone does not say so: whoever has changed where f leads to has left it.
func ToJournal(f *os.File) bool {
	want := os.Getenv(journalStream)
	if want == "" {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino) == want
}

// A Priority is how important a line of the journal is, as syslog(3) has it.
type Priority byte

// The priorities that we use.
const (
	PriorityError   Priority = '3'
	PriorityWarning Priority = '4'
	PriorityInfo    Priority = '6'
	PriorityDebug   Priority = '7'
)

// Mark returns text, whole lines, with the mark of a priority before each.
func (p Priority) Mark(text string) string {
	mark := "<" + string(p) + ">"
	return mark + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+mark) + "\n"
}

// Writer returns what marks all that is written to it, in whole lines, and writes it
// to w with one call each.
func (p Priority) Writer(w io.Writer) io.Writer { return marker{p, w} }

type marker struct {
	priority Priority
	to       io.Writer
}

// Write implements io.Writer.
func (m marker) Write(b []byte) (int, error) {
	if _, err := io.WriteString(m.to, m.priority.Mark(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
