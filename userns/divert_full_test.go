package userns

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	newEntry     = unix.NFNL_SUBSYS_CTNETLINK << 8 // and IPCTNL_MSG_CT_NEW, which is 0
	ctaOrig      = 1
	ctaReply     = 2
	ctaStatus    = 3
	ctaProtoInfo = 4
	ctaTimeout   = 7

	statusHeld      = 1<<1 | 1<<2 | 1<<3 // seen reply, assured, confirmed
	tcpEstablished  = 3
	entriesPerWrite = 400
)

// fill makes n entries of connection tracking that the kernel does not give up
// for others.
func (w *world) fill(t *testing.T, n int) {
	t.Helper()
	s := w.filterSocket(t)
	for i := 0; i < n; i += entriesPerWrite {
		var messages []netlink.Message
		for j := i; j < min(i+entriesPerWrite, n); j++ {
			messages = append(messages, entryOf(t, j))
		}
		if err := s.SendMessages(messages); err != nil {
			t.Fatal(err)
		}
		for {
			answers, err := s.Receive()
			if err != nil {
				break
			}
			t.Fatalf("got %v", answers)
		}
	}
}

// entryOf makes the i-th entry.
func entryOf(t *testing.T, i int) netlink.Message {
	t.Helper()
	source := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
	target := netip.AddrFrom4([4]byte{12, 0, 0, 1})
	a := netlink.NewAttributeEncoder()
	a.ByteOrder = binary.BigEndian
	tuple := func(from, to netip.Addr, fromPort, toPort uint16) func(a *netlink.AttributeEncoder) error {
		return func(a *netlink.AttributeEncoder) error {
			a.Nested(1, func(a *netlink.AttributeEncoder) error { // CTA_TUPLE_IP
				a.Bytes(1, from.AsSlice())
				a.Bytes(2, to.AsSlice())
				return nil
			})
			a.Nested(2, func(a *netlink.AttributeEncoder) error { // CTA_TUPLE_PROTO
				a.Uint8(1, unix.IPPROTO_TCP)
				a.Uint16(2, fromPort)
				a.Uint16(3, toPort)
				return nil
			})
			return nil
		}
	}
	a.Nested(ctaOrig, tuple(source, target, 1000, 80))
	a.Nested(ctaReply, tuple(target, source, 80, 1000))
	a.Uint32(ctaStatus, statusHeld)
	a.Uint32(ctaTimeout, 1000)
	a.Nested(ctaProtoInfo, func(a *netlink.AttributeEncoder) error {
		a.Nested(1, func(a *netlink.AttributeEncoder) error { // CTA_PROTOINFO_TCP
			a.Uint8(1, tcpEstablished)
			return nil
		})
		return nil
	})
	data, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	data = append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, data...)
	return netlink.Message{
		Header: netlink.Header{
			Length: uint32(unix.NLMSG_HDRLEN + len(data)), Type: newEntry,
			Flags: netlink.Request | netlink.Create | netlink.Excl,
		},
		Data: data,
	}
}

// TestDivertTracked counts what connection tracking has, and suspends a
// diversion. Filled up to nf_conntrack_max, which takes seconds, no SYN comes out
// before and each does afterwards.
func TestDivertTracked(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	const n = 1000
	w.fill(t, n)
	now, limit, err := w.diversion.Tracked()
	if err != nil || now < n || limit < now {
		t.Fatalf("tracked: got %d of %d and error %v, want %d and more", now, limit, err, n)
	}
	if err := w.diversion.Suspend(); err != nil {
		t.Fatal(err)
	}
	addresses := []string{"198.51.100.7:80", "[2001:db8::7]:80"}
	for _, to := range addresses {
		s := w.dial(to, nil)
		w.answer(w.next(w.plain, to), 0x12) // SYN, ACK
		if err := connected(t, s); err != nil {
			t.Error(err)
		}
	}
	if err := w.diversion.Restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, to := range addresses {
		w.converse(t, to, nil)
	}
}
