package reassembly

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// FuzzAdd gives a Table any packets, 2 bytes of length before each.
func FuzzAdd(f *testing.F) {
	for _, list := range [][][]byte{
		{fragment4(7, 0, true, pattern(16)), fragment4(7, 16, false, pattern(16))},
		{fragment6Of(7, 16, false, pattern(16)), fragment6Of(7, 0, true, pattern(16))},
		{fragmentOf6(7, 0, false, hopByHop, []byte{fragment6, 0, 1, 4, 0, 0, 0, 0}, pattern(16))},
	} {
		var b []byte
		for _, packet := range list {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(packet))), packet...)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 4 << 10
		table := New(Config{Limit: limit})
		for len(b) >= 2 {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			packet := b[2 : 2+n]
			b = b[2+n:]
			whole, taken := table.Add(packet)
			if p, bad := parse(packet); taken != (p != nil || bad) {
				t.Fatalf("%x: taken: got %v", packet, taken)
			}
			if whole != nil && (isFragment(whole) || whole[0]>>4 != packet[0]>>4) {
				t.Fatalf("got %x", whole)
			}
			if held := table.Stats.Held.Load(); held < 0 || held > limit {
				t.Fatalf("got %d bytes held", held)
			}
		}
		table.mu.Lock()
		n := len(table.packets)
		table.mu.Unlock()
		if (n == 0) != (table.Stats.Held.Load() == 0) {
			t.Fatalf("%d packets hold %d bytes", n, table.Stats.Held.Load())
		}
	})
}

// FuzzOrder cuts a packet into fragments, some of which come twice, in an order of
// the fuzzer's, and wants it back.
func FuzzOrder(f *testing.F) {
	f.Add(uint64(1), 3000, 10)
	f.Add(uint64(2), 65000, 200)
	f.Add(uint64(3), 9, 2)
	f.Fuzz(func(t *testing.T, seed uint64, size, cuts int) {
		if size < 9 || size > maxLength-header4 || cuts < 1 || cuts > 1000 {
			t.Skip()
		}
		r := rand.New(rand.NewPCG(seed, 0))
		data := pattern(size)
		ends := make([]bool, (size-1)/8+1) // a fragment ends before 8 times the index
		for range cuts {
			ends[r.IntN(len(ends))] = true
		}
		ends[len(ends)-1] = true // two at least
		var parts [][2]int
		from := 0
		for i, end := range ends {
			if end && i > 0 {
				parts = append(parts, [2]int{from, i * 8})
				from = i * 8
			}
		}
		parts = append(parts, [2]int{from, size})
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		if again := parts[r.IntN(len(parts))]; r.IntN(2) == 0 && len(parts) > 1 {
			parts = append([][2]int{again}, parts...)
		}
		table := New(Config{})
		var got []byte
		for i, p := range parts {
			whole, _ := table.Add(fragment4(7, p[0], p[1] < size, data[p[0]:p[1]]))
			if whole != nil && i < len(parts)-1 && got == nil {
				got = whole // what came twice was the last
				continue
			}
			if whole != nil {
				got = whole
			}
		}
		if len(got) != header4+size || !bytes.Equal(got[header4:], data) {
			t.Fatalf("got %d bytes, want the %d that were sent", len(got), header4+size)
		}
	})
}
