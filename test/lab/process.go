package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Process is a line of the process table.
type Process struct {
	PID, Parent int
	State       byte   // of proc(5): 'R' running, 'Z' zombie, 'T' stopped ...
	Name        string // the kernel's, of at most 15 bytes
	Args        string // the command line with spaces, or the name in brackets
}

// String is for messages of tests.
func (p Process) String() string { return fmt.Sprintf("%d (%c) %s", p.PID, p.State, p.Args) }

// process reads what /proc says of one process; ok is false if there is none.
func process(pid int) (p Process, ok bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return Process{}, false
	}
	if p, ok = parseStat(string(stat)); !ok {
		return Process{}, false
	}
	if args, err := os.ReadFile(dir + "cmdline"); err == nil && len(args) > 0 {
		p.Args = string(bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '}))
	}
	return p, true
}

// children returns the process ids of the children of pid (proc(5),
// /proc/PID/task/TID/children).
func children(pid int) []int {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		panic(err) // the pattern is well formed
	}
	var found []int
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				found = append(found, child)
			}
		}
	}
	return found
}

// parseStat reads /proc/PID/stat: "12 (name) S 1 ...", where the name may hold
// spaces and parentheses.
func parseStat(stat string) (Process, bool) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return Process{}, false
	}
	rest := strings.Fields(stat[end+1:])
	if len(rest) < 2 {
		return Process{}, false
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(stat[:open]))
	parent, err2 := strconv.Atoi(rest[1])
	name := stat[open+1 : end]
	p := Process{PID: pid, Parent: parent, State: rest[0][0], Name: name, Args: "[" + name + "]"}
	return p, err1 == nil && err2 == nil
}

// below returns the children of pid, their children, and so on.
func below(pid int) []Process {
	var found []Process
	for queue := children(pid); len(queue) > 0; queue = queue[1:] {
		if p, ok := process(queue[0]); ok {
			found = append(found, p)
		}
		queue = append(queue, children(queue[0])...)
	}
	return found
}

// Below returns the living descendants of process pid and its zombies.
func Below(pid int) []Process { return below(pid) }

// Processes returns what runs because of this laboratory: every process that
// inherited its mark in the environment, or is in the host's network
// namespace. Threads of the test itself do not count.
func (l *Lab) Processes() []Process {
	var found []Process
	for _, p := range below(l.stage.Init) {
		if p.PID != os.Getpid() && l.owns(p.PID) {
			found = append(found, p)
		}
	}
	return found
}

func (l *Lab) owns(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/", pid)
	if ns, err := os.Readlink(dir + "ns/net"); err == nil && ns == l.Host.id {
		return true
	}
	environ, err := os.ReadFile(dir + "environ")
	return err == nil && bytes.Contains(environ, []byte(l.mark()))
}

// mark is in the environment of every command of this laboratory.
func (l *Lab) mark() string { return "TAPROOT_LAB_ID=" + l.Host.id }
