package userns

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A modelMap is a map of ids as the kernel has it (user_namespaces(7)).
type modelMap []struct{ guest, host, count uint64 }

// parseModelMap reads what the mapper was asked for.
func parseModelMap(t *rapid.T, args []string) (m modelMap) {
	for line := range slices.Chunk(args[1:], 3) {
		var n [3]uint64
		for i, word := range line {
			var err error
			if n[i], err = strconv.ParseUint(word, 10, 64); err != nil {
				t.Fatalf("mapper's argument %q: %v", word, err)
			}
		}
		m = append(m, struct{ guest, host, count uint64 }{n[0], n[1], n[2]})
	}
	return m
}

// accepted tells whether the kernel would take the map: at most 340 lines, none of
// them empty or beyond the last id, and no id twice, on either side.
func (m modelMap) accepted() bool {
	meet := func(a, b, n, k uint64) bool { return a < b+k && b < a+n }
	for i, l := range m {
		if l.count == 0 || l.guest+l.count > 1<<32-1 || l.host+l.count > 1<<32-1 {
			return false
		}
		for _, o := range m[:i] {
			if meet(l.guest, o.guest, l.count, o.count) || meet(l.host, o.host, l.count, o.count) {
				return false
			}
		}
	}
	return len(m) <= 340
}

// toHost returns the host's id for one of the guest.
func (m modelMap) toHost(guest uint64) (host uint64, ok bool) {
	for _, l := range m {
		if guest >= l.guest && guest < l.guest+l.count {
			return l.host + guest - l.guest, true
		}
	}
	return 0, false
}

// last is the last of the guest's ids.
func (m modelMap) last() (last uint64) {
	for _, l := range m {
		last = max(last, l.guest+l.count-1)
	}
	return last
}

// subordinateFile draws a file as subuid(5) describes it, and others.
func subordinateFile(t *rapid.T) string {
	number := rapid.OneOf(rapid.Uint64Range(0, 40), rapid.Uint64Range(1<<32-20, 1<<32+5), rapid.Uint64())
	line := rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf("%s:%d:%d",
			rapid.SampledFrom([]string{"alice", "1000", "bob", " alice", ""}).Draw(t, "name"), number.Draw(t, "start"), number.Draw(t, "count"))
	})
	return strings.Join(rapid.SliceOf(line).Draw(t, "lines"), "\n")
}

// TestMapModel wants of any subuid(5) a map that the kernel accepts, with the
// caller's own id as root and no id that the file does not give, and a
// ping_group_range that lets nobody in besides the guest's groups' neighbours.
func TestMapModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		file, own := subordinateFile(t), rapid.Uint32Range(0, 50).Draw(t, "own")
		ranges := parseSubordinate([]byte(file), "alice", "1000", own)
		m := parseModelMap(t, mapperArgs(1, int(own), ranges))
		if !m.accepted() {
			t.Fatalf("%q: the kernel would refuse %v", file, m)
		}
		if root, ok := m.toHost(0); !ok || root != uint64(own) {
			t.Fatalf("root is %d, %v, want %d", root, ok, own)
		}
		for _, l := range m[1:] {
			if given := fmt.Sprintf(":%d:%d", l.host, l.count); !strings.Contains(file, "alice"+given) && !strings.Contains(file, "1000"+given) {
				t.Fatalf("%q does not give %s", file, given)
			}
		}
		checkPingRange(t, m, pingRange(IdentityAuto, int(own), ranges))
	})
}

// checkPingRange holds a ping_group_range against what the kernel makes of it: both
// ends must be mapped and are compared as ids of the host.
func checkPingRange(t *rapid.T, m modelMap, text string) {
	var low, high uint64
	if _, err := fmt.Sscanf(text, "%d %d", &low, &high); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	from, ok := m.toHost(low)
	to, ok2 := m.toHost(high)
	if !ok || !ok2 || from > to {
		t.Fatalf("%q: the kernel would refuse it with %v", text, m)
	}
	for _, l := range m {
		inside := l.host >= from && l.host+l.count-1 <= to
		if high != 0 && !inside || high == 0 && l.guest == 0 && !inside {
			t.Fatalf("%q leaves %v out of %v", text, l, m)
		}
	}
	if high != 0 && high != m.last() {
		t.Fatalf("%q: want all ids up to %d", text, m.last())
	}
}
