package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// HoldArgs asks for idle connections.
type HoldArgs struct {
	Address string
	Count   int
}

// Held is what became of them.
type Held struct {
	Refused int    // could not be opened, or were not tried after many that could not
	First   string // one of the reasons
}

const (
	// holdWidth is how many idle connections are opened or used at a time: enough
	// to be quick, few enough not to test the helper's pending-dial limit.
	holdWidth = 16

	// holdPatience is how many may fail before the rest is not tried: each may
	// take a timeout.
	holdPatience = 4 * holdWidth
)

// Hold opens idle connections, besides those that there are.
func (a *Agent) Hold(args HoldArgs, reply *Held) error {
	conns, err := dialMany(args.Address, args.Count, holdWidth, holdPatience)
	if err != nil {
		*reply = Held{Refused: args.Count - len(conns), First: err.Error()}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = append(a.held, conns...)
	return nil
}

// Release closes the idle connections.
func (a *Agent) Release(_ Nothing, _ *Nothing) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	closeAll(a.held)
	a.held = nil
	return nil
}

// Used is what became of connections that were used in turn.
type Used struct {
	Done    int // returned a byte
	Lost    int // did not
	Elapsed time.Duration
}

// useTimeout is how long a connection that is used again may take to answer.
const useTimeout = 3 * time.Second

// Use sends one byte over each of the idle connections and waits for its
// return. What is not tried any more counts as lost.
func (a *Agent) Use(_ Nothing, reply *Used) error {
	a.mu.Lock()
	conns := a.held
	a.mu.Unlock()
	var (
		group            sync.WaitGroup
		next, done, lost atomic.Int64
		start            = time.Now()
	)
	for range holdWidth {
		group.Go(func() {
			for lost.Load() < holdPatience {
				i := int(next.Add(1)) - 1
				if i >= len(conns) {
					return
				}
				if useOnce(conns[i]) == nil {
					done.Add(1)
				} else {
					lost.Add(1)
				}
			}
		})
	}
	group.Wait()
	*reply = Used{Done: int(done.Load()), Lost: len(conns) - int(done.Load()), Elapsed: time.Since(start)}
	return nil
}

// useOnce is a round trip of one byte.
func useOnce(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(useTimeout)); err != nil {
		return err
	}
	one := []byte{0}
	if _, err := conn.Write(one); err != nil {
		return err
	}
	_, err := conn.Read(one)
	return err
}
