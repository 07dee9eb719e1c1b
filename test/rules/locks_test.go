package rules

import (
	"go/ast"
	"strings"
	"testing"
)

// TestLockAnnotations wants a line for each field in a struct with
// "+checklocks:" annotations: checklocks (of gVisor, 2026-09) counts lines where
// it means fields, and so applies an annotation below "a, b int" to the wrong
// field, or to none.
func TestLockAnnotations(t *testing.T) {
	for _, s := range allGoFiles(t) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			typ, ok := n.(*ast.StructType)
			if !ok || !strings.Contains(s.slice(typ), "+checklocks:") {
				return true
			}
			for _, f := range typ.Fields.List {
				if len(f.Names) > 1 {
					t.Errorf("%s: several fields in a line", s.at(f))
				}
			}
			return true
		})
	}
}

// slice returns the text of a node.
func (s *source) slice(n ast.Node) string {
	return s.text[s.set.Position(n.Pos()).Offset:s.set.Position(n.End()).Offset]
}
