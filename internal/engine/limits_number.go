package engine

import (
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// numbers are how much there may be of what limitTable lists; 0 is no limit.
type numbers struct {
	flowsTCP, flowsFrames, flowsUDP, flowsICMP uint64
	dialsFrames, dialsShortcut                 uint64
	dnsDatagrams, dnsMessages, dnsConns        uint64
	icmpErrors, asks                           uint64
	fragments, memory, tcpMemory               uint64 // bytes
	descriptors                                uint64
}

// A machine is what usual numbers depend on.
type machine struct {
	descriptors uint64 // that the process may have
	memory      uint64 // that Go's runtime stays below, in bytes; 0 is no limit
}

// thisMachine is to be asked before the engine is confined.
func thisMachine() machine {
	m := machine{descriptors: maxDescriptors()}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 { // changes nothing
		m.memory = uint64(limit)
	}
	return m
}

// fixed is the same everywhere.
func fixed(n uint64) func(machine) uint64 { return func(machine) uint64 { return n } }

// shared is n, or that part of the descriptors if it is less.
func shared(n, part uint64) func(machine) uint64 {
	return func(m machine) uint64 { return min(n, max(m.descriptors/part, 4)) }
}

// kept returns how many of so many descriptors new flows may not have: a fifth, or
// 64 if that is more, of few a quarter.
func kept(descriptors uint64) uint64 {
	return max(descriptors/5, min(64, descriptors/4))
}

// batch returns how many descriptors one message to the engine may bring.
func (m machine) batch() int { return int(max(m.descriptors/16, 1)) }

// maxDescriptors returns how many descriptors we may have.
func maxDescriptors() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // what Linux gives the first process
	}
	return min(limit.Cur, math.MaxInt32)
}

// A LimitSettings are numbers for limits, by name. The zero value has none; others
// are as usual.
type LimitSettings map[string]uint64

// ParseLimits parses NAME=NUMBER, where NUMBER may end with K, M or G for 1024 of it
// and so on. Of the same name, the last one counts.
func ParseLimits(given []string) (LimitSettings, error) {
	s := make(LimitSettings)
	for _, text := range given {
		name, number, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("%s: want NAME=NUMBER", text)
		}
		l, err := settable(name)
		if err != nil {
			return nil, err
		}
		n, err := parseNumber(number)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		if n < l.least || n > mostLimit {
			return nil, fmt.Errorf("%s: not within %d and %d", text, l.least, uint64(mostLimit))
		}
		s[name] = n
	}
	return s, nil
}

// mostLimit is more than anybody needs, and fits into an int everywhere.
const mostLimit = 1 << 40

// settable returns the limit of a name.
func settable(name string) (limit, error) {
	var names []string
	for _, l := range limitTable() {
		switch {
		case l.least == 0:
		case l.name == name:
			return l, nil
		default:
			names = append(names, l.name)
		}
	}
	return limit{}, fmt.Errorf("%q is none of %s", name, strings.Join(names, ", "))
}

// parseNumber parses a number with a unit.
func parseNumber(s string) (uint64, error) {
	digits, shift := s, 0
	for unit, bits := range map[string]int{"K": 10, "M": 20, "G": 30} {
		if before, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = before, bits
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > mostLimit>>shift {
		return 0, fmt.Errorf("%q is no number up to %dG", s, mostLimit>>30)
	}
	return n << shift, nil
}

// LimitVariable is the environment variable with further settings, with commas between
// them, for programs that start slirp4netns or pasta and choose its options themselves.
const LimitVariable = "TAPROOT_LIMIT"

// readLimits takes what is not set from LimitVariable's value.
func (cfg *Config) readLimits(value string) {
	if value == "" {
		return
	}
	settings, err := ParseLimits(strings.Split(value, ","))
	if err != nil {
		cfg.warn(fmt.Sprintf("environment variable %s: %v", LimitVariable, err), "")
		return
	}
	maps.Copy(settings, cfg.Limits)
	cfg.Limits = settings
}

// on returns all numbers on a machine.
func (s LimitSettings) on(m machine) numbers {
	if n := s["memory"]; n > 0 {
		m.memory = n
	}
	var all numbers
	for _, l := range limitTable() {
		n := l.usual(m)
		if set := s[l.name]; set > 0 {
			n = set
		}
		*l.number(&all) = n
	}
	return all
}
