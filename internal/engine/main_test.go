package engine

import (
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/settle"
)

// scriptEnv tells the test binary as engine what each of its lives does, in
// words of fakeEngine. countEnv is a file with a byte for each life before,
// publishedEnv one that is made when a port is published.
const (
	scriptEnv    = "TAPROOT_TEST_ENGINE"
	countEnv     = "TAPROOT_TEST_ENGINE_LIVES"
	publishedEnv = "TAPROOT_TEST_ENGINE_PUBLISHED"
)

// TestMain is also the engine of tests, by argv[0]. It checks that no test
// leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) {
	if os.Args[0] == EngineName {
		os.Exit(fakeEngine())
	}
	switch {
	case inOutside(): // where servers stay to the end
		os.Exit(m.Run())
	case isFuzzWorker():
		os.Exit(fuzzInOutside())
	}
	os.Exit(settle.Main(m))
}

// words is how many last words an engine says: more than a pipe holds.
const words = 20000

// fakeEngine is an engine that moves no packets.
func fakeEngine() int {
	if os.Getenv(scriptEnv) == "" { // which engines in a sandbox do not get
		return capturedEngine()
	}
	lives, _ := os.ReadFile(os.Getenv(countEnv))
	script := strings.Fields(os.Getenv(scriptEnv))
	if err := os.WriteFile(os.Getenv(countEnv), append(lives, '.'), 0o600); err != nil {
		return 1
	}
	w := &wire{os.NewFile(wireFD, "supervisor")}
	word := script[min(len(lives), len(script)-1)]
	m, device, err := w.receive()
	if err == nil && m.Hello != nil {
		if !answerHello(w, word) {
			return 6
		}
		m, device, err = w.receive()
	}
	if err != nil || m.Start == nil || len(device) != 1 {
		return 2
	}
	switch word {
	case "die": // before it is ready
		return 3
	case "chatty":
		_, _ = os.Stderr.WriteString("so much to tell\n")
	case "last-words":
		_, _ = os.Stderr.WriteString(strings.Repeat("word\n", words))
		return 3
	case "fail":
		_ = w.send(message{Failed: "as told"})
		return 125
	case "bare":
		_ = w.send(message{Ready: true, Sandbox: []SandboxStep{{Name: StepSeccomp, Detail: "as told"}}})
		return 0
	case "babble": // does not die of it
		_ = w.send(message{Ready: true})
		_ = w.sendBytes([]byte("}{"), nil)
	case "silent": // something else than ready
		_ = w.send(message{Gone: "?"})
		return 0
	case "ready-die":
		_ = w.send(message{Ready: true})
		return 4
	case "deaf": // does not listen, not even to the end
		_ = w.send(message{Ready: true})
		fallthrough
	case "stuck": // while it starts
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		return 0
	case "babbling": // reads nothing, but does not fall silent
		_ = w.send(message{Ready: true})
		return repeat(w, message{Closed: 1})
	case "parrot": // says that it lives, and reads nothing
		_ = w.send(message{Ready: true})
		return repeat(w, message{Pong: true})
	case "miss": // misses the first socket, and calls the second one closed
		_ = w.send(message{Ready: true})
		return missFirst(w)
	case "slow": // tells by a file that it has heard of a port
		_ = w.send(message{Ready: true})
		return hearLate(w)
	case "answer", "busy", "bad-answer", "endless", "answer-dies":
		_ = w.send(message{Ready: true})
		return answerAs(w, word)
	case "take-die", "take-silent": // when it has taken over
		_ = w.send(message{Ready: true})
		return takeOver(w, word)
	case "gone":
		_ = w.send(message{Ready: true})
		_ = w.send(message{Gone: "deleted"})
		return 0
	}
	_ = w.send(message{Ready: true})
	for {
		if m, err := heed(w); err != nil || m.Yield {
			return 0
		}
	}
}

// takeOver waits to take over, and fails then. Before, and if it need not wait, it does
// what it should.
func takeOver(w *wire, word string) int {
	for {
		m, err := heed(w)
		switch {
		case err != nil || m.Yield:
			return 0
		case m.Go && word == "take-die":
			return 4
		case m.Go:
			stop := make(chan os.Signal, 1)
			signal.Notify(stop, syscall.SIGTERM)
			<-stop
		}
	}
}

// missFirst misses the first socket, and calls others closed.
func missFirst(w *wire) int {
	for n := 0; ; {
		m, err := heed(w)
		if err != nil {
			return 0
		}
		if m.Publish == nil {
			continue
		}
		if n++; n == 1 {
			_ = w.send(message{Missed: true})
		} else {
			_ = w.send(message{Closed: m.Publish[0].Rule})
		}
	}
}

// hearLate listens late, and tells by a file that it has heard of a port.
func hearLate(w *wire) int {
	time.Sleep(300 * time.Millisecond)
	for {
		m, err := heed(w)
		switch {
		case err != nil:
			return 0
		case m.Publish != nil:
			_ = os.WriteFile(os.Getenv(publishedEnv), nil, 0o600)
		case m.Query != nil:
			_ = w.send(message{Answer: &answer{ID: m.Query.ID}})
		}
	}
}

// repeat says m again and again.
func repeat(w *wire, m message) int {
	often := time.NewTicker(10 * time.Millisecond)
	for w.send(m) == nil {
		<-often.C
	}
	return 0
}

// answerHello says who we are, as a word of the script has it. It returns false
// for who is no engine.
func answerHello(w *wire, word string) bool {
	h := &hello{wireProtocol, "fake", handoverFormat}
	switch word {
	case "stranger":
		return false
	case "future":
		h.Protocol++
	}
	return w.send(message{Hello: h}) == nil
}

// heed returns the next message, and answers those that want to know whether it
// lives.
func heed(w *wire) (message, error) {
	for {
		m, files, err := w.receive()
		if err != nil || !m.Ping {
			return m, err
		}
		closeAll(files)
		_ = w.send(message{Pong: true})
	}
}

// answerAs answers queries as a word of the script says.
func answerAs(w *wire, word string) int {
	for {
		m, err := heed(w)
		if err != nil {
			return 0
		}
		if m.Query == nil {
			continue
		}
		a := &answer{ID: m.Query.ID}
		switch word {
		case "answer":
			_ = w.send(message{Answer: &answer{ID: a.ID + 1, Killed: -1}}) // nobody's
			_ = w.send(message{Answer: &answer{ID: a.ID, More: true}})
		case "busy":
			a.Busy = true
		case "bad-answer":
			a.Killed = -1
		case "endless":
			for a.More = true; w.send(message{Answer: a}) == nil; {
			}
			return 0
		case "answer-dies":
			return 5
		}
		_ = w.send(message{Answer: a})
	}
}

// setScript sets what the engines of a test do.
func setScript(t *testing.T, script string) {
	t.Helper()
	t.Setenv(scriptEnv, script)
	t.Setenv(countEnv, filepath.Join(t.TempDir(), "lives"))
	t.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would wait a second at the end of each
}

// countLives returns how many engines were started.
func countLives(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(os.Getenv(countEnv))
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}

// device returns a file that stands for the TAP device.
func device(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/" + strconv.Itoa(os.Getpid()) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// testSandbox lets engines write the files of their script.
func testSandbox() Sandbox { return Sandbox{Mode: SandboxOff} }

func testLauncher(t *threads) *launcher {
	return &launcher{threads: t, mode: SandboxOff}
}
