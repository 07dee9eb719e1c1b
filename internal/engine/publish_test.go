package engine

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestHearNeed wants only sockets made inside the guest that an engine of ours
// asks for: one that somebody has taken over shall not get others.
func TestHearNeed(t *testing.T) {
	for _, tt := range []struct {
		r    socketRequest
		want bool
	}{
		{socketRequest{unix.AF_INET, unix.SOCK_STREAM}, true},
		{socketRequest{unix.AF_INET, unix.SOCK_DGRAM}, true},
		{socketRequest{unix.AF_INET6, unix.SOCK_STREAM}, true},
		{socketRequest{unix.AF_INET6, unix.SOCK_DGRAM}, true},
		{socketRequest{unix.AF_INET, unix.SOCK_RAW}, false},
		{socketRequest{unix.AF_PACKET, unix.SOCK_DGRAM}, false},
		{socketRequest{unix.AF_NETLINK, unix.SOCK_RAW}, false},
		{socketRequest{}, false},
	} {
		s := &supervisor{needed: make(chan socketRequest, 1)}
		s.hear(message{Need: &tt.r})
		if got := len(s.needed) == 1; got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.r, got, tt.want)
		}
	}
}
