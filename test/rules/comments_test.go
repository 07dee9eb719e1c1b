package rules

import (
	"go/ast"
	"strings"
	"testing"
)

// TestPackageText wants a doc.go with the package's text in each package.
func TestPackageText(t *testing.T) {
	described := map[string]bool{}
	for _, s := range goFiles(t) {
		described[s.pkg] = described[s.pkg] || strings.HasSuffix(s.path, "/doc.go") && s.ast.Doc != nil
	}
	for pkg, ok := range described {
		if !ok {
			t.Errorf("%s: no doc.go with package text", pkg)
		}
	}
}

// TestExportedNames wants a comment at each exported name that begins with it;
// names in a group may share the group's.
func TestExportedNames(t *testing.T) {
	for _, s := range goFiles(t) {
		for _, decl := range s.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) {
					wantComment(t, s, d, d.Name.Name, d.Doc)
				}
			case *ast.GenDecl:
				groupComments(t, s, d)
			}
		}
	}
}

// exportedReceiver reports whether d is no method, or one of an exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

func groupComments(t *testing.T, s *source, d *ast.GenDecl) {
	t.Helper()
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() {
				wantComment(t, s, spec, spec.Name.Name, spec.Doc, d.Doc)
			}
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				if name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					t.Errorf("%s: %s has no comment", s.at(spec), name.Name)
				}
			}
		}
	}
}

// wantComment wants one of the comments to begin with name.
func wantComment(t *testing.T, s *source, n ast.Node, name string, comments ...*ast.CommentGroup) {
	t.Helper()
	for _, c := range comments {
		text := c.Text()
		for _, article := range []string{"A ", "An ", "The "} {
			text = strings.TrimPrefix(text, article)
		}
		if strings.HasPrefix(text, name) {
			return
		}
	}
	t.Errorf("%s: %s has no comment that begins with its name", s.at(n), name)
}
