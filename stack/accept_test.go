package stack

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// TestAcceptAfterEnd accepts when the stack has ended: nobody's answer will come.
func TestAcceptAfterEnd(t *testing.T) {
	a, b, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}})
	requests, ended, accepted := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	s.HandleTCP(func(r *Request) {
		requests <- struct{}{}
		<-ended
		_, err := r.Accept()
		accepted <- err
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_ = s.Run(ctx)
		close(ended)
	}()
	rawGuest{t: t, device: b}.send(4000, header.TCPFlagSyn, 100, 0)
	<-requests
	cancel()
	select {
	case err := <-accepted:
		if !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("got %v, want %v", err, syscall.ECONNABORTED)
		}
	case <-time.After(settle.Patience):
		t.Error("Accept does not return")
	}
}
