package settle

import (
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// Patience is how long a test waits for what must happen. It is far above what
// a busy machine needs; no test waits it out to pass.
const Patience = 30 * time.Second

// Until waits until condition holds. It fails the test if that never happens;
// what says what that is.
func Until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	if !wait(condition) {
		t.Fatalf("never happened: %s", what)
	}
}

// wait reports whether condition has become true. It asks again at once, and then
// less and less often: on a machine with few processors, who only asks keeps
// those from running who could make it true.
func wait(condition func() bool) bool {
	deadline := time.Now().Add(Patience)
	for pause := time.Microsecond; !condition(); pause = min(2*pause, 5*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// Main runs the tests of a package and returns the exit status. It is 1 if they
// leave a goroutine or a descriptor behind.
func Main(m *testing.M) (status int) {
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil { // opens what the runtime keeps open
		l.Close()
	}
	before := count()
	status = m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		return status // the fuzzing engine has some of its own
	}
	var after things
	if wait(func() bool {
		after = count()
		return after.goroutines <= before.goroutines && after.descriptors <= before.descriptors
	}) {
		return status
	}
	stacks := make([]byte, 1<<16)
	fmt.Fprintf(os.Stderr, "left behind: got %+v, want %+v\n%s\n", after, before, stacks[:runtime.Stack(stacks, true)])
	return 1
}

// things are what a process has too many of when something was left behind.
type things struct{ goroutines, descriptors int }

func count() things { return things{runtime.NumGoroutine(), Descriptors()} }

// Descriptors returns how many descriptors are open, or 0 if the system does
// not say.
func Descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
