package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
)

// EngineName is argv[0] of the engine. A main that finds it there calls
// EngineMain and exits with its result.
const EngineName = "taproot-engine"

// wireFD is the engine's end of the wire: the first descriptor after standard
// error.
const wireFD = 3

// EngineMain is the whole of the engine's process: it gets its work from the
// supervisor over descriptor 3 and returns the process's exit status.
// version is that of the build, for people.
func EngineMain(version string) int {
	if err := unix.SetNonblock(wireFD, true); err != nil {
		fmt.Fprintln(os.Stderr, "taproot-engine: started without its supervisor")
		return 125
	}
	unix.CloseOnExec(wireFD)
	w := &wire{os.NewFile(wireFD, "supervisor")}
	start, err := receiveStart(w, version)
	if errors.Is(err, io.EOF) {
		return 0 // the guest was not made
	}
	if err == nil {
		err = serve(w, start)
	}
	if err != nil {
		_ = w.send(message{Failed: err.Error()}) // the supervisor may be gone
		return 125
	}
	return 0
}

// A start is what an engine begins with.
type start struct {
	spec    *spec
	device  *os.File // nil with spec.NoDevice
	capture *os.File // nil if nobody asked for one
}

// receiveStart returns what the engine is to do. The host, and the guest's
// network with it, may change before the engine is started; what is said of
// them then is newer. Ports that are opened before are published again after.
func receiveStart(w *wire, version string) (start, error) {
	var host *hostState
	var network *plan.Plan
	for {
		m, files, err := w.receive()
		switch {
		case err != nil:
			return start{}, err
		case m.Start != nil:
			if host != nil {
				m.Start.Host = *host
			}
			if network != nil {
				m.Start.Plan = *network
			}
			return newStart(m.Start, files)
		case m.Host != nil:
			host = m.Host
		case m.Plan != nil:
			network = m.Plan
		case m.Unpublish != 0:
			_ = w.send(message{Closed: m.Unpublish}) // we never had it
		case m.Hello != nil:
			_ = w.send(message{Hello: &hello{wireProtocol, version, handoverFormat}}) // the supervisor may be gone
		case m.Ping:
			_ = w.send(message{Pong: true}) // the supervisor may be gone
		}
		closeAll(files)
	}
}

// newStart gives the descriptors that came with s their meaning.
func newStart(s *spec, files []*os.File) (start, error) {
	st := start{spec: s}
	rest := files
	for _, d := range []struct {
		sent bool
		to   **os.File
	}{{!s.NoDevice, &st.device}, {s.Capture, &st.capture}} {
		if d.sent && len(rest) > 0 {
			*d.to, rest = rest[0], rest[1:]
		}
	}
	if len(rest) > 0 || (st.device == nil) != s.NoDevice || (st.capture != nil) != s.Capture {
		closeAll(files)
		return start{}, fmt.Errorf("start: unexpected number of descriptors: %d", len(files))
	}
	return st, nil
}

// serve moves packets until the supervisor or the device is gone.
func serve(w *wire, st start) error {
	log := slog.New(slog.DiscardHandler)
	if st.spec.Verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("role", "engine")
	}
	g, err := newGateway(st, w, log)
	if err != nil {
		return err
	}
	if st.spec.Divert {
		if err := g.awaitDivert(w); err != nil {
			return err
		}
	}
	steps, err := confine(st.spec.Sandbox)
	if err != nil {
		return err
	}
	if err := w.send(message{Ready: true, Sandbox: steps}); err != nil {
		return err
	}
	if st.spec.Waits {
		if err := g.awaitTurn(w); err != nil {
			return nil // the one before stays
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.leave = func() { g.yield(cancel) }
	var wg sync.WaitGroup
	wg.Go(func() {
		defer g.stop(cancel)
		g.follow(w)
	})
	err = g.run(ctx)
	if err != nil && ctx.Err() == nil {
		_ = w.send(message{Gone: err.Error()})
	}
	if g.yields.Load() {
		g.hand(w)
	}
	w.close()
	wg.Wait()
	return nil
}
