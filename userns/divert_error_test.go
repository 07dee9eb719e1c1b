package userns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/userns/nft"
)

// An olderKernel is one whose nf_tables has not all that we use: it refuses what
// has a text in it.
type olderKernel struct {
	lacks   []string
	answers []netlink.Message
}

func (k *olderKernel) SendMessages(messages []netlink.Message) error {
	for _, m := range messages {
		errno := int32(0)
		for _, text := range k.lacks {
			if bytes.Contains(m.Data, []byte(text+"\x00")) {
				errno = -int32(syscall.ENOENT)
			}
		}
		if errno != 0 || m.Header.Flags&netlink.Acknowledge != 0 {
			k.answers = append(k.answers, netlink.Message{
				Header: netlink.Header{Type: netlink.Error, Sequence: m.Header.Sequence},
				Data:   binary.NativeEndian.AppendUint32(nil, uint32(errno)),
			})
		}
	}
	return nil
}

func (k *olderKernel) Receive() ([]netlink.Message, error) {
	if len(k.answers) == 0 {
		return nil, syscall.EAGAIN
	}
	all := k.answers
	k.answers = nil
	return all, nil
}

// TestDivertOlderKernel leaves out what a kernel lacks, as far as that goes.
func TestDivertOlderKernel(t *testing.T) {
	for _, tt := range []struct {
		lacks  []string
		want   string // of the error
		nested bool
		fib    bool
	}{
		{lacks: nil, nested: true, fib: true},
		{lacks: []string{"fib"}, nested: true},
		{lacks: []string{"nat"}, fib: true},
		{lacks: []string{"fib", "nat"}},
		{lacks: []string{"tproxy"}, want: "this kernel's nf_tables lacks a part: rule back divert: no such file"},
		{lacks: []string{"ct"}, want: "this kernel's nf_tables lacks a part"},
		{lacks: []string{"route"}, want: "this kernel's nf_tables lacks a part: chain output: no such file"},
	} {
		d := &Diversion{sides: sides(), options: allOptions(true), crowded: true, rules: nft.NewConn(&olderKernel{lacks: tt.lacks})}
		d.mu.Lock()
		err := d.setRules()
		got := d.options
		d.mu.Unlock()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("without %q: %v", tt.lacks, err)
		case tt.want != "":
			var h interface{ Hint() string }
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &h) || !strings.Contains(h.Hint(), "modprobe") {
				t.Errorf("without %q: got %v, want %q and a hint", tt.lacks, err, tt.want)
			}
		case got.nested != tt.nested || got.fib != tt.fib:
			t.Errorf("without %q: got %+v, want nested %v and fib %v", tt.lacks, got, tt.nested, tt.fib)
		}
	}
}

// TestTryRules tells what is left out, with its remedy.
func TestTryRules(t *testing.T) {
	for _, tt := range []struct {
		lacks     []string
		less, err string
	}{
		{},
		{lacks: []string{"fib"}, less: "lacks a part: " + fibRule},
		{lacks: []string{"nat"}, less: "lacks a part: chain postrouting"},
		{lacks: []string{"tproxy"}, err: "lacks a part: rule back divert"},
	} {
		less, err := tryRules(nft.NewConn(&olderKernel{lacks: tt.lacks}))
		for _, e := range []struct {
			got  error
			want string
		}{{less, tt.less}, {err, tt.err}} {
			var h interface{ Hint() string }
			if e.want == "" && e.got != nil ||
				e.want != "" && (e.got == nil || !strings.Contains(e.got.Error(), e.want) || !errors.As(e.got, &h)) {
				t.Errorf("without %q: got %v, want %q and a hint", tt.lacks, e.got, e.want)
			}
		}
	}
}

// TestDivertRefused wants nothing to be left of what does not work.
func TestDivertRefused(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newUndiverted(t)
	before := w.traces(t)
	for _, tt := range []struct {
		name, want string
		divert     Divert
		prepare    func(r *rtnl) error
	}{
		{"no device", "no such device", Divert{Interface: "tap7", Gateway: gatewayMAC}, nil},
		{"no hardware address", "neighbour 192.0.0.8: invalid argument", Divert{Interface: "tap0"}, nil},
		{"loopback down", "network is down", Divert{Interface: "tap0", Gateway: gatewayMAC}, func(r *rtnl) error { return r.down("lo") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.prepare != nil {
				w.guestRoutes(t, tt.prepare)
			}
			_, err := w.ns.Divert(context.Background(), tt.divert)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
			if after := w.traces(t); strings.Join(after, "\n") != strings.Join(before, "\n") {
				t.Errorf("left behind: got\n%s\nwant\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
		})
	}
}

// TestDivertReadOnly diverts where sysctls cannot be written, which is an error
// only if they are not as they should be.
func TestDivertReadOnly(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	setup := attachSetup(p)
	device, _, err := n.Attach(context.Background(), setup)
	if err != nil {
		t.Fatal(err)
	}
	device.Close()
	if err := errors.Join(unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""),
		unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")); err != nil {
		t.Skip(err)
	}
	_, err = n.Divert(context.Background(), Divert{Interface: "tap0", Gateway: gatewayMAC})
	if want := "set net/ipv4/conf/tap0/accept_local to 1, which is 0: read-only file system"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
}
