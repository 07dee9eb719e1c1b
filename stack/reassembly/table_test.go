package reassembly

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var (
	guest4, target4 = netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("198.51.100.1")
	guest6, target6 = netip.MustParseAddr("fd00::64"), netip.MustParseAddr("2001:db8::1")
)

const protoUDP = 17

// fragment4 is a fragment of a datagram without options.
func fragment4(id uint16, offset int, more bool, data []byte) []byte {
	b := make([]byte, header4, header4+len(data))
	b[0], b[8], b[at4Protocol] = 4<<4|5, 64, protoUDP
	binary.BigEndian.PutUint16(b[at4Length:], uint16(header4+len(data)))
	binary.BigEndian.PutUint16(b[at4ID:], id)
	field := uint16(offset / 8)
	if more {
		field |= 1 << 13
	}
	binary.BigEndian.PutUint16(b[at4Flags:], field)
	copy(b[12:], guest4.AsSlice())
	copy(b[16:], target4.AsSlice())
	binary.BigEndian.PutUint16(b[at4Sum:], headerSum(b))
	return append(b, data...)
}

// fragmentOf6 is a fragment behind extension headers, the first of which is of the
// given type, if there are any.
func fragmentOf6(id uint32, offset int, more bool, first uint8, extensions, data []byte) []byte {
	b := make([]byte, header6)
	b[0], b[at6Next], b[7] = 6<<4, fragment6, 64
	if len(extensions) > 0 {
		b[at6Next] = first
	}
	binary.BigEndian.PutUint16(b[at6Length:], uint16(len(extensions)+fragmentHeader+len(data)))
	copy(b[8:], guest6.AsSlice())
	copy(b[24:], target6.AsSlice())
	b = append(append(b, extensions...), protoUDP, 0)
	field := uint16(offset)
	if more {
		field |= 1
	}
	b = binary.BigEndian.AppendUint16(b, field)
	return append(binary.BigEndian.AppendUint32(b, id), data...)
}

func fragment6Of(id uint32, offset int, more bool, data []byte) []byte {
	return fragmentOf6(id, offset, more, 0, nil, data)
}

// whole4 and whole6 are the packets that fragments make.
func whole4(data []byte) []byte {
	return fragment4(7, 0, false, data)
}

func whole6(extensions, data []byte) []byte {
	b := fragmentOf6(0, 0, false, destinationOptions, extensions, data)
	at := header6 + len(extensions)
	b = slices.Delete(b, at, at+fragmentHeader)
	binary.BigEndian.PutUint16(b[at6Length:], uint16(len(extensions)+len(data)))
	if len(extensions) == 0 {
		b[at6Next] = protoUDP
	} else {
		b[header6] = protoUDP
	}
	return b
}

// pattern is n bytes that all differ from their neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// Each row is what comes in, in its order, and the one packet that comes out.
func TestAdd(t *testing.T) {
	data := pattern(40)
	options := []byte{fragment6, 0, 1, 4, 0, 0, 0, 0} // PadN
	withOptions := func(offset int, more bool, part []byte) []byte {
		return fragmentOf6(1, offset, more, destinationOptions, options, part)
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, 6)...) } // Ethernet's
	long := fragment4(7, 0, true, data[:16])
	long = append(append(slices.Clone(long[:header4]), 7, 4, 8, 0), long[header4:]...) // an option
	long[0]++
	binary.BigEndian.PutUint16(long[at4Length:], uint16(len(long)))
	wholeLong := slices.Clone(long[:header4+4])
	binary.BigEndian.PutUint16(wholeLong[at4Length:], header4+4+24)
	wholeLong[at4Flags], wholeLong[at4Sum], wholeLong[at4Sum+1] = 0, 0, 0
	binary.BigEndian.PutUint16(wholeLong[at4Sum:], headerSum(wholeLong))
	wholeLong = append(wholeLong, data[:24]...)
	for _, test := range []struct {
		name string
		in   [][]byte
		want []byte
	}{
		{"two", [][]byte{fragment4(7, 0, true, data[:16]), fragment4(7, 16, false, data[16:])}, whole4(data)},
		{"backwards", [][]byte{fragment4(7, 32, false, data[32:]), fragment4(7, 16, true, data[16:32]), fragment4(7, 0, true, data[:16])}, whole4(data)},
		{"last first", [][]byte{fragment4(7, 16, false, data[16:]), fragment4(7, 0, true, data[:16])}, whole4(data)},
		{"padded", [][]byte{pad(fragment4(7, 0, true, data[:16])), pad(fragment4(7, 16, false, data[16:]))}, whole4(data)},
		{"option", [][]byte{long, fragment4(7, 16, false, data[16:24])}, wholeLong},
		{"twice", [][]byte{fragment4(7, 0, true, data[:16]), fragment4(7, 0, true, data[:16]), fragment4(7, 16, false, data[16:])}, whole4(data)},
		{"last twice", [][]byte{fragment4(7, 16, false, data[16:]), fragment4(7, 16, false, data[16:]), fragment4(7, 0, true, data[:16])}, whole4(data)},
		{"first missing", [][]byte{fragment4(7, 16, false, data[16:])}, nil},
		{"middle missing", [][]byte{fragment4(7, 0, true, data[:16]), fragment4(7, 32, false, data[32:])}, nil},
		{"two packets", [][]byte{fragment4(7, 0, true, data[:16]), fragment4(8, 16, false, data[16:])}, nil},
		{"overlap", [][]byte{fragment4(7, 0, true, data[:24]), fragment4(7, 16, false, data[16:])}, nil},
		{"overlap before", [][]byte{fragment4(7, 16, true, data[16:32]), fragment4(7, 0, true, data[:24]), fragment4(7, 32, false, data[32:])}, nil},
		{"within", [][]byte{fragment4(7, 0, true, data[:32]), fragment4(7, 8, true, data[8:16]), fragment4(7, 32, false, data[32:])}, nil},
		{"behind the end", [][]byte{fragment4(7, 16, false, data[16:24]), fragment4(7, 24, true, data[24:32]), fragment4(7, 0, true, data[:16])}, nil},
		{"two ends", [][]byte{fragment4(7, 16, false, data[16:24]), fragment4(7, 24, false, data[24:32]), fragment4(7, 0, true, data[:16])}, nil},
		{"end before", [][]byte{fragment4(7, 24, true, data[24:32]), fragment4(7, 16, false, data[16:24]), fragment4(7, 0, true, data[:16])}, nil},
		{"odd", [][]byte{fragment4(7, 0, true, data[:15]), fragment4(7, 16, false, data[16:])}, nil},
		{"too long", [][]byte{fragment4(7, 0, true, data[:16]), fragment4(7, 65528, false, data[:16])}, nil},
		{"ipv6", [][]byte{fragment6Of(7, 0, true, data[:16]), fragment6Of(7, 16, false, data[16:])}, whole6(nil, data)},
		{"ipv6 backwards", [][]byte{fragment6Of(7, 16, false, data[16:]), fragment6Of(7, 0, true, data[:16])}, whole6(nil, data)},
		{"ipv6 large id", [][]byte{fragment6Of(1<<16|7, 0, true, data[:16]), fragment6Of(7, 16, false, data[16:])}, nil},
		{"ipv6 extension", [][]byte{withOptions(0, true, data[:16]), withOptions(16, false, data[16:])}, whole6(options, data)},
		{"ipv6 extension once", [][]byte{withOptions(0, true, data[:16]), fragment6Of(1, 16, false, data[16:])}, whole6(options, data)},
		{"ipv6 atomic", [][]byte{fragment6Of(7, 0, false, data)}, whole6(nil, data)},
		{"ipv6 atomic beside", [][]byte{fragment6Of(7, 16, true, data[:8]), fragment6Of(7, 0, false, data)}, whole6(nil, data)},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := New(Config{})
			var got []byte
			for i, b := range test.in {
				whole, taken := table.Add(b)
				if !taken {
					t.Fatalf("fragment %d is not taken", i)
				}
				if whole != nil && i < len(test.in)-1 {
					t.Fatalf("got a packet after fragment %d", i)
				}
				got = whole
			}
			if !bytes.Equal(got, test.want) {
				t.Errorf("got  %x\nwant %x", got, test.want)
			}
			if held := table.Stats.Held.Load(); got != nil && held != 0 && test.name != "ipv6 atomic beside" {
				t.Errorf("%d bytes are held", held)
			}
		})
	}
}

// What is no fragment is left to the caller, and fragments that make no sense are not.
func TestAddOther(t *testing.T) {
	good4, good6 := fragment4(7, 0, true, pattern(16)), fragment6Of(7, 0, true, pattern(16))
	short := func(b []byte, n int) []byte { return b[:len(b)-n] }
	with := func(b []byte, at int, value byte) []byte {
		b = slices.Clone(b)
		b[at] = value
		return b
	}
	nested := fragment6Of(7, 0, false, append([]byte{protoUDP, 0, 0, 1, 0, 0, 0, 1}, pattern(8)...))
	nested[header6] = fragment6
	for _, test := range []struct {
		name         string
		packet       []byte
		taken, wrong bool
	}{
		{"nothing", nil, false, false},
		{"version", with(good4, 0, 5<<4|5), false, false},
		{"whole", whole4(pattern(16)), false, false},
		{"whole ipv6", whole6(nil, pattern(16)), false, false},
		{"other extension", with(good6, at6Next, 51), false, false},
		{"cut", short(good4, 1), true, true},
		{"cut ipv6", short(good6, 1), true, true},
		{"header cut ipv6", short(good6, 17), false, false},
		{"short header", with(good4, 0, 4<<4|4), true, true},
		{"header longer than the packet", with(good4, at4Length+1, header4-1), true, true},
		{"empty", fragment4(7, 0, true, nil), true, true},
		{"fragment of a fragment", nested, true, true},
	} {
		table := New(Config{})
		whole, taken := table.Add(test.packet)
		if whole != nil || taken != test.taken {
			t.Errorf("%s: got %x, taken %v, want %v", test.name, whole, taken, test.taken)
		}
		if got := table.Stats.Malformed.Load() == 1; got != test.wrong {
			t.Errorf("%s: malformed: got %v, want %v", test.name, got, test.wrong)
		}
	}
}

// TestLimit floods a Table with first fragments, and wants a good packet to be put
// together all the same.
func TestLimit(t *testing.T) {
	const limit = 64 << 10
	table := New(Config{Limit: limit})
	data := pattern(2800)
	for i := range uint32(1000) {
		table.Add(fragment6Of(i, 0, true, data[:1400]))
		if held := table.Stats.Held.Load(); held > limit {
			t.Fatalf("got %d bytes held, want %d at most", held, limit)
		}
	}
	if table.Stats.Evicted.Load() == 0 {
		t.Error("nothing has given way")
	}
	table.Add(fragment4(7, 0, true, data[:1400]))
	if whole, _ := table.Add(fragment4(7, 1400, false, data[1400:])); len(whole) != header4+len(data) {
		t.Errorf("got %d bytes, want a packet of %d", len(whole), header4+len(data))
	}
}

// One packet of more than there may be gives way itself.
func TestLimitOne(t *testing.T) {
	table := New(Config{Limit: 2000})
	for offset := 0; offset < 4000; offset += 8 {
		table.Add(fragment4(7, offset, true, pattern(8)))
		if held := table.Stats.Held.Load(); held > 2000 {
			t.Fatalf("got %d bytes held", held)
		}
	}
}

// Packets are forgotten when their time is up, the oldest first, and those whose
// first fragment came are told of.
func TestExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan []byte, 10)
		table := New(Config{Expired: func(first []byte) { told <- first }})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			table.Run(ctx)
			close(ended)
		}()
		first := fragment4(7, 0, true, pattern(16))
		table.Add(first)
		time.Sleep(Lifetime / 2)
		table.Add(fragment4(8, 16, true, pattern(16)))
		time.Sleep(Lifetime/2 - 1)
		synctest.Wait()
		if len(told) != 0 {
			t.Error("the first is forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if len(told) != 1 {
			t.Fatalf("got %d told of, want 1", len(told))
		}
		if got := <-told; !bytes.Equal(got, first) {
			t.Errorf("got %x, want %x", got, first)
		}
		time.Sleep(Lifetime)
		synctest.Wait()
		if got := table.Stats.Expired.Load(); got != 2 || len(told) != 0 || table.Stats.Held.Load() != 0 {
			t.Errorf("got %d expired, %d told of, %d bytes held, want 2, 0, 0", got, len(told), table.Stats.Held.Load())
		}
		table.Add(first) // it wakes again
		time.Sleep(Lifetime)
		synctest.Wait()
		if len(told) != 1 {
			t.Errorf("got %d told of, want 1", len(told))
		}
		cancel()
		<-ended
	})
}
