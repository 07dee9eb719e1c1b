package engine

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The supervisor asks the engine for a sign of life every watchBeat. One that has
// given none for silentMost beats, or for startMost before it is ready, is killed,
// and another one started. An engine answers within a millisecond; the limit leaves
// room for a machine that is out of breath.
const (
	watchBeat  = 2 * time.Second
	silentMost = 3
	startMost  = 15
)

// errSilentFor is why an engine was killed.
func errSilentFor(beats int, beat time.Duration) error {
	return fmt.Errorf("no sign of life for %v", time.Duration(beats)*beat)
}

// A pulse counts the beats without a sign of life. Only those count for which we
// were awake ourselves: when everything was stopped for a minute (SIGSTOP, a cgroup
// that is frozen), or the machine is so slow that we are late too, silence means
// nothing.
type pulse struct {
	last   time.Time // beat
	heard  uint64    // signs of life until then
	missed int       // beats in a row
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
		most := silentMost
		if !p.isReady.Load() {
			most = startMost
		}
		missed := pulse.note(time.Now(), p.heard.Load(), beat)
		p.missed.Store(int32(missed))
		if missed >= most {
			p.silent.Store(int32(most))
			_ = p.process.Kill() // it is ours, or reaped
			return
		}
		err := p.wire.try(message{Ping: true})
		if err != nil && !errors.Is(err, unix.EAGAIN) { // it is on its way out; else it does not listen
			return
		}
	}
}
