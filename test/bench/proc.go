package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"taproot/test/lab"
)

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ is 100 on
// every architecture that Go runs on (proc_pid_stat(5)).
const clockTick = 10 * time.Millisecond

// A usage is what processes have used so far, or use now.
type usage struct {
	cpu      time.Duration // user and system
	pss, rss int64         // bytes; pss is 0 if the kernel does not tell
	count    int           // processes
}

// resident is the figure for the table: the proportional set, which counts
// shared pages of several processes once, if the kernel told it.
func (u usage) resident() int64 {
	if u.pss > 0 {
		return u.pss
	}
	return u.rss
}

// add sums up what two sets of processes use.
func (u *usage) add(other usage) {
	u.cpu += other.cpu
	u.pss += other.pss
	u.rss += other.rss
	u.count += other.count
}

// helperUsage sums up what a helper's processes use.
func helperUsage(launcher int, generators []string) usage {
	var total usage
	for _, pid := range helperProcesses(launcher, generators) {
		total.add(processUsage(pid))
	}
	return total
}

// helperProcesses returns the descendants of a launcher that run none of the
// programs that generate load. It goes by arguments, because /proc hides the
// executable of a process that gave its rights up.
func helperProcesses(launcher int, generators []string) []int {
	var pids []int
	for _, process := range lab.Below(launcher) {
		program, _, _ := strings.Cut(process.Args, " ")
		if process.State != 'Z' && !slices.Contains(generators, program) {
			pids = append(pids, process.PID)
		}
	}
	return pids
}

// descriptors counts what processes have open. The directory's size tells it since
// Linux 6.2, also of processes that may not be looked into; before, it is 0 for those.
func descriptors(pids []int) int {
	total := 0
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		if info, err := os.Stat(dir); err == nil && info.Size() > 0 {
			total += int(info.Size())
			continue
		}
		open, _ := os.ReadDir(dir)
		total += len(open)
	}
	return total
}

// treeUsage sums up a process and its descendants.
func treeUsage(pid int) usage {
	total := processUsage(pid)
	for _, process := range lab.Below(pid) {
		if process.State != 'Z' {
			total.add(processUsage(process.PID))
		}
	}
	return total
}

// processUsage returns what one process uses, which is nothing if it ended.
func processUsage(pid int) usage {
	dir := fmt.Sprintf("/proc/%d/", pid)
	text, err := os.ReadFile(dir + "stat")
	if err != nil {
		return usage{}
	}
	return usage{
		cpu:   cpuTime(string(text)),
		pss:   readKilobytes(dir+"smaps_rollup", "Pss:"),
		rss:   readKilobytes(dir+"status", "VmRSS:"),
		count: 1,
	}
}

// cpuTime returns the user and system time in the text of /proc/PID/stat
// (proc_pid_stat(5)), or 0 if it is not such a text. The name may hold spaces
// and brackets, so fields count from the last bracket.
func cpuTime(stat string) time.Duration {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		return 0
	}
	return time.Duration(user+system) * clockTick
}

// readKilobytes returns the value of a line like "VmRSS:  123 kB" in bytes, or
// 0 if there is none or the file may not be read.
func readKilobytes(path, name string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return kilobytes(string(text), name)
}

// kilobytes is readKilobytes for the text of the file.
func kilobytes(text, name string) int64 {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if i := slices.Index(fields, name); i != 0 || len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0
		}
		return n * 1024
	}
	return 0
}
