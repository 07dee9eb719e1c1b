package userns

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// orphan has the executor find that its parent is gone, and waits until it has done
// its work.
func (d *Diversion) orphan() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.executor.socket.Close()
	awaitChild(d.executor.pid)
	d.executor = nil
	d.link = 0 // nothing is left for Remove
}

// TestWill has a diversion removed by its executor, at any stage of its life.
func TestWill(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, w *world)
	}{
		{"made", func(*testing.T, *world) {}},
		{"suspended", func(t *testing.T, w *world) { must(t, w.diversion.Suspend()) }},
		{"restored", func(t *testing.T, w *world) { must(t, w.diversion.Restore(t.Context())) }},
		{"removed by the guest", func(t *testing.T, w *world) { w.guestRemoves(t, ourTables()...) }},
		{"crowded later", func(t *testing.T, w *world) {
			w.guestTables(t, nft.Table{Family: unix.NFPROTO_IPV4, Name: "own"})
			must(t, w.diversion.Restore(t.Context()))
		}},
		{"another executor", func(t *testing.T, w *world) {
			d := w.diversion
			d.mu.Lock()
			defer d.mu.Unlock()
			must(t, unix.Kill(d.executor.pid, unix.SIGKILL))
			var info unix.Siginfo // it stays to be reaped
			must(t, unix.Waitid(unix.P_PID, d.executor.pid, &info, unix.WEXITED|unix.WNOWAIT, nil))
			must(t, d.bequeath())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newUndiverted(t)
			before := w.footprint(t)
			w.divert(Divert{Outlives: true})
			if now := w.footprint(t); now == before {
				t.Fatal("nothing was made")
			}
			tt.change(t, w)
			w.diversion.orphan()
			if after := w.footprint(t); after != before {
				t.Errorf("got %s, want %s", after, before)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// footprint tells what there is of a diversion.
func (w *world) footprint(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	rules := nft.NewConn(w.filterSocket(t))
	for _, table := range ourTables() {
		n, err := rules.Count(&table)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, "rules:", n)
	}
	w.guestRoutes(t, func(r *rtnl) error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			n, err := r.ours(family)
			if err != nil {
				return err
			}
			fmt.Fprintln(&b, "family", family, "routes and routing rules:", n)
		}
		return nil
	})
	names := []string{"tcp_early_demux", "conf/tap0/accept_local", "conf/tap0/rp_filter"}
	var sysctls []file
	for _, name := range names {
		sysctls = append(sysctls, file{"/proc/sys/net/ipv4/" + name, unix.O_RDONLY})
	}
	files, err := w.ns.make(t.Context(), sysctls, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	for i, f := range files {
		value, err := io.ReadAll(f)
		fmt.Fprintf(&b, "%s: %s %v\n", names[i], bytes.TrimSpace(value), err)
	}
	return b.String()
}

// ours returns how many routes are in our tables, and routing rules that lead there.
func (r *rtnl) ours(family uint8) (n int, err error) {
	for kind, attribute := range map[netlink.HeaderType]uint16{unix.RTM_GETRULE: unix.FRA_TABLE, unix.RTM_GETROUTE: unix.RTA_TABLE} {
		answers, err := r.execute(kind, netlink.Dump, unix.RtMsg{Family: family}, func(*netlink.AttributeEncoder) {})
		if err != nil {
			return 0, err
		}
		for _, m := range answers {
			a, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofRtMsg:])
			if err != nil {
				return 0, err
			}
			for a.Next() {
				if a.Type() == attribute && (a.Uint32() == mark.RouteInside || a.Uint32() == mark.RouteBound) {
					n++
				}
			}
		}
	}
	return n, nil
}

// TestAnonymous finds the memory that a child drops in lines of proc_pid_maps(5).
func TestAnonymous(t *testing.T) {
	for _, tt := range []struct {
		line string
		want span
	}{
		{"c000000000-c000400000 rw-p 00000000 00:00 0 \n", span{0xc000000000, 0xc000400000}},
		{"c000000000-c000400000 rw-p 00000000 00:00 0                          [anon: Go: heap]\n", span{0xc000000000, 0xc000400000}},
		{"c000400000-c004000000 ---p 00000000 00:00 0 \n", span{}},
		{"00400000-009fe000 r-xp 00000000 fe:00 10331618                           /bin/taproot\n", span{}},
		{"01125000-01193000 rw-p 00d25000 fe:00 10331618                           /bin/taproot\n", span{}},
		{"7ffe2a383000-7ffe2a3a4000 rw-p 00000000 00:00 0                          [stack]\n", span{}},
		{"7f0000000000-7f8000000000 rw-p 00000000 00:00 0 \n", span{}}, // the race detector's
		{"7f00-7f00 rw-p 00000000 00:00 0 \n", span{}},
		{"x-y rw-p 00000000 00:00 0 \n", span{}},
		{"\n", span{}},
	} {
		if got, ok := anonymous([]byte(tt.line)); got != tt.want || ok != (tt.want != span{}) {
			t.Errorf("%q: got %x, %v, want %x", tt.line, got, ok, tt.want)
		}
	}
}
