package rules

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

// state lists the variables of packages that may change, with the reason.
func state() map[string]string {
	return map[string]string{
		"cmd/taproot.version": "the linker sets it",
	}
}

// TestNoState forbids init functions and variables that could change: what a
// package does depends on what it is given only. Sentinel errors, tables that
// nothing assigns to and compiled constants are no state.
func TestNoState(t *testing.T) {
	allowed := state()
	for _, s := range goFiles(t) {
		for _, decl := range s.ast.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init function", s.at(f))
			}
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				spec := spec.(*ast.ValueSpec)
				for i, name := range spec.Names {
					if allowed[s.pkg+"."+name.Name] == "" && !constant(spec, i) {
						t.Errorf("%s: variable %s of a package", s.at(name), name.Name)
					}
				}
			}
		}
	}
	assignments(t)
}

// constant reports whether the i-th name of spec looks like something that is
// never changed: "_", an error, a table, or the result of a Must function.
func constant(spec *ast.ValueSpec, i int) bool {
	name := spec.Names[i].Name
	if name == "_" {
		return true
	}
	if i >= len(spec.Values) {
		return false
	}
	switch v := spec.Values[i].(type) {
	case *ast.CompositeLit:
		return true // assignments looks after it
	case *ast.CallExpr:
		f, ok := v.Fun.(*ast.SelectorExpr)
		return ok && (strings.HasPrefix(f.Sel.Name, "Must") || pure(f))
	}
	return false
}

// pure reports whether f is a function of the standard library whose result is a
// value that cannot change.
func pure(f *ast.SelectorExpr) bool {
	pkg, ok := f.X.(*ast.Ident)
	if !ok {
		return false
	}
	switch pkg.Name + "." + f.Sel.Name {
	case "errors.New", "fmt.Errorf", "netip.AddrFrom4", "netip.AddrFrom16", "netip.PrefixFrom", "netip.AddrPortFrom":
		return true
	}
	return false
}

// assignments finds what assigns to a variable of its package. It knows names,
// not scopes: a name that is declared anywhere in the function is taken for a
// local one.
func assignments(t *testing.T) {
	t.Helper()
	files := goFiles(t)
	vars := map[string]bool{}
	for _, s := range files {
		for _, decl := range s.ast.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.VAR {
				for name := range declared(d) {
					vars[s.pkg+"."+name] = true
				}
			}
		}
	}
	for _, s := range files {
		for _, decl := range s.ast.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			local := declared(f)
			local["_"] = true
			ast.Inspect(f, func(n ast.Node) bool {
				for _, e := range assigned(n) {
					if id := base(e); id != nil && !local[id.Name] && vars[s.pkg+"."+id.Name] {
						t.Errorf("%s: assignment to %s of the package", s.at(id), id.Name)
					}
				}
				return true
			})
		}
	}
}

// declared returns the names that are declared in n.
func declared(n ast.Node) map[string]bool {
	names := map[string]bool{}
	add := func(list ...ast.Expr) {
		for _, e := range list {
			if id, ok := e.(*ast.Ident); ok {
				names[id.Name] = true
			}
		}
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, id := range n.Names {
				add(id)
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				add(id)
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				add(n.Lhs...)
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				add(n.Key, n.Value)
			}
		}
		return true
	})
	return names
}

// assigned returns the expressions that n assigns to.
func assigned(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	}
	return nil
}

// base returns the name at the start of a.b[c].d, or nil.
func base(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}
