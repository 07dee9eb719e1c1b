package lab

import (
	"time"
)

// Patience is how long a test waits for something that should come soon. It
// only has to be longer than a busy machine is slow: no test waits it out to
// pass.
const Patience = 40 * time.Second

// Eventually waits until condition holds, asking again every few milliseconds,
// and fails the test if it does not within [Patience]. what completes the
// sentence "waited in vain: ...".
func Eventually(t TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for wait := time.Millisecond; !condition(); wait = min(2*wait, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(wait)
	}
}

// Eventually is the function of that name, for the laboratory's test.
func (l *Lab) Eventually(what string, condition func() bool) {
	l.t.Helper()
	Eventually(l.t, what, condition)
}
