package main

import (
	"os"
	"strings"
	"testing"
)

func TestFrontedCommandLines(t *testing.T) {
	tests := []struct {
		name   string
		helper Helper
		want   string
	}{
		{"slirp4netns", Helper{Kind: Slirp4netns, Path: "/s"}, "/s -c -r 3 --mtu=65520 12 tap0"},
		{"pasta", Helper{Kind: Pasta, Path: "/p", Args: []string{"--no-map-gw"}},
			"/p --config-net --quiet --pid /pid --mtu 65520 -t none -u none -T none -U none --no-map-gw 12"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(tt.helper.fronted(65520, 12, "/pid"), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBoundAlone(t *testing.T) {
	key := front(Slirp4netns).pssKey(manyHelpers)
	r := &Results{Contestants: []Contestant{{Name: "taproot", Version: "", Standing: Ours}}}
	r.record("taproot", key, 15)
	r.finish(allRows())
	verdicts := r.verdicts()
	if len(verdicts) != 1 {
		t.Fatalf("got %d verdicts, want 1", len(verdicts))
	}
	v := verdicts[0]
	got := [3]string{v.Bar, v.Measured, v.String()}
	if want := [3]string{"<= 12.0 MiB", "15.0 MiB", "SHORT by 25 %"}; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTreeUsage(t *testing.T) {
	got := treeUsage(os.Getpid())
	if got.count == 0 || got.rss == 0 {
		t.Errorf("got %+v, want this process", got)
	}
	if got := treeUsage(-1); got != (usage{}) {
		t.Errorf("of no process: got %+v, want nothing", got)
	}
}
