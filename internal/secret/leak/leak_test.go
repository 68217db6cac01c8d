package leak

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/zricethezav/gitleaks/v8/config"

	"github.com/holdfastcd/holdfast/internal/worker"
)

func TestMain(m *testing.M) {
	worker.RunIfWorker(Handlers())
	os.Exit(m.Run())
}

func rules(t testing.TB) *config.Config {
	t.Helper()
	c, err := gitleaks()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// show tells findings in short.
func show(all []Finding) string {
	var b strings.Builder
	for _, f := range all {
		b.WriteString(f.File + ":" + f.Rule + "\n")
	}
	return b.String()
}

// Three layouts modelled after well-known charts hold no secret.
func TestChartsGiveNoFalseAlarm(t *testing.T) {
	c := rules(t)
	charts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(charts) != 3 {
		t.Fatal(charts, err)
	}
	for _, chart := range charts {
		archive, err := txtar.ParseFile(chart)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			for _, finding := range search(c, item{Path: f.Name}, f.Data, nil).Findings {
				t.Errorf("%s: %s:%d:%d: %s", chart, f.Name, finding.Line, finding.Column, finding.Rule)
			}
		}
	}
}

// The examples of this repository hold no secret.
func TestExamplesGiveNoFalseAlarm(t *testing.T) {
	c := rules(t)
	const root = "../../../examples"
	n := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		n++
		for _, f := range search(c, item{Path: filepath.ToSlash(name)}, content, nil).Findings {
			t.Errorf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Rule)
		}
		return nil
	})
	if err != nil || n < 20 {
		t.Fatal(n, err)
	}
}
