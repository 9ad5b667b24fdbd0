package runtime

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReferenceTable reads docs/API.md: each row's Go names must exist in this
// package, and each row's tests in the tree.
func TestReferenceTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/API.md")
	require.NoError(t, err)
	names, tests := exported(t), testFunctions(t, "../..")
	quoted := regexp.MustCompile("`([^`]+)`")
	goName := regexp.MustCompile(`^[A-Z]\w*(\.[A-Z]\w*)?$`)
	seen := make(map[string]bool)
	var column int // of the Go name; the last is the tests
	var section string
	for n, line := range strings.Split(string(text), "\n") {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = title
		}
		cells := strings.Split(strings.Trim(line, "| "), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		require.Len(t, cells, 3, "line %d: a row has three columns", n+1)
		if head := strings.TrimSpace(cells[0]); head == "Rust" || head == "Go" {
			column = 0
			if head == "Rust" {
				column = 1
			}
			continue
		}
		require.False(t, seen[cells[0]], "line %d: %s is there twice", n+1, cells[0])
		seen[cells[0]] = true
		seen[section] = true
		found := 0
		for _, m := range quoted.FindAllStringSubmatch(cells[column], -1) {
			if !goName.MatchString(m[1]) {
				continue // of another package, as a comment
			}
			found++
			if !names[m[1]] {
				t.Errorf("line %d: package runtime has no %s", n+1, m[1])
			}
		}
		if found == 0 {
			t.Errorf("line %d: no Go name", n+1)
		}
		proofs := quoted.FindAllStringSubmatch(cells[2], -1)
		if len(proofs) == 0 {
			t.Errorf("line %d: no test", n+1)
		}
		for _, m := range proofs {
			if !tests[m[1]] {
				t.Errorf("line %d: there is no test %s", n+1, m[1])
			}
		}
	}
	for _, s := range []string{"Runtime", "Box", "Execution", "Box options", "Metrics", "Types", "Errors"} {
		require.True(t, seen[s], "section %s has no rows", s)
	}
}

// exported are the package's exported names: "Name", and "Type.Name" for fields and methods.
func exported(t testing.TB) map[string]bool {
	names := make(map[string]bool)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					names[d.Name.Name] = true
				} else {
					names[receiver(d.Recv.List[0].Type)+"."+d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					addSpec(names, s)
				}
			}
		}
	}
	return names
}

func receiver(e ast.Expr) string {
	if p, ok := e.(*ast.StarExpr); ok {
		e = p.X
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func addSpec(names map[string]bool, s ast.Spec) {
	switch s := s.(type) {
	case *ast.ValueSpec:
		for _, n := range s.Names {
			names[n.Name] = true
		}
	case *ast.TypeSpec:
		names[s.Name.Name] = true
		if st, ok := s.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, n := range f.Names {
					names[s.Name.Name+"."+n.Name] = true
				}
			}
		}
	}
}

// testFunctions are the names of all tests below a folder.
func testFunctions(t testing.TB, root string) map[string]bool {
	tests := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "build" || strings.HasPrefix(d.Name(), ".") && path != root):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(b, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	require.NoError(t, err)
	return tests
}
