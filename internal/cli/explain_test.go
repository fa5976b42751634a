//go:build linux

package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathtrace/pathtrace/docs/causes"
	"github.com/pathtrace/pathtrace/internal/lab"
)

// codes are the constants of the packages diagnose and doctor that are the code
// of a verdict or of a finding.
func codes(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pkg := range []string{"diagnose", "doctor"} {
		found, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	code := regexp.MustCompile(`^[A-Z][A-Z_]+$`)
	var all []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			group, ok := declaration.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				for i, value := range spec.(*ast.ValueSpec).Values {
					literal, ok := value.(*ast.BasicLit)
					if !ok || !spec.(*ast.ValueSpec).Names[i].IsExported() {
						continue
					}
					if text, err := strconv.Unquote(literal.Value); err == nil && code.MatchString(text) {
						all = append(all, text)
					}
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestPages holds that each code has a page and each page a code, that all
// pages have the same parts, and that what they let one try shows their code.
func TestPages(t *testing.T) {
	if diff := cmp.Diff(codes(t), causes.Codes()); diff != "" {
		t.Errorf("pages (-codes +pages):\n%s", diff)
	}
	headings := []string{
		"## What it means", "## How it is recognised", "## Not to be confused with", "## How to fix it", "## Try it",
	}
	demo := regexp.MustCompile(`(?m)^    pathtrace demo (\S+) --break (\S+)`)
	for _, code := range causes.Codes() {
		page, _ := causes.Page(code)
		if !strings.HasPrefix(page, "# "+code+"\n\n") {
			t.Errorf("%s: the title is another one", code)
		}
		var got []string
		for line := range strings.Lines(page) {
			if line = strings.TrimSuffix(line, "\n"); strings.HasPrefix(line, "## ") {
				got = append(got, line)
			}
			if len([]rune(line)) > 100 {
				t.Errorf("%s: a line of %d characters: %s", code, len([]rune(line)), line)
			}
		}
		if diff := cmp.Diff(headings, got); diff != "" {
			t.Errorf("%s: headings (-want +got):\n%s", code, diff)
		}
		if sentence := summaryOf(page); sentence == "" || len(sentence) > 200 {
			t.Errorf("%s: no sentence that says what it is: %q", code, sentence)
		}
		for _, match := range demo.FindAllStringSubmatch(page, -1) {
			scenario, err := lab.Find(match[1])
			if err != nil {
				t.Errorf("%s: %v", code, err)
				continue
			}
			options := lab.Options{Break: match[2]}
			if err := scenario.Check(options); err != nil {
				t.Errorf("%s: %v", code, err)
				continue
			}
			if truth := scenario.Truth(options); truth.Code != code {
				t.Errorf("%s: %q shows %s", code, strings.TrimSpace(match[0]), truth.Code)
			}
		}
	}
}
