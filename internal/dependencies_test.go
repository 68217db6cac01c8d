package internal_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// explained is where every direct dependency has a row.
const explained = "../docs/design/dependencies.md"

// row is a line of a table whose first cell is a module's path.
var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// TestDependencies holds the page of dependencies to go.mod, both ways.
func TestDependencies(t *testing.T) {
	page, err := os.ReadFile(explained)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, found := range row.FindAllStringSubmatch(string(page), -1) {
		if slices.Contains(told, found[1]) {
			t.Errorf("%s explains %s twice", explained, found[1])
		}
		told = append(told, found[1])
	}
	required := directRequirements(t)
	if len(required) == 0 {
		t.Fatal("go.mod requires nothing directly: this test does not read it rightly any more")
	}
	for _, path := range required {
		if !slices.Contains(told, path) {
			t.Errorf("go.mod requires %s directly, and %s does not say why", path, explained)
		}
	}
	for _, path := range told {
		if !slices.Contains(required, path) {
			t.Errorf("%s explains %s, which go.mod does not require directly", explained, path)
		}
	}
}

// directRequirements returns the paths of the modules that go.mod requires
// directly. The go command keeps the file in one form: a requirement a line, in
// a block or behind the word itself.
func directRequirements(t *testing.T) []string {
	t.Helper()
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	block := false
	for line := range strings.Lines(string(mod)) {
		line = strings.TrimSpace(line)
		rest, single := strings.CutPrefix(line, "require ")
		switch {
		case line == "require (":
			block = true
			continue
		case line == ")":
			block = false
		case single:
			line = rest
		}
		requirement, comment, _ := strings.Cut(line, "//")
		fields := strings.Fields(requirement)
		if (block || single) && len(fields) == 2 && strings.TrimSpace(comment) != "indirect" {
			paths = append(paths, fields[0])
		}
	}
	return paths
}
