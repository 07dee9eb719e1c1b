package e2e

import (
	"slices"
	"sync"
	"testing"

	"taproot/test/lab"
)

// nestings are the ways in which container engines connect a network that is
// nested in the guest's: commands of the guest, which has a bridge already.
var nestings = []struct {
	name, program string // which the commands need
	commands      string
}{
	{"routed", "sh", `true`},
	{"nft masquerade", "nft", `nft -f - <<'END'
		table inet containers {
			chain forward {
				type filter hook forward priority filter; policy drop;
				iifname br0 accept
				ct state established,related accept
			}
			chain postrouting {
				type nat hook postrouting priority srcnat;
				ip saddr ` + lab.NestedNet4 + ` oifname != br0 masquerade
				ip6 saddr ` + lab.NestedNet6 + ` oifname != br0 masquerade
			}
		}
END`},
	{"iptables masquerade", "iptables", `
		for v in 4 6; do
			if [ $v = 4 ]; then t=iptables n=` + lab.NestedNet4 + `; else t=ip6tables n=` + lab.NestedNet6 + `; fi
			$t -P FORWARD DROP &&
			$t -A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT &&
			$t -A FORWARD -i br0 ! -o br0 -j ACCEPT &&
			$t -t nat -A POSTROUTING -s $n ! -o br0 -j MASQUERADE || exit 1
		done`},
}

// nestedRows are the rows of the table of behaviour whose code has to do with
// who forwards what.
var nestedRows = []string{
	"echo", "refused", "no host", "no network", "prohibited", "denied by policy", "SYN sent again while dialling",
	"half-close by guest", "half-close by server", "port reused at once, server closed first", "port reused after a reset", "port reused after a crash",
	"reset by server after data", "reset by guest while the server is stalled", "small packets on the way, from guest",
	"fast open with data in the SYN", "MPTCP from guest",
}

// TestNested: connections from networks nested in the guest's behave as the
// guest's own do, by either way.
func TestNested(t *testing.T) {
	t.Parallel()
	needTProxy(t, newLab(t))
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, atOnce)
	for _, nesting := range nestings {
		for _, c := range columns()[1:] {
			for i, f := range families {
				slots <- struct{}{}
				all.Go(func() {
					defer func() { <-slots }()
					t.Run(nesting.name+" "+c.name+" "+f.name, func(t *testing.T) {
						lab.Need(t, f.needs...)
						lab.NeedProgram(t, nesting.program)
						l := newLab(t)
						s := newShell(t, l, c.options...)
						outer := networkOf(t, l, s)
						nested := outer.Nest("nested")
						s.must("( " + nesting.commands + "\n)")
						p := play{lab: l, family: i, column: c, guest: nested, outer: outer, sockets: map[string]*plainSocket{}}
						for _, row := range behaviours() {
							if slices.Contains(nestedRows, row.name) && row.isOn(f.name) {
								t.Run(row.name, func(t *testing.T) { p.with(t).check(row) })
							}
						}
					})
				})
			}
		}
	}
}
