package e2e

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/probe"
	"taproot/test/lab"
)

// TestShortcutFull: a guest whose connection tracking is full has its connections
// by frames, and by the shortcut when there is room again. One that took the
// shortcut before ends at once when it is used, and one that is not used meanwhile
// goes on.
func TestShortcutFull(t *testing.T) {
	t.Parallel()
	p, s := newDiverted(t)
	number := func(name string) int {
		n, err := strconv.Atoi(strings.TrimSpace(s.must("cat /proc/sys/net/netfilter/nf_conntrack_" + name)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	limit := number("max")
	const most = 300_000 // 100 MB of the kernel's memory
	if limit > most {
		lab.Lacks(t, &probe.Unsupported{Feature: "conntrack", Err: fmt.Errorf("nf_conntrack_max is %d, which only root can change", limit)})
	}
	p.wantWay(byShortcut)
	open := plain(`
		guest connect open
		server accept
		guest way: shortcut
		guest1 connect open
		server1 accept
		guest1 way: shortcut`)
	if got := p.steps(open); got != open {
		t.Fatalf("got:\n%s\nwant:\n%s", got, open)
	}
	if err := p.guest.Do(func() error { return track(limit * 97 / 100) }); err != nil {
		t.Fatal(err)
	}
	if n := number("count"); n < limit*96/100 {
		t.Fatalf("connection tracking: got %d of %d entries", n, limit)
	}
	p.lab.Eventually("connections go by frames", func() bool { return p.way() == byFrames })
	p.wantUsable()
	reset := plain(`
		guest send 5
		guest recv 1: ECONNRESET
		server recv 1: ECONNRESET`)
	if got := p.steps(reset); got != reset {
		t.Errorf("a connection from before: got:\n%s\nwant:\n%s", got, reset)
	}
	if err := p.guest.Do(forgetTracked); err != nil {
		t.Fatal(err)
	}
	p.lab.Eventually("connections take the shortcut again", func() bool { return p.way() == byShortcut })
	use := plain(`
		guest1 send 5
		server1 recv 5
		server1 send 70000
		guest1 recv 70000`)
	if got := p.steps(use); got != use {
		t.Errorf("a connection that was not used: got:\n%s\nwant:\n%s", got, use)
	}
}

// Numbers of nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	newEntry    = unix.NFNL_SUBSYS_CTNETLINK << 8 // and IPCTNL_MSG_CT_NEW
	deleteEntry = newEntry | 2                    // IPCTNL_MSG_CT_DELETE
	heldStatus  = 1<<1 | 1<<2 | 1<<3              // seen reply, assured, confirmed
)

// track gives connection tracking of the calling thread's namespace n entries that
// it does not give up for others.
func track(n int) error {
	const atOnce = 400
	var batch []byte
	for i := range n {
		batch = append(batch, message(newEntry, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tracked(uint32(i)))...)
		if i%atOnce == atOnce-1 || i == n-1 {
			if err := tellNetfilter(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

// forgetTracked removes all entries.
func forgetTracked() error { return tellNetfilter(message(deleteEntry, 0, nil)) }

// tellNetfilter sends messages and does not ask what becomes of them.
func tellNetfilter(messages []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// message is one of nfnetlink.
func message(kind, flags uint16, attributes []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+4+len(attributes)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(b, make([]byte, 8)...)
	return append(append(b, unix.AF_INET, unix.NFNETLINK_V0, 0, 0), attributes...)
}

// tracked is the i-th connection.
func tracked(i uint32) []byte {
	const nested = unix.NLA_F_NESTED
	source, target := binary.BigEndian.AppendUint32(nil, 11<<24+i), []byte{12, 0, 0, 1}
	tuple := func(kind uint16, from, to []byte, fromPort, toPort byte) []byte {
		return attribute(nested|kind, // CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
			attribute(nested|1, attribute(1, from), attribute(2, to)),                                                                       // CTA_TUPLE_IP
			attribute(nested|2, attribute(1, []byte{unix.IPPROTO_TCP}), attribute(2, []byte{1, fromPort}), attribute(3, []byte{1, toPort}))) // CTA_TUPLE_PROTO
	}
	const established = 3
	var all []byte
	for _, a := range [][]byte{
		tuple(1, source, target, 1, 2),
		tuple(2, target, source, 2, 1),
		attribute(3, binary.BigEndian.AppendUint32(nil, heldStatus)),                // CTA_STATUS
		attribute(7, binary.BigEndian.AppendUint32(nil, 1000)),                      // CTA_TIMEOUT, in seconds
		attribute(nested|4, attribute(nested|1, attribute(1, []byte{established}))), // CTA_PROTOINFO
	} {
		all = append(all, a...)
	}
	return all
}

// attribute is one of netlink.
func attribute(kind uint16, parts ...[]byte) []byte {
	b := make([]byte, 4, 64)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	return append(b, make([]byte, -len(b)&3)...)
}
