package rules

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNamesInDocuments wants every `pkg.Name` and `pkg.Type.Member` in backquotes
// to exist, where pkg is a package of ours.
func TestNamesInDocuments(t *testing.T) {
	names, packages := exported(t)
	pattern := regexp.MustCompile("`([a-z][a-z0-9]*)\\.([A-Z]\\w*(?:\\.[A-Z]\\w*)?)(?:\\(\\))?`")
	for _, path := range markdown(t) {
		for _, m := range pattern.FindAllStringSubmatch(read(t, path), -1) {
			if name := m[1] + "." + m[2]; packages[m[1]] && !names[name] {
				t.Errorf("%s: `%s` does not exist", path, name)
			}
		}
	}
}

// exported returns the exported names of our packages, as "pkg.Name" and
// "pkg.Type.Member", and the names of the packages.
func exported(t *testing.T) (names, packages map[string]bool) {
	t.Helper()
	names, packages = map[string]bool{}, map[string]bool{}
	for _, s := range goFiles(t) {
		pkg := s.ast.Name.Name
		packages[pkg] = true
		for _, decl := range s.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				names[pkg+"."+receiver(d)+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					addSpec(names, pkg, spec)
				}
			}
		}
	}
	return names, packages
}

// receiver returns "Type." for a method, "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "."
	}
	return "?."
}

// addSpec adds what spec declares: types with their fields and methods,
// constants and variables.
func addSpec(names map[string]bool, pkg string, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, id := range spec.Names {
			names[pkg+"."+id.Name] = true
		}
	case *ast.TypeSpec:
		name := pkg + "." + spec.Name.Name
		names[name] = true
		var members *ast.FieldList
		switch typ := spec.Type.(type) {
		case *ast.StructType:
			members = typ.Fields
		case *ast.InterfaceType:
			members = typ.Methods
		default:
			return
		}
		for _, f := range members.List {
			for _, id := range f.Names {
				names[name+"."+id.Name] = true
			}
		}
	}
}

// TestPathsInDocuments wants the files that documents link to or name in
// backquotes to exist.
func TestPathsInDocuments(t *testing.T) {
	patterns := []*regexp.Regexp{
		regexp.MustCompile(`\]\(([^)#:]+)\)`),
		regexp.MustCompile("`((?:cmd|docs|internal|portfwd|stack|tap|test|userns)(?:/[\\w.-]+)+)`"),
	}
	for _, path := range markdown(t) {
		text := read(t, path)
		for i, pattern := range patterns {
			base := "."
			if i == 0 { // a link is relative to its document
				base = filepath.Dir(path)
			}
			for _, m := range pattern.FindAllStringSubmatch(text, -1) {
				if _, err := os.Stat(filepath.Join(root, base, m[1])); err != nil {
					t.Errorf("%s: %s does not exist", path, m[1])
				}
			}
		}
	}
}

// TestCommandsInReadme wants each make target that a document names to exist.
func TestCommandsInReadme(t *testing.T) {
	makefile := read(t, "Makefile")
	command := regexp.MustCompile("(?m)(?:^|[`$(] *|&& )make ([a-z]+)")
	for _, path := range markdown(t) {
		for _, m := range command.FindAllStringSubmatch(read(t, path), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: make %s: no such target", path, m[1])
			}
		}
	}
}

// TestMachine keeps what belongs to one machine out of the repository: paths of
// home directories, and settings of the go command for one network.
func TestMachine(t *testing.T) {
	forbidden := regexp.MustCompile(`/(?:root|home)/[a-z]|GO(?:PROXY|SUMDB|NOSUMDB|PRIVATE|INSECURE)\b|(?m:^replace )`)
	err := walk(func(path string) error {
		if strings.HasPrefix(path, "test/rules/") {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		if m := forbidden.Find(text); m != nil {
			t.Errorf("%s: contains %q", path, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
