package engine

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"taproot/userns"
)

// TestClimbDown wants the level of the first engine to be that of all others, whatever
// is refused to these, but for programs that cannot be started there at all.
func TestClimbDown(t *testing.T) {
	exhausted := &userns.CellError{Step: "clone", Namespaces: true, Err: syscall.ENOSPC}
	noRoot := &userns.CellError{Step: "pivot_root", Root: true, Err: syscall.EPERM}
	notStatic := &userns.CellError{Step: "execveat", Root: true, Err: syscall.ENOENT}
	all, spaces, none := level{true, true}, level{true, false}, level{}
	type try struct {
		foreign bool
		refused []error // of the levels that are tried
		want    level
		err     error // if none is left
	}
	tests := []struct {
		name string
		mode SandboxMode
		then []try
	}{
		{"namespaces are exhausted later", SandboxAuto, []try{{want: all}, {refused: []error{exhausted}, err: exhausted}, {want: all}}},
		{"for another program too", SandboxAuto, []try{{want: all}, {foreign: true, refused: []error{exhausted}, err: exhausted}, {want: all}}},
		{"a machine without", SandboxAuto, []try{{refused: []error{exhausted, exhausted}, want: none}, {want: none}}},
		{"no root", SandboxAuto, []try{{refused: []error{noRoot}, want: spaces}, {refused: []error{exhausted}, err: exhausted}, {want: spaces}}},
		{"a program that is not static", SandboxAuto, []try{{want: all}, {foreign: true, refused: []error{notStatic}, want: spaces}, {want: all}}},
		{"the first start fails", SandboxAuto, []try{{refused: []error{exhausted, exhausted, syscall.EAGAIN}, err: syscall.EAGAIN}, {want: all}}},
		{"all is required", SandboxRequire, []try{{refused: []error{exhausted}, err: exhausted}, {want: all}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := &launcher{mode: tt.mode}
			for i, try := range tt.then {
				rest, got := slices.Clone(try.refused), level{}
				_, _, err := l.climbDown(try.foreign, func(at level) (*os.Process, error) {
					if got = at; len(rest) == 0 {
						return nil, nil
					}
					defer func() { rest = rest[1:] }()
					return nil, rest[0]
				})
				if !errors.Is(err, try.err) || try.err == nil && got != try.want {
					t.Errorf("start %d: got %+v and error %v, want %+v and %v", i, got, err, try.want, try.err)
				}
			}
		})
	}
}

// TestSandboxWeaker wants it said when an engine gives up less than the one before.
func TestSandboxWeaker(t *testing.T) {
	whole := []SandboxStep{{Name: StepNamespaces, On: true}, {Name: StepRoot, On: true}, {Name: StepLandlock, On: true}, {Name: StepSeccomp, On: true}}
	part := slices.Clone(whole)
	part[2] = SandboxStep{Name: StepLandlock, Detail: "as told"}
	var said bytes.Buffer
	s := &supervisor{log: slog.New(slog.NewTextHandler(&said, nil))}
	for i, tt := range []struct {
		steps []SandboxStep
		want  string
	}{{whole, ""}, {part, "level=WARN msg=\"sandbox weaker than before\" skipped=\"landlock: as told\""}, {part, ""}, {whole, ""}, {part, "weaker"}} {
		said.Reset()
		s.sandboxIs(tt.steps)
		if got := said.String(); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("engine %d: got %q, want %q in it", i, got, tt.want)
		}
	}
}
