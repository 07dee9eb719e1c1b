package policy

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Ports is a set of TCP or UDP ports. It is a small immutable value: it can
// be copied, compared with == and used as a map key. The zero value is the
// empty set.
type Ports struct {
	// ranges holds the inclusive ranges in ascending order, at least one port
	// apart, each as two big-endian 16-bit numbers. A string and not a slice,
	// so that equal sets are equal values.
	ranges string
}

const (
	rangeSize = 4 // bytes of one range in Ports.ranges
	maxPort   = 65535

	wordAll  = "all"
	wordNone = "none"
)

// A portRange is the ports lo to hi, both included.
type portRange struct{ lo, hi uint16 }

// ParsePorts reads a set of ports as users write it: "all", "none", or ports
// and inclusive ranges separated by commas, as in "22,80-90". Port 0 does not
// exist. Overlap and order do not matter.
func ParsePorts(s string) (Ports, error) {
	switch s {
	case wordAll:
		return AllPorts(), nil
	case wordNone:
		return Ports{}, nil
	}
	var list []portRange
	for element := range strings.SplitSeq(s, ",") {
		r, err := parseRange(element)
		if err != nil {
			return Ports{}, fmt.Errorf("parse ports %q: %w", s, err)
		}
		list = append(list, r)
	}
	return pack(list), nil
}

// AllPorts returns the set of all ports.
func AllPorts() Ports { return pack([]portRange{{1, maxPort}}) }

// PortRange returns the set of the ports first to last, both included; it is
// empty if last is less. Port 0 does not exist.
func PortRange(first, last uint16) Ports {
	first = max(first, 1)
	if last < first {
		return Ports{}
	}
	return pack([]portRange{{first, last}})
}

// With returns the set of what is in p or in q.
func (p Ports) With(q Ports) Ports { return pack(append(p.list(), q.list()...)) }

// Without returns the set of what is in p and not in q.
func (p Ports) Without(q Ports) Ports {
	rest := p.list()
	for _, gone := range q.list() {
		var list []portRange
		for _, r := range rest {
			if gone.lo > r.hi || gone.hi < r.lo {
				list = append(list, r)
				continue
			}
			if r.lo < gone.lo {
				list = append(list, portRange{r.lo, gone.lo - 1})
			}
			if gone.hi < r.hi {
				list = append(list, portRange{gone.hi + 1, r.hi})
			}
		}
		rest = list
	}
	return pack(rest)
}

// list returns all ranges.
func (p Ports) list() []portRange {
	list := make([]portRange, len(p.ranges)/rangeSize)
	for i := range list {
		list[i] = p.at(i)
	}
	return list
}

// Ranges yields the first and the last port of each range, in ascending order. No
// two of them touch.
func (p Ports) Ranges() iter.Seq2[uint16, uint16] {
	return func(yield func(first, last uint16) bool) {
		for i := range len(p.ranges) / rangeSize {
			if r := p.at(i); !yield(r.lo, r.hi) {
				return
			}
		}
	}
}

// Contains reports whether port is in the set.
func (p Ports) Contains(port uint16) bool {
	n := len(p.ranges) / rangeSize
	i := sort.Search(n, func(i int) bool { return p.at(i).hi >= port })
	return i < n && p.at(i).lo <= port
}

// All reports whether every port is in the set.
func (p Ports) All() bool {
	return len(p.ranges) == rangeSize && p.at(0) == portRange{1, maxPort}
}

// None reports whether the set is empty.
func (p Ports) None() bool { return p.ranges == "" }

// String returns the set in the form that ParsePorts reads, shortest first
// choice: "all", "none", or sorted and merged ranges.
func (p Ports) String() string {
	switch {
	case p.None():
		return wordNone
	case p.All():
		return wordAll
	}
	var b strings.Builder
	for i := range len(p.ranges) / rangeSize {
		if i > 0 {
			b.WriteByte(',')
		}
		r := p.at(i)
		b.WriteString(strconv.Itoa(int(r.lo)))
		if r.hi != r.lo {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(int(r.hi)))
		}
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler with the form of String, so
// that a configuration that holds Ports can be sent as JSON.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the form of
// ParsePorts.
func (p *Ports) UnmarshalText(text []byte) error {
	ports, err := ParsePorts(string(text))
	if err != nil {
		return err
	}
	*p = ports
	return nil
}

// at returns range i.
func (p Ports) at(i int) portRange {
	b := []byte(p.ranges[i*rangeSize : (i+1)*rangeSize])
	return portRange{binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])}
}

// parseRange reads "80" or "80-90".
func parseRange(s string) (portRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	lo, err := parsePort(first)
	if err != nil {
		return portRange{}, err
	}
	if !isRange {
		return portRange{lo, lo}, nil
	}
	hi, err := parsePort(last)
	if err != nil {
		return portRange{}, err
	}
	if hi < lo {
		return portRange{}, fmt.Errorf("range %s: ends before it begins", s)
	}
	return portRange{lo, hi}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: not a number from 1 to %d", s, maxPort)
	}
	return uint16(n), nil
}

// pack sorts and merges list. It may reorder list.
func pack(list []portRange) Ports {
	slices.SortFunc(list, func(a, b portRange) int { return int(a.lo) - int(b.lo) })
	var merged []portRange
	for _, r := range list {
		if n := len(merged); n > 0 && int(r.lo) <= int(merged[n-1].hi)+1 {
			merged[n-1].hi = max(merged[n-1].hi, r.hi)
			continue
		}
		merged = append(merged, r)
	}
	b := make([]byte, 0, len(merged)*rangeSize)
	for _, r := range merged {
		b = binary.BigEndian.AppendUint16(b, r.lo)
		b = binary.BigEndian.AppendUint16(b, r.hi)
	}
	return Ports{ranges: string(b)}
}
