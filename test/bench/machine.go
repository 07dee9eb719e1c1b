package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is what the numbers depend on besides the helpers.
type Machine struct {
	When       string // start of the run, RFC 3339
	Processor  string
	CPUs       int
	MemoryGB   float64 // 10^9 bytes
	Kernel     string
	Go         string // the compiler of the load generators
	LoadBefore string // load averages of 1, 5 and 15 minutes
	LoadAfter  string
	Congestion string // TCP congestion control of new namespaces
}

// thisMachine describes the machine. What cannot be read stays empty.
func thisMachine() Machine {
	m := Machine{
		When:       time.Now().Format(time.RFC3339),
		Processor:  processor(),
		CPUs:       runtime.NumCPU(),
		Kernel:     firstLine("/proc/sys/kernel/osrelease"),
		Go:         runtime.Version(),
		LoadBefore: loadAverage(),
		Congestion: firstLine("/proc/sys/net/ipv4/tcp_congestion_control"),
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		m.MemoryGB = float64(info.Totalram) * float64(info.Unit) / 1e9
	}
	return m
}

// String is one line for the head of the report.
func (m Machine) String() string {
	return fmt.Sprintf("%s: %s, %s, %.0f GB, Linux %s, %s, TCP %s, load %s before and %s after",
		m.When, plural(m.CPUs, "CPU"), m.Processor, m.MemoryGB, m.Kernel, m.Go, m.Congestion, m.LoadBefore, m.LoadAfter)
}

// busy reports whether something else used more than a tenth of the processors
// during the minute before the run, and returns the load.
func (m Machine) busy() (load string, busy bool) {
	load, _, _ = strings.Cut(m.LoadBefore, " ")
	average, err := strconv.ParseFloat(load, 64)
	return load, err == nil && average > 0.1*float64(m.CPUs)
}

// loadAverage returns the three load averages.
func loadAverage() string {
	fields := strings.Fields(firstLine("/proc/loadavg"))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// processor returns the model name of the first processor.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH // arm64 has no such line
}

// firstLine returns the first line of a file, or nothing.
func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	scanner := bufio.NewScanner(bytes.NewReader(text))
	scanner.Scan()
	return scanner.Text()
}
