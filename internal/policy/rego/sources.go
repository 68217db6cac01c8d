package rego

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// sources are the documents that are Rego's, by what they are.
type sources struct {
	claimed []bool
	modules []policy.Document
	// tests counts modules with tests of policies: they are not run here.
	tests int
	data  []policy.Document
	// roots are the directories of bundles, where data begins.
	roots []string
}

// sort tells what each document is.
func sort(all []policy.Document) *sources {
	s := &sources{claimed: make([]bool, len(all))}
	for i, d := range all {
		switch name := path.Base(d.File); {
		case strings.HasSuffix(name, "_test.rego"):
			s.tests++
			s.claimed[i] = true
		case path.Ext(name) == ".rego":
			s.modules = append(s.modules, d)
			s.claimed[i] = true
		}
	}
	if len(s.modules)+s.tests == 0 {
		return s
	}
	for i, d := range all {
		switch path.Base(d.File) {
		case "data.json", "data.yaml", "data.yml":
			s.data = append(s.data, d)
			s.claimed[i] = true
		case ".manifest":
			s.roots = append(s.roots, path.Dir(d.File))
			s.claimed[i] = true
		}
	}
	return s
}

// parsed is a file in Rego, and the key under which it is compiled.
type parsed struct {
	key    string
	module *ast.Module
}

// parseModule reads a file in the version of Rego that it is written in: v1, or else v0,
// and the other way round for files that import the keywords of v1 into v0.
func parseModule(file, text string) (*ast.Module, *policy.Flaw) {
	order := []ast.RegoVersion{ast.RegoV1, ast.RegoV0}
	if strings.Contains(text, "future.keywords") && !strings.Contains(text, "rego.v1") {
		order = []ast.RegoVersion{ast.RegoV0, ast.RegoV1}
	}
	var errs []error
	for _, version := range order {
		module, err := parseAs(file, text, version)
		if err == nil && module != nil {
			return module, nil
		}
		if err == nil {
			return nil, &policy.Flaw{File: file, Message: "the file is empty"}
		}
		errs = append(errs, err)
	}
	if order[0] == ast.RegoV0 {
		errs[0], errs[1] = errs[1], errs[0]
	}
	return nil, neither(file, errs[0], errs[1])
}

// parseAs reads a file in one version of Rego. What its METADATA comments say is taken
// where they can be read; OPA itself does without them, too.
func parseAs(file, text string, version ast.RegoVersion) (*ast.Module, error) {
	module, err := ast.ParseModuleWithOpts(file, text, ast.ParserOptions{RegoVersion: version, ProcessAnnotation: true})
	if err != nil {
		module, err = ast.ParseModuleWithOpts(file, text, ast.ParserOptions{RegoVersion: version})
	}
	return module, err
}

// neither tells of a file that is Rego in no version. The parser that came further was
// probably the one that was meant.
func neither(file string, v1, v0 error) *policy.Flaw {
	line1, text1 := firstError(v1)
	line0, text0 := firstError(v0)
	if line1 == line0 && text1 == text0 {
		return &policy.Flaw{File: file, Line: line1, Message: "it is not Rego: " + text1}
	}
	return &policy.Flaw{
		File: file, Line: max(line1, line0),
		Message: "it is not Rego: read as v1, " + at(line1) + text1 + "; read as v0, " + at(line0) + text0,
	}
}

// plain compiles the modules, and makes units of the rules that are asked.
func (s *sources) plain() ([]*unit, []policy.Flaw) {
	var flaws []policy.Flaw
	var modules []parsed
	for i, d := range s.modules {
		module, flaw := parseModule(d.File, string(d.Content))
		if flaw != nil {
			flaws = append(flaws, *flaw)
			continue
		}
		modules = append(modules, parsed{fmt.Sprintf("%s#%d", d.File, i), module})
	}
	data, bad := s.readData()
	flaws = append(flaws, bad...)
	if len(modules) == 0 {
		if s.tests > 0 && len(flaws) == 0 {
			flaws = append(flaws, policy.Flaw{Message: "there are tests of policies in Rego, and no policies"})
		}
		return nil, flaws
	}
	units, bad := compilePlain(modules, data)
	return units, append(flaws, bad...)
}

// isGatekeepers reports whether a document may hold an object of Gatekeeper's.
func isGatekeepers(d policy.Document) bool {
	switch path.Ext(d.File) {
	case ".yaml", ".yml", ".json":
		return bytes.Contains(d.Content, []byte("gatekeeper.sh/"))
	}
	return false
}
