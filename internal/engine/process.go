package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A process is one life of the engine.
type process struct {
	process *os.Process
	wire    *wire
	said    *os.File      // its standard error
	stderr  io.Writer     // where that goes
	steps   []SandboxStep // what it has given up

	exited chan struct{} // closed when the process is gone
	err    error         // how it ended; valid once exited is closed

	beat   time.Duration // of watchOver
	signs  signs         // of life
	heeded atomic.Bool   // set when watch reads all that it says
	missed atomic.Int32  // beats without a sign of life
	silent atomic.Int32  // the number of beats for whose silence it was killed

	yields atomic.Bool // it was asked to hand over its connections

	version  string // as it says itself; "" if it was not asked
	handover int    // the handoverFormat that it understands, 0 if none
}

// A launch says how engines are started.
type launch struct {
	stderr io.Writer
	beat   time.Duration // 0 means watchBeat
	binary *build        // nil is our own
}

// begin gives the engine its work and the descriptors for it. From now on it is
// watched over.
func (p *process) begin(s *spec, files ...*os.File) error {
	if err := p.wire.send(message{Start: s}, files...); err != nil {
		return p.ended(fmt.Errorf("start the engine: %w", err))
	}
	go p.watchOver(p.beat) // ends with the process, or its wire
	return nil
}

// ready waits until the engine is.
func (p *process) ready() error {
	m, err := p.next()
	switch {
	case err != nil:
		return p.ended(fmt.Errorf("start the engine: %w", err))
	case m.Failed != "":
		return fmt.Errorf("start the engine: %w", refusal(m.Failed))
	case !m.Ready:
		return errors.New("start the engine: unexpected message")
	}
	p.steps = append(p.steps, own(m.Sandbox)...)
	return nil
}

// next returns what the engine says next but that it lives.
func (p *process) next() (message, error) {
	m, fds, err := p.nextPassed()
	fds.close() // an engine has none to give, unless it yields
	return m, err
}

// nextPassed is next with what comes with a message.
func (p *process) nextPassed() (message, passed, error) {
	for {
		m, fds, err := p.wire.receiveRaw()
		if err != nil {
			fds.close()
			return message{}, nil, err
		}
		if m.Pong {
			fds.close()
			p.signs.answer()
			continue
		}
		m.Failed, m.Gone = plain(m.Failed), plain(m.Gone)
		return m, fds, nil
	}
}

// A refusal is why an engine says it cannot start. The next one could not
// either.
type refusal string

// Error returns the engine's words.
func (r refusal) Error() string { return string(r) }

// ended returns err, or how the process ended if it did.
func (p *process) ended(err error) error {
	select {
	case <-p.exited:
		return fmt.Errorf("engine: %w", cmp.Or(p.err, errEnded))
	case <-time.After(time.Second): // of a process that closed its socket
		return err
	}
}

// errEnded says that an engine ended which had no reason to.
var errEnded = errors.New("exit status 0")

// watch returns when the engine is gone. gone is why the device is, "" if it
// is not. heard gets what else the engine says, and owns what comes with it; it must
// not block.
func (p *process) watch(heard func(message, passed)) (gone string) {
	p.heeded.Store(true)
	for {
		m, fds, err := p.nextPassed()
		if errors.Is(err, errMessage) {
			_ = p.process.Kill() // an engine of ours would not say that
		}
		if err != nil {
			break
		}
		if m.Gone != "" {
			gone = m.Gone
		}
		heard(m, fds)
	}
	<-p.exited
	return gone
}

// stop ends the engine and waits for it. Closing the wire is enough for one
// that works; the signal is for one that does not.
func (p *process) stop() {
	p.wire.hangUp()
	select {
	case <-p.exited:
		return
	case <-time.After(stopGrace):
	}
	_ = p.process.Kill()
	<-p.exited
}

// stopGrace is how long an engine may take to send what the guest has sent and to end
// its flows. It takes a millisecond; the rest is for a machine that is out of breath.
const stopGrace = 2 * time.Second

// threads starts processes on one thread that lives until the end: a parent's
// death signal is sent when the thread that made the process ends
// (PR_SET_PDEATHSIG(2const)).
type threads struct{ work chan func() }

func newThreads(ctx context.Context, wg *sync.WaitGroup) *threads {
	t := &threads{work: make(chan func())}
	wg.Go(func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		for {
			select {
			case f := <-t.work:
				f()
			case <-ctx.Done():
				return
			}
		}
	})
	return t
}

// do calls f on the thread.
func (t *threads) do(f func() error) error {
	result := make(chan error, 1)
	t.work <- func() { result <- f() }
	return <-result
}
