package trust_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMessages holds the messages that docs/trust.md explains to what the code says.
func TestMessages(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "trust.md"))
	if err != nil {
		t.Fatal(err)
	}
	said := sources(t, ".", filepath.Join("..", "policy"), filepath.Join("..", "reach"), filepath.Join("..", "registry"))
	explained := 0
	for _, table := range strings.Split(string(page), "| the message says | what to do |\n")[1:] {
		for line := range strings.Lines(table) {
			if !strings.HasPrefix(line, "|") {
				break
			}
			column, _, _ := strings.Cut(line[1:], "|")
			for _, message := range regexp.MustCompile("`[^`]+`").FindAllString(column, -1) {
				explained++
				for part := range strings.SplitSeq(strings.Trim(message, "`"), "…") {
					if part = strings.Trim(part, " <>,"); !strings.Contains(said, part) {
						t.Errorf("docs/trust.md explains %s, and nothing says %q", message, part)
					}
				}
			}
		}
	}
	if explained < 15 {
		t.Errorf("%d messages are explained: the tables are not where they were", explained)
	}
}

// sources is the code below directories without its tests, formats with what they
// stand for in the page.
func sources(t *testing.T, dirs ...string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return strings.NewReplacer("%d", "401", "is asked by %s", "is asked by http").Replace(all.String())
}
