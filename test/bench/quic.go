package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// quicPort is where the QUIC server of the outside listens.
const quicPort = "4433"

// quicKey names the row of a direction.
func quicKey(down bool) string { return rowKey("quic", inGuest.direction(down)) }

// quicRows returns the rows of QUIC.
func quicRows() []Row {
	var rows []Row
	for _, down := range []bool{false, true} {
		rows = append(rows, Row{Key: quicKey(down), Title: "QUIC " + inGuest.direction(down) + ", 1 stream", Unit: "Gbit/s"})
	}
	return rows
}

// quic measures a transfer by a QUIC implementation in a program of its own,
// test/bench/quic.
func quic(down bool) measurement {
	return measurement{keys: []string{quicKey(down)}, make: func(ctx context.Context, t *turn) error {
		if t.quic == "" {
			return nil // a note says why
		}
		line := []string{t.quic, "transfer", "-direction", inGuest.direction(down),
			"-warm", t.pace.warm.String(), "-window", t.pace.window.String(), t.quicServer()}
		var output []byte
		if err := t.guest.call(ctx, "Output", line, &output); err != nil {
			return err
		}
		// What the program prints; see its doc.go.
		var got struct{ Bytes, Nanoseconds int64 }
		if err := json.Unmarshal(output, &got); err != nil {
			return fmt.Errorf("output %q of %s: %w", output, t.quic, err)
		}
		moved := transfer{bytes: got.Bytes, time: time.Duration(got.Nanoseconds)}
		t.record(quicKey(down), moved.gigabits())
		return nil
	}}
}

// Output runs a command line and replies with what it prints.
func (a *Agent) Output(line []string, output *[]byte) error {
	var messages bytes.Buffer
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stderr = &messages
	var err error
	if *output, err = cmd.Output(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(line[0]), err, strings.TrimSpace(messages.String()))
	}
	return nil
}

// quicServer is the address of the server.
func (w *world) quicServer() string {
	return netip.MustParsePrefix(cableOutside).Addr().String() + ":" + quicPort
}

// startQUIC starts the server with a copy of the program that the ordinary user
// may execute.
func (w *world) startQUIC(program string) error {
	if program == "" {
		return errors.New("no option -quic, which make bench gives")
	}
	path := filepath.Join(w.lab.Dir, "quic")
	if err := copyProgram(path, program); err != nil {
		return err
	}
	server := w.lab.Outside.Command(path, "serve", w.quicServer())
	server.Stay()
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	w.quic = path
	return nil
}

// copyProgram copies an executable file.
func copyProgram(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
