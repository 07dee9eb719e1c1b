package main

import (
	"fmt"
	"strconv"
	"time"
)

// A front is a command line that callers know and exec on namespaces that
// exist, once for each container. Taproot answers to the names of both.
type front Kind

// fronts returns the fronts in the order of the table.
func fronts() []front { return []front{front(Slirp4netns), front(Pasta)} }

// crowds are how many helpers run, each on namespaces of its own, when their
// memory is measured.
func crowds() []int { return []int{1, manyHelpers} }

// manyHelpers is how many containers a busy machine has.
const manyHelpers = 50

// Keys of the rows.
func (f front) readyKey() string          { return rowKey("front", f, "ready") }
func (f front) firstKey() string          { return rowKey("front", f, "first") }
func (f front) pssKey(helpers int) string { return rowKey("front", f, "pss", helpers) }
func (f front) rssKey(helpers int) string { return rowKey("front", f, "rss", helpers) }
func (f front) title(what string) string  { return fmt.Sprintf("as %s, %s", f, what) }
func (f front) memory(what string, helpers int) string {
	return f.title(fmt.Sprintf("%s per helper of %d", what, helpers))
}

// rows returns what is measured of the front.
func (f front) rows() []Row {
	rows := []Row{
		{Key: f.readyKey(), Title: f.title("exec to ready"), Unit: "ms", Lower: true},
		{Key: f.firstKey(), Title: f.title("exec to first connect"), Unit: "ms", Lower: true},
	}
	for _, n := range crowds() {
		rows = append(rows,
			Row{Key: f.pssKey(n), Title: f.memory("PSS", n), Unit: "MiB", Lower: true},
			Row{Key: f.rssKey(n), Title: f.memory("RSS", n), Unit: "MiB", Lower: true})
	}
	return rows
}

// readyFD is the ready descriptor of slirp4netns: the first after standard
// error.
const readyFD = 3

// fronted returns the command line by which a caller attaches the helper to
// the namespaces of a process. Slirp4netns says on readyFD when it is ready.
// Pasta goes to the background then, and its process id is in pidFile.
func (h Helper) fronted(mtu, pid int, pidFile string) []string {
	line := []string{h.Path}
	if h.Kind == Slirp4netns {
		line = append(line, "-c", "-r", strconv.Itoa(readyFD), "--mtu="+strconv.Itoa(mtu))
		line = append(line, h.Args...)
		return append(line, strconv.Itoa(pid), guestInterface)
	}
	line = append(line, "--config-net", "--quiet", "--pid", pidFile, "--mtu", strconv.Itoa(mtu),
		"-t", "none", "-u", "none", "-T", "none", "-U", "none")
	line = append(line, h.Args...)
	return append(line, strconv.Itoa(pid))
}

// AttachArgs describes one more helper on namespaces of its own.
type AttachArgs struct {
	Helper  Helper
	MTU     int      // bytes, of the guest's interface
	Dir     string   // for its process id
	Command []string // of the guest: it waits for a byte, connects and writes one
}

// Attached is what became of it.
type Attached struct {
	PID   int           // of the helper's process that lives on
	Ready time.Duration // from exec until it said that it was ready
	First time.Duration // from exec until the guest, told then, had connected
}
