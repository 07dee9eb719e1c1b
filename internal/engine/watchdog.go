package engine

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The supervisor asks the engine for a sign of life every watchBeat. One that has
// given none for silentMost beats, or for startMost before what it says is read all
// the time, is killed, and another one started. An engine answers within a
// millisecond; the limit leaves room for a machine that is out of breath.
const (
	watchBeat  = 2 * time.Second
	silentMost = 3
	startMost  = 15
)

// errSilentFor is why an engine was killed.
func errSilentFor(beats int, beat time.Duration) error {
	return fmt.Errorf("no sign of life for %v", time.Duration(beats)*beat)
}

// signs are an engine's signs of life: its answers to what it was asked. Nothing else
// is one. An engine whose reader is stuck may well go on to send, and one that does
// not read at all must not have the supervisor wait until there is room for the
// next message.
type signs struct {
	mu sync.Mutex
	// +checklocks:mu
	asked uint64 // questions that it got
	// +checklocks:mu
	answered uint64 // asked at most
	// told is closed by the answer with the number due, unless it is nil.
	// +checklocks:mu
	told chan struct{}
	// +checklocks:mu
	due uint64
}

// all returns what is closed when everything is answered that was asked until now, and
// more questions that are still to be asked. One goroutine waits.
func (s *signs) all(more uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := make(chan struct{})
	s.told, s.due = told, s.asked+more
	s.tellLocked()
	return told
}

// tellLocked tells who waits for an answer, if it was that.
//
// +checklocks:s.mu
func (s *signs) tellLocked() {
	if s.told != nil && s.answered >= s.due {
		close(s.told)
		s.told = nil
	}
}

// ask counts the question that put delivers, if it does.
func (s *signs) ask(put func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := put()
	if err == nil {
		s.asked++
	}
	return err
}

// answer counts an answer, unless there is nothing left to be answered.
func (s *signs) answer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered < s.asked {
		s.answered++
		s.tellLocked()
	}
}

// heard returns the number of answers.
func (s *signs) heard() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered
}

// A pulse counts the beats without a sign of life. Only those count for which we
// were awake ourselves: when everything was stopped for a minute (SIGSTOP, a cgroup
// that is frozen), or the machine is so slow that we are late too, silence means
// nothing.
type pulse struct {
	last   time.Time // beat
	heard  uint64    // signs of life until then
	heeded bool      // all that it says was read then
	missed int       // beats in a row
}

// most returns how many beats may pass in silence. They are counted anew from when
// what the engine says is read, since until then we may have missed what it said.
func (p *pulse) most(heeded bool) int {
	if !heeded {
		return startMost
	}
	if !p.heeded {
		p.heeded, p.missed = true, -1 // the beat that ends now
	}
	return silentMost
}

// note notes a beat that came at now, beat after the last one if we were awake, and
// returns how many have passed in silence.
func (p *pulse) note(now time.Time, heard uint64, beat time.Duration) int {
	late := now.Sub(p.last) > beat+beat/2
	if late || heard != p.heard {
		p.missed = 0
	} else {
		p.missed++
	}
	p.last, p.heard = now, heard
	return p.missed
}

// beatLength returns how often an engine is asked.
func (s *supervisor) beatLength() time.Duration { return cmp.Or(s.beat, watchBeat) }

// watchOver asks an engine that has got its work for signs of life, and kills it
// when it gives none. It returns when the engine is gone, or was told to go.
func (p *process) watchOver(beat time.Duration) {
	timer := time.NewTimer(beat)
	defer timer.Stop()
	for pulse := (pulse{last: time.Now()}); ; timer.Reset(beat) {
		select {
		case <-p.exited:
			return
		case <-timer.C:
		}
		most := pulse.most(p.heeded.Load())
		missed := pulse.note(time.Now(), p.signs.heard(), beat)
		p.missed.Store(int32(missed))
		if missed >= most {
			p.silent.Store(int32(most))
			_ = p.process.Kill() // it is ours, or reaped
			return
		}
		err := p.signs.ask(func() error { return p.wire.try(message{Ping: true}) })
		if err != nil && !errors.Is(err, unix.EAGAIN) { // it is on its way out; else it does not read
			return
		}
	}
}
