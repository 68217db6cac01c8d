package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/why"
)

// Each archive holds facts, and the text of the chain that they show; its comment is
// the reason. HOLDFAST_UPDATE=1 writes the texts anew.
func TestWhyText(t *testing.T) {
	files, err := filepath.Glob("testdata/why/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil || len(archive.Files) != 2 {
				t.Fatalf("not an archive of facts and a text: %v", err)
			}
			var facts why.Facts
			if err := yaml.UnmarshalStrict(archive.Files[0].Data, &facts); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := writeChain(&out, why.Explain(facts), false); err != nil {
				t.Fatal(err)
			}
			if os.Getenv("HOLDFAST_UPDATE") != "" {
				archive.Files[1].Data = out.Bytes()
				if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(archive.Files[1].Data), out.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", archive.Comment, diff)
			}
			for line := range bytes.Lines(out.Bytes()) {
				if len([]rune(string(line))) > 81 {
					t.Errorf("a line is wider than a terminal: %q", line)
				}
			}
		})
	}
}
