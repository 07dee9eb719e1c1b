package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is what go.mod calls us.
const module = "taproot"

// A source is one Go file of the repository.
type source struct {
	path string // from the repository's root
	pkg  string // directory of path, which is the import path without module
	test bool   // part of the tests
	text string
	ast  *ast.File
	set  *token.FileSet
}

// imports returns what the file imports.
func (s *source) imports() []string {
	var list []string
	for _, spec := range s.ast.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		list = append(list, path)
	}
	return list
}

// at names the place of a node.
func (s *source) at(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(s.set.Position(n.Pos()).Line)
}

// sources parses every Go file once for all rules.
var sources = sync.OnceValues(func() ([]*source, error) {
	var list []*source
	set := token.NewFileSet()
	err := walk(func(path string) error {
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(set, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		list = append(list, &source{
			path: path,
			pkg:  filepath.Dir(path),
			test: strings.HasSuffix(path, "_test.go"),
			text: string(text),
			ast:  file,
			set:  set,
		})
		return nil
	})
	return list, err
})

// root is the repository, as seen from this package.
const root = "../.."

// walk calls f with the path of each file of the repository but built and
// foreign ones. Directories with a go.mod are modules of their own: tools, and
// what the benchmark needs.
func walk(f func(path string) error) error {
	skip := []string{".git", "bin", "out"}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, err = filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains(skip, path) || path != "." && isModule(path)):
			return filepath.SkipDir
		case d.Type().IsRegular():
			return f(path)
		}
		return nil
	})
}

// isModule reports whether a directory has a go.mod.
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(root, dir, "go.mod"))
	return err == nil
}

// goFiles returns the Go files, without those of tests.
func goFiles(t *testing.T) []*source {
	t.Helper()
	return slices.DeleteFunc(allGoFiles(t), func(s *source) bool { return s.test })
}

// allGoFiles returns the Go files.
func allGoFiles(t *testing.T) []*source {
	t.Helper()
	list, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(list)
}

// read returns the text of a file of the repository.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// markdown returns the paths of the documents.
func markdown(t *testing.T) []string {
	t.Helper()
	var list []string
	err := walk(func(path string) error {
		if strings.HasSuffix(path, ".md") {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
