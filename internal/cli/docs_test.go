package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// repository is the root of the repository, as the tests of this package see it.
const repository = "../.."

var (
	docLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docTarget = regexp.MustCompile("`make ([a-z][a-z0-9-]*)")
	runTarget = regexp.MustCompile(`(?m)^ *(?:\$ )?make ([a-z][a-z0-9-]*)`)
	docFlag   = regexp.MustCompile("`--([a-z][a-z0-9-]+)")
	docRun    = regexp.MustCompile("(?m)(?:`|^ *(?:\\$ )?)(?:bin/)?holdfast ([a-z][^`|;&\n]*)")
	heading   = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fenced    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	unslugged = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

// foreignFlags are flags of other programs that the pages tell of.
var foreignFlags = []string{
	"as",                           // kubectl
	"audit-webhook-batch-max-wait", // kube-apiserver
	"sops-age-secret",              // Flux's kustomize-controller
	"watch-label-selector",         // Flux's controllers
}

// pages returns the text of every page for people, by its path in the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != repository && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(repository, path)
		all[name] = string(text)
		return err
	})
	if err != nil || len(all) < 20 {
		t.Fatalf("%d pages were found: %v", len(all), err)
	}
	return all
}

// anchors returns what the headings of a page can be linked by, as GitHub makes it.
func anchors(page string) []string {
	var all []string
	seen := map[string]int{}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		title := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		slug := strings.ReplaceAll(unslugged.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")
		n := seen[slug]
		seen[slug]++
		if n > 0 {
			slug += "-" + strconv.Itoa(n)
		}
		all = append(all, slug)
	}
	return all
}

// TestLinksOfPagesResolve follows the links between pages, and to files.
func TestLinksOfPagesResolve(t *testing.T) {
	all, followed := pages(t), 0
	for name, text := range all {
		for _, m := range docLink.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], ":") {
				continue // elsewhere
			}
			followed++
			path, anchor, _ := strings.Cut(m[1], "#")
			to := filepath.Join(filepath.Dir(name), path)
			if path == "" {
				to = name
			}
			if _, err := os.Stat(filepath.Join(repository, to)); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			} else if page, ok := all[to]; ok && anchor != "" && !slices.Contains(anchors(page), anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", name, m[1], to)
			}
		}
	}
	if followed < 100 {
		t.Errorf("only %d links were found", followed)
	}
}

// TestTargetsOfPagesExist looks for the targets that pages name in the Makefile.
func TestTargetsOfPagesExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`).FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, m[1])
	}
	found := 0
	for name, text := range pages(t) {
		shown := strings.Join(fenced.FindAllString(text, -1), "\n")
		for _, m := range append(docTarget.FindAllStringSubmatch(text, -1), runTarget.FindAllStringSubmatch(shown, -1)...) {
			if found++; !slices.Contains(targets, m[1]) {
				t.Errorf("%s names make %s, which is no target", name, m[1])
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d targets were found", found)
	}
}

// TestFlagsOfPagesExist runs through the command lines that pages show, and through the
// flags that they name.
func TestFlagsOfPagesExist(t *testing.T) {
	root := newRoot(Process{})
	known := slices.Clone(foreignFlags)
	every(root, func(c *cobra.Command) {
		c.InitDefaultHelpFlag()
		for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
			set.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		}
	})
	for _, dir := range []string{"test/bench", "devcluster/cmd/devcluster"} {
		known = append(known, flagsIn(t, filepath.Join(repository, dir))...)
	}
	lines := 0
	for name, text := range pages(t) {
		for _, m := range docFlag.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s names --%s, which no command has", name, m[1])
			}
		}
		for _, m := range docRun.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			cmd, rest, err := root.Find(words)
			if err != nil || cmd == root {
				continue // a sentence that begins with the name
			}
			lines++
			for _, word := range rest {
				if flag, _, _ := strings.Cut(strings.TrimLeft(word, "[("), "="); strings.HasPrefix(flag, "--") && len(flag) > 2 && !has(cmd, flag[2:]) {
					t.Errorf("%s: holdfast %s: %s has no flag %s", name, m[1], cmd.CommandPath(), flag)
				}
			}
		}
	}
	if lines < 50 {
		t.Errorf("only %d command lines were found", lines)
	}
}

// has reports whether a command has a flag. What stands behind it in a text is no part
// of its name.
func has(cmd *cobra.Command, flag string) bool {
	flag = regexp.MustCompile(`^[a-z0-9-]*`).FindString(flag)
	return flag == "" || cmd.Flags().Lookup(flag) != nil || cmd.InheritedFlags().Lookup(flag) != nil
}

// every calls do with a command and all below it.
func every(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		every(sub, do)
	}
}

// flagsIn returns the names that programs without cobra give to their flags.
func flagsIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no sources: %v", dir, err)
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:Var|Bool)\([^"\n]*"([a-z][a-z0-9-]*)"`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}
