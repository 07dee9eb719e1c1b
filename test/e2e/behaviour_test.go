package e2e

import (
	"strings"
	"sync"
	"testing"

	"taproot/test/lab"
)

// atOnce is how many rows are performed at a time. Most of them wait for
// timers of the kernel, and need the machine for some milliseconds only.
const atOnce = 8

// TestBehaviour: whichever way a connection takes, both of its ends see what
// they would see if the host's kernel had forwarded it. The rows are in
// behaviour_rows_test.go.
func TestBehaviour(t *testing.T) {
	t.Parallel()
	playAll(t, behaviours(), func(c column) bool { return c.name != "stack" }, newPlay)
}

// playAll plays each row in each column, in the families that it is for. newPlay
// gets the family's index; diverted tells the columns that need what the shortcut
// needs of the kernel.
func playAll(t *testing.T, rows []behaviour, diverted func(column) bool, newPlay func(*testing.T, column, int) *play) {
	missing := tproxy(t, newLab(t))
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, atOnce)
	for _, row := range rows {
		for i, f := range families {
			if !row.isOn(f.name) {
				continue
			}
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				t.Run(row.name+" "+f.name, func(t *testing.T) {
					lab.Need(t, f.needs...)
					for _, c := range columns() {
						t.Run(c.name, func(t *testing.T) {
							if missing != nil && diverted(c) {
								lab.Lacks(t, missing)
							}
							newPlay(t, c, i).check(row)
						})
					}
				})
			})
		}
	}
}

// plain is a script without what is only for the eye.
func plain(script string) string {
	var b strings.Builder
	for line := range strings.Lines(script) {
		if fields := strings.Fields(line); len(fields) > 0 {
			b.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	return b.String()
}
