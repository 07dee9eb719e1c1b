package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// joinRole is argv[1] of a stage that has joined existing namespaces. It sets
// up their network and ends.
const joinRole = "join"

// Attach has a stage set up the network of the namespace, and returns the
// descriptor that the opener opened, which is the caller's, with the opener's
// report. Warnings are what could not be done and is not essential. Addresses
// and routes that are there already stay. The stage has ended when Attach
// returns; if ctx ends before, so does the stage, but what it has done to the
// namespace stays.
//
// Of the setup, ResolvConf and Hosts are not used: the mounts belong to whoever
// made the namespace. Without an Interface the device is nil.
//
// An error with a remedy implements interface{ Hint() string }.
func (n *Namespace) Attach(ctx context.Context, s Setup) (device *os.File, report json.RawMessage, warnings []string, err error) {
	// Its parent death signal is sent when the thread ends that started it.
	t := newThread()
	defer t.stop()
	w, stage, err := n.startStage(t)
	if err != nil {
		return nil, nil, nil, err
	}
	defer w.close()
	defer stage.end()
	s.ResolvConf, s.Hosts = nil, nil
	r, device, err := w.order(ctx, stage, &order{Setup: s})
	if err != nil {
		return nil, nil, nil, n.explain(err)
	}
	return device, r.Report, r.Warnings, nil
}

// startStage starts a stage inside the namespace, on t's thread.
func (n *Namespace) startStage(t *thread) (*wire, *process, error) {
	w, theirs, err := newWirePair()
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(theirs)
	j, err := n.newJoiner(theirs)
	if err != nil {
		w.close()
		return nil, nil, err
	}
	var pid int
	t.do(func() { pid, err = j.fork() })
	if err != nil {
		w.close()
		return nil, nil, fmt.Errorf("start stage: %w", err)
	}
	return w, watch(pid), nil
}

// order gives a stage its order and waits until it is done. The device is the
// caller's, and nil only if there was none to open.
func (w *wire) order(ctx context.Context, stage *process, o *order) (*ready, *os.File, error) {
	stop := context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Now()) })
	defer stop()
	sent := w.send(message{Order: o}, nil)
	// If the stage has gone, it may have said why before.
	m, device, err := w.recv()
	switch {
	case err == nil && m.Failure != nil:
		closeFile(device)
		return nil, nil, m.Failure.err()
	case err == nil && (m.Ready == nil || (device != nil) != o.opens()):
		err = syscall.EPROTO
	case err == nil && !stop():
		err = ctx.Err()
	case err != nil && sent != nil && errors.Is(err, io.EOF):
		err = sent
	}
	if err != nil {
		closeFile(device)
		return nil, nil, stageError(ctx, stage, err)
	}
	return m.Ready, device, nil
}

// opens tells whether the stage opens a device.
func (o *order) opens() bool { return o.Setup.Interface != "" && o.Before == nil }

// stageError explains that a stage did not answer as it should.
func stageError(ctx context.Context, stage *process, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) {
		<-stage.done
		return fmt.Errorf("stage: ended with status %d", exitStatus(stage.status))
	}
	return fmt.Errorf("stage: %w", err)
}

// runJoined does the steps of a stage in namespaces that were there before it.
func (s *stage) runJoined() error {
	if err := dieWithParent(); err != nil {
		return err
	}
	m, _, err := s.wire.recv()
	if err != nil || m.Order == nil {
		return fmt.Errorf("stage: no order: %w", syscall.EPROTO)
	}
	s.order = m.Order
	if s.order.Before != nil {
		if err := s.change(s.order.Before, &s.order.Setup); err != nil {
			return err
		}
		return s.wire.send(message{Ready: &ready{}}, nil)
	}
	device, report, err := s.network()
	if err != nil {
		return err
	}
	defer closeFile(device)
	return s.wire.send(message{Ready: &ready{Report: report, Warnings: s.warnings}}, device)
}
