package plan

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestWhole has a host whose network changes while it is listed.
func TestWhole(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name   string
		errors []error // of the first calls; there is none after them
		want   []int
		err    error
		calls  int
	}{
		{"at once", nil, []int{1, 2}, nil, 1},
		{"changed twice", slices.Repeat([]error{netlink.ErrDumpInterrupted}, 2), []int{1, 2}, nil, 3},
		{"changes all the time", slices.Repeat([]error{netlink.ErrDumpInterrupted}, 99), nil, netlink.ErrDumpInterrupted, wholeTries},
		{"another error", []error{broken}, nil, broken, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			calls := 0
			got, err := whole(func() ([]int, error) {
				calls++
				if calls <= len(tt.errors) {
					return nil, tt.errors[calls-1]
				}
				return []int{1, 2}, nil
			})
			if !slices.Equal(got, tt.want) || !errors.Is(err, tt.err) || calls != tt.calls {
				t.Errorf("got %v, %v after %d calls, want %v, %v after %d", got, err, calls, tt.want, tt.err, tt.calls)
			}
		})
	}
}
