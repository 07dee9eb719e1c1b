package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"
)

// chunkSize is what is given to a stream, or asked of it, at once.
const chunkSize = 128 << 10

// A request says what a stream is for.
type request struct {
	down         bool // the client receives
	warm, window time.Duration
}

// requestSize is the size of a request on the wire.
const requestSize = 1 + 8 + 8

// write sends the request.
func (r request) write(w io.Writer) error {
	b := make([]byte, 1, requestSize)
	if r.down {
		b[0] = 1
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.warm))
	b = binary.BigEndian.AppendUint64(b, uint64(r.window))
	_, err := w.Write(b)
	return err
}

// readRequest receives a request.
func readRequest(r io.Reader) (request, error) {
	b := make([]byte, requestSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return request{}, err
	}
	return request{
		down:   b[0] != 0,
		warm:   time.Duration(binary.BigEndian.Uint64(b[1:])),
		window: time.Duration(binary.BigEndian.Uint64(b[9:])),
	}, nil
}

// Received is what arrived in a window.
type Received struct {
	Bytes       int64
	Nanoseconds int64
}

// receive reads for the warm-up, and then counts for the window.
func receive(r io.Reader, asked request) (Received, error) {
	buffer := make([]byte, chunkSize)
	begin := time.Now()
	var start time.Time
	var count int64
	for {
		n, err := r.Read(buffer)
		now := time.Now()
		switch {
		case err != nil:
			return Received{}, err
		case start.IsZero():
			if now.Sub(begin) >= asked.warm {
				start = now
			}
			continue
		}
		count += int64(n)
		if took := now.Sub(start); took >= asked.window {
			return Received{Bytes: count, Nanoseconds: int64(took)}, nil
		}
	}
}

// send writes until the other end has had enough.
func send(w io.Writer) {
	buffer := make([]byte, chunkSize)
	for {
		if _, err := w.Write(buffer); err != nil {
			return
		}
	}
}

// transfer is the client's part of a request.
func transfer(ctx context.Context, address string, asked request) (Received, error) {
	// The certificate is of this minute and of nobody.
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}
	conn, err := quic.DialAddr(ctx, address, config, nil)
	if err != nil {
		return Received{}, fmt.Errorf("dial %s: %w", address, err)
	}
	defer conn.CloseWithError(0, "done")
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return Received{}, err
	}
	if err := asked.write(stream); err != nil {
		return Received{}, err
	}
	if asked.down {
		return receive(stream, asked)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		send(stream)
	}()
	var got Received
	err = binary.Read(stream, binary.BigEndian, &got)
	stream.CancelWrite(0)
	<-done
	return got, err
}
