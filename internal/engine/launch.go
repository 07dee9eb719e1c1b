package engine

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
	"unicode"

	"taproot/userns"
)

// A launcher starts engines.
type launcher struct {
	threads *threads
	mode    SandboxMode

	// refused is why levels of the cell were refused to the first engine, from the
	// highest on. The level in which that was started is settled: a guest, which may
	// exhaust namespaces and end the engine, does not get one in a weaker cell. Both
	// belong to the thread.
	refused []error
	settled bool
}

// start starts an engine, which waits for its work. It dies with the thread
// that started it.
func (l *launcher) start(how launch) (*process, error) {
	p, err := l.try(how)
	if err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	go p.wait() // ends with the process
	return p, nil
}

// try starts an engine in the closest cell that there is.
func (l *launcher) try(how launch) (*process, error) {
	program, err := how.binary.open()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	said, say, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer say.Close()
	ours, theirs, err := newWire()
	if err != nil {
		said.Close()
		return nil, err
	}
	defer theirs.Close()
	p := &process{wire: ours, exited: make(chan struct{}), said: said, stderr: how.stderr, beat: cmp.Or(how.beat, watchBeat), handover: how.binary.hands()}
	cell := userns.Cell{
		Program: program, Args: []string{EngineName}, Env: l.environment(os.Environ()),
		Files: []*os.File{null, null, say, theirs},
	}
	err = l.threads.do(func() (err error) {
		p.process, p.steps, err = l.climbDown(how.binary != nil, func(at level) (*os.Process, error) {
			cell.Namespaces, cell.Root = at.namespaces, at.root
			return cell.Start()
		})
		return err
	})
	if err != nil {
		said.Close()
		ours.close()
		return nil, err
	}
	return p, nil
}

// climbDown starts the first engine in the highest level of the cell that works, and
// others in the same. A foreign program, which may not be static, goes lower where
// that is the reason; others need not. It runs on the thread.
func (l *launcher) climbDown(foreign bool, start func(level) (*os.Process, error)) (*os.Process, []SandboxStep, error) {
	levels, refused := l.mode.levels(), l.refused
	for {
		at := levels[len(refused)]
		process, err := start(at)
		if err == nil {
			if !l.settled {
				l.refused, l.settled = refused, true
			}
			return process, at.steps(l.mode, refused), nil
		}
		cell := (*userns.CellError)(nil)
		lower := errors.As(err, &cell) && (!l.settled || foreign && cell.NotStatic())
		if !lower || len(refused)+1 == len(levels) {
			return nil, nil, l.mode.required(err)
		}
		refused = append(slices.Clip(refused), err)
	}
}

// environment returns what an engine gets of env: what Go's runtime looks at.
// Everything else is none of its business, and may be a secret.
//
// It runs on one processor at a time, unless env says otherwise: the way of a
// frame from reader to processor to relay then needs no other thread to be
// woken, which is worth more than a second processor. (Up, one flow, MTU 1500: 8
// Gbit/s with two, 15 with one.) From its environment, Go's runtime knows before
// it starts threads.
func (l *launcher) environment(env []string) []string {
	var kept []string
	for _, v := range env {
		if l.mode == SandboxOff || strings.HasPrefix(v, "GO") {
			kept = append(kept, v)
		}
	}
	if os.Getenv("GOMAXPROCS") == "" {
		kept = append(kept, "GOMAXPROCS=1")
	}
	return boundedMemory(kept)
}

// lastWords is how long is waited for what a dead engine has said to be passed on.
const lastWords = time.Second

// wait passes on what the engine says until it is gone. Where nobody reads what we
// say ourselves, its last words are lost: who stops it must not wait for a reader.
func (p *process) wait() {
	passed := make(chan struct{})
	go func() { // ends with said, or when what it has begun to write is read
		defer close(passed)
		passOn(p.stderr, p.said)
	}()
	state, err := p.process.Wait()
	select {
	case <-passed:
	case <-time.After(lastWords):
	}
	p.said.Close()
	switch {
	case err != nil:
		p.err = err
	case !state.Success():
		p.err = &exec.ExitError{ProcessState: state}
	}
	if n := p.silent.Load(); n > 0 {
		p.err = errSilentFor(int(n), p.beat)
	}
	close(p.exited)
}

// longestLine is how many bytes of a line are passed on at once.
const longestLine = 4096

// passOn copies text to a terminal perhaps. Who has taken over the engine must
// not say anything to it but text.
func passOn(to io.Writer, from io.Reader) {
	lines := bufio.NewReaderSize(from, longestLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			_, _ = io.WriteString(to, harmless(string(line))) // there is nobody to tell
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// harmless replaces what is not text.
func harmless(line string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, line)
}
