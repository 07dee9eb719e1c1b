package rules

import (
	"go/ast"
	"strings"
	"testing"
)

// Limits in lines. What is longer is split, or its reason is written here.
const (
	maxFile     = 500
	maxFunction = 80
)

// TestSize keeps files and functions short enough to be read. The tables of
// tests may be long, their files not.
func TestSize(t *testing.T) {
	for _, s := range allGoFiles(t) {
		if n := strings.Count(s.text, "\n"); n > maxFile {
			t.Errorf("%s: %d lines, want at most %d", s.path, n, maxFile)
		}
		if s.test {
			continue
		}
		for _, decl := range s.ast.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line + 1; n > maxFunction {
				t.Errorf("%s: %s: %d lines, want at most %d", s.at(f), f.Name.Name, n, maxFunction)
			}
		}
	}
}
