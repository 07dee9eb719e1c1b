package e2e

import (
	"bytes"
	"encoding/json"
	"os"

	"golang.org/x/sys/unix"
)

// habitVariable says how oddEngine is odd. Of the environment an engine gets what is
// for Go's runtime, by the first two letters.
const habitVariable = "GO_TAPROOT_E2E_HABIT"

// Habits of an oddEngine. The others only move no packets.
const (
	dumb       = "dumb"         // does not say that it is an engine
	neverReady = "never ready"  // does not say that it is
	diesAtOnce = "dies at once" // when it has taken over, or is asked whether it lives
	diesSoon   = "dies soon"    // when it is asked for the second time whether it lives
	noHandover = "no handover"  // as a build from before there was any
	otherWords = "other words"  // of the hand-over
)

// oddWire is the descriptor by which an engine talks to its supervisor, and oddBuild
// what it is to know: internal/engine, wireProtocol and handoverFormat.
const (
	oddWire     = 3
	oddProtocol = 1
	oddHandover = 2
)

// oddEngine is a program that engines may be made of and should not. It talks as one
// of ours and moves no packets. The result is its exit status.
func oddEngine() int {
	b, habit := make([]byte, 1<<17), os.Getenv(habitVariable)
	say := func(v any) {
		if text, err := json.Marshal(v); err == nil {
			_ = unix.Send(oddWire, text, unix.MSG_NOSIGNAL) // the supervisor may be gone
		}
	}
	if err := unix.SetNonblock(oddWire, false); err != nil {
		return 2
	}
	for pings, waits := 0, false; ; {
		n, err := unix.Read(oddWire, b) // what comes with it is closed by the kernel
		switch {
		case err == unix.EINTR:
			continue
		case err != nil, n == 0:
			return 0
		}
		var m map[string]json.RawMessage
		if err := json.NewDecoder(bytes.NewReader(b[:n])).Decode(&m); err != nil {
			return 2
		}
		switch {
		case m["Hello"] != nil && habit != dumb:
			waits = true
			say(map[string]any{"Hello": map[string]any{"Protocol": oddProtocol, "Version": "odd", "Handover": oddFormat(habit)}})
		case m["Start"] != nil && habit != neverReady:
			say(map[string]any{"Ready": true})
		case m["Unpublish"] != nil:
			say(map[string]json.RawMessage{"Closed": m["Unpublish"]})
		case m["Go"] != nil:
			if waits = false; habit == diesAtOnce {
				return 3
			}
		case m["Ping"] != nil:
			if !waits {
				pings++
			}
			if habit == diesAtOnce && pings > 0 || habit == diesSoon && pings > 1 {
				return 4
			}
			say(map[string]any{"Pong": true})
		case m["Yield"] != nil:
			return 0
		}
	}
}

// oddFormat returns which words of a hand-over an engine says that it knows.
func oddFormat(habit string) int {
	switch habit {
	case noHandover:
		return 0
	case otherWords:
		return oddHandover + 1
	}
	return oddHandover
}
