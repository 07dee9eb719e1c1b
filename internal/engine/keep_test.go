package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/test/settle"
)

// A keeping is a supervisor without a guest, that keeps an engine.
type keeping struct {
	*supervisor
	warnings chan string
	cancel   context.CancelFunc
	ended    chan struct{} // closed when keep has returned
}

// newKeeping starts the first engine, whose lives are as script says, and
// keeps it until the test ends.
func newKeeping(t *testing.T, script string) *keeping {
	t.Helper()
	return newBeating(t, script, 0)
}

// newBeating is newKeeping with a watchdog of its own.
func newBeating(t *testing.T, script string, beat time.Duration) *keeping {
	t.Helper()
	setScript(t, script)
	k := &keeping{warnings: make(chan string, 16), ended: make(chan struct{})}
	k.supervisor = &supervisor{
		cfg:    Config{Warn: func(message, _ string) { k.warnings <- message }},
		log:    slog.New(slog.DiscardHandler),
		spec:   testSpec(t, plan.Offsets{}, Config{}),
		device: device(t),
		rules:  portfwd.NewTable(portfwd.TableConfig{}),
		gone:   make(chan error, 1),
		world:  &testWorld{},
		beat:   beat,

		restartRequests: make(chan restartRequest), kept: make(chan struct{}),
	}
	t.Cleanup(k.closeBinaries)
	var wg sync.WaitGroup
	last, release := context.WithCancel(context.Background())
	launcher := testLauncher(newThreads(last, &wg))
	t.Cleanup(func() {
		release()
		wg.Wait()
	})
	engine, err := launcher.start(launch{stderr: os.Stderr, beat: k.beat})
	if err != nil {
		t.Fatal(err)
	}
	k.engineIs(engine)
	t.Cleanup(func() { k.stopEngine() })
	if _, err := k.beginEngine(engine, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	go func() {
		defer close(k.ended)
		k.keep(ctx, launcher)
	}()
	wg.Go(func() { k.serveRestarts(ctx, launcher) })
	t.Cleanup(func() {
		cancel()
		<-k.ended
	})
	return k
}

// endTrial makes the program that engines are made of one that has lasted.
func (k *keeping) endTrial() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trial.until = time.Now()
}

// TestKeep wants an engine that dies to be started again, whenever it does.
func TestKeep(t *testing.T) {
	for script, lives := range map[string]int{
		"stay":                               1,
		"ready-die stay":                     2,
		"ready-die ready-die ready-die stay": 4,
		"ready-die die stay":                 3,
		"babble stay":                        2,
	} {
		t.Run(script, func(t *testing.T) {
			k := newKeeping(t, script)
			settle.Until(t, "the last engine is told of the host", func() bool {
				if countLives(t) < lives {
					return false
				}
				k.mu.Lock()
				defer k.mu.Unlock()
				select {
				case <-k.engine.exited:
					return false
				default:
					return k.engine.wire.send(message{Host: &hostState{}}) == nil
				}
			})
			k.cancel()
			<-k.ended
			if got := countLives(t); got != lives {
				t.Errorf("lives: got %d, want %d", got, lives)
			}
			if n := len(k.warnings); n > 0 {
				t.Errorf("warnings: got %q, want none", <-k.warnings)
			}
		})
	}
}

// TestKeepGivesUp wants a word to the user when there is no use in going on.
func TestKeepGivesUp(t *testing.T) {
	for script, want := range map[string]string{
		"gone":           "deleted",
		"ready-die fail": "as told",
	} {
		t.Run(script, func(t *testing.T) {
			k := newKeeping(t, script)
			settle.Until(t, "it is given up", func() bool { return k.status().Engine == EngineGone })
			if got := k.status().Why; !strings.Contains(got, want) {
				t.Errorf("got %q, want why: %q", got, want)
			}
			if len(k.warnings) == 0 {
				t.Error("no warning yet")
			}
			select {
			case <-k.ended:
			case <-time.After(settle.Patience):
				t.Fatal("still kept")
			}
			select {
			case got := <-k.warnings:
				if !strings.Contains(got, want) {
					t.Errorf("got %q, want %q in it", got, want)
				}
			default:
				t.Error("no warning")
			}
			if err := <-k.gone; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got error %v, want %q in it", err, want)
			}
		})
	}
}

// TestRestartLimit wants the eleventh death in a minute to be the last.
func TestRestartLimit(t *testing.T) {
	s := &supervisor{}
	_, err := s.restart(t.Context(), nil, restartMost+1)
	if err == nil || !strings.Contains(err.Error(), "11 times") {
		t.Errorf("got %v, want the number of deaths", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := s.restart(ended, nil, restartMost); err != nil { // which waits 5 s
		t.Errorf("when all ends: got %v, want nil", err)
	}
}

// TestUnborn wants an engine that cannot be started for a while to be started later.
func TestUnborn(t *testing.T) {
	k := newKeeping(t, "stay")
	b, err := openBinary("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	b.file.Close() // cannot be executed
	k.setBinary(b, false)
	k.endTrial()
	if err := k.current().process.Kill(); err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "one is not started", func() bool { return strings.HasPrefix(k.status().Why, "start the engine: ") })
	k.setBinary(nil, false)
	settle.Until(t, "another one runs", func() bool { return k.status().Engine == EngineRunning && countLives(t) == 2 })
}

// TestBegin wants each way in which an engine does not start told apart.
func TestBegin(t *testing.T) {
	for script, want := range map[string]string{
		"stay": "", "fail": "start the engine: as told", "die": "engine: exit status 3", "silent": "unexpected message", "bare": "",
	} {
		t.Run(script, func(t *testing.T) {
			setScript(t, script)
			ctx, release := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			launcher := testLauncher(newThreads(ctx, &wg))
			defer wg.Wait()
			defer release()
			p, err := launcher.start(launch{stderr: os.Stderr})
			if err != nil {
				t.Fatal(err)
			}
			defer p.stop()
			err = p.begin(testSpec(t, plan.Offsets{}, Config{}), device(t))
			if err == nil {
				err = p.ready()
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
			if got := skipped(p.steps); strings.Contains(got, "as told") != (script == "bare") {
				t.Errorf("%s: got skipped steps %q", script, got)
			}
		})
	}
}

// TestTell wants the engine's end to be no error of the one that tells.
func TestTell(t *testing.T) {
	k := newKeeping(t, "stay")
	h := hostState{Search: []string{"example.test"}}
	k.tell(h)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.host.Search) != 1 {
		t.Errorf("host: got %+v, want %+v", k.host, h)
	}
	k.engine.wire.close()
	if err := k.engine.wire.send(message{Host: &h}); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("closed wire: got %v, want an error", err)
	}
}
