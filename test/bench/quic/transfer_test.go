package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
)

func TestTransfer(t *testing.T) {
	for _, direction := range []string{"up", "down"} {
		t.Run(direction, func(t *testing.T) {
			certificate, err := newCertificate()
			if err != nil {
				t.Fatal(err)
			}
			config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{protocol}}
			listener, err := quic.ListenAddr("127.0.0.1:0", config, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- accept(ctx, listener) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				listener.Close()
			}()
			var output strings.Builder
			args := []string{"transfer", "-direction", direction, "-warm", "10ms", "-window", "50ms", listener.Addr().String()}
			if err := run(t.Context(), args, &output); err != nil {
				t.Fatal(err)
			}
			var got Received
			if err := json.Unmarshal([]byte(output.String()), &got); err != nil {
				t.Fatal(err)
			}
			if got.Bytes == 0 || got.Nanoseconds < 50e6 {
				t.Errorf("got %+v, want bytes in 50 ms", got)
			}
		})
	}
}

func TestMisuse(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}, {"transfer"}, {"transfer", "-direction"}, {"fetch", "127.0.0.1:1"}} {
		if err := run(t.Context(), args, new(strings.Builder)); err == nil {
			t.Errorf("%q: got no error, want one", args)
		}
	}
}

func TestRequest(t *testing.T) {
	want := request{down: true, warm: 1, window: 1 << 40}
	var wire bytes.Buffer
	if err := want.write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := readRequest(&wire)
	if err != nil || got != want {
		t.Errorf("got %+v and %v, want %+v", got, err, want)
	}
}
