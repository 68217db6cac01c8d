package check_test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/holdfastcd/holdfast/internal/check"
)

// sample is a report with everything in it, some of it hostile.
func sample() check.Report {
	return check.Report{
		Findings: []check.Finding{
			{
				Kind: check.KindRender, Severity: check.Warning, Rule: "render", Message: "spec.sources is not supported yet",
				File: "apps/app.yaml", Line: 3, Object: "Application/argocd/web", Deliveries: []string{"Application/argocd/web"}, Fingerprint: "f0",
			},
			{
				Kind: check.KindPolicy, Severity: check.Error, Rule: "no-latest-tag/tag", Message: "image a|b:latest: <b>@everybody</b> `x`", Policy: "team",
				File: "apps/web/a b.yaml", Line: 9, Object: "Pod/web/web", Path: "spec.containers[0].image",
				Deliveries: []string{"Application/argocd/web", "Kustomization/flux-system/web"}, Source: "policies/team.rego", SourceLine: 4,
				Level: "high", Reference: "https://example.com/why", Fingerprint: "f1",
			},
			{
				Kind: check.KindSchema, Severity: check.Error, Rule: "schema", Message: "unknown field \"x\"\x1b[31m", File: "apps/web/a b.yaml", Line: 12,
				Object: "Pod/web/web", Path: "spec.x", Deliveries: []string{"Application/argocd/web"}, Fingerprint: "f2",
			},
			{Kind: check.KindSecret, Severity: check.Error, Rule: "private-key", Message: "A private key.", File: "key.pem", Line: 1, Column: 1, Fingerprint: "f3"},
		},
		Allowed: 1, Notices: []string{"the schema is not known of Shop of example.com/v1"}, Files: 7, Objects: 2,
		Deliveries: []check.Judged{{Name: "Application/argocd/web", File: "apps/app.yaml", Line: 1, Path: "apps/web", Objects: 2}},
		Base:       "0123456789abcdef0123456789abcdef01234567",
		Changes: []check.Change{
			{Delivery: "Application/argocd/web", Object: "Pod/web/web", Operation: check.Altered, File: "apps/web/a b.yaml", Line: 1, Diff: "@@ -1,2 +1,2 @@\n-a: 1\n+a: \"```\"\n b: 2\n"},
			{Delivery: "Application/argocd/web", Object: "Secret/web/s", Operation: check.Added, Diff: "@@ -0,0 +1 @@\n+password: '[secret]'\n"},
		},
	}
}

const golden = "testdata/forms.txtar"

// Every form has a golden file; HOLDFAST_UPDATE=1 writes them.
func TestGoldenForms(t *testing.T) {
	want, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got := &txtar.Archive{Comment: want.Comment}
	for _, format := range check.Formats() {
		var out bytes.Buffer
		if err := sample().Write(&out, format, "v1.2.3", nil); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Errorf("%s: what was found steers a terminal", format)
		}
		got.Files = append(got.Files, txtar.File{Name: format, Data: out.Bytes()})
	}
	if os.Getenv("HOLDFAST_UPDATE") != "" {
		if err := os.WriteFile(golden, txtar.Format(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(txtar.Format(want)), string(txtar.Format(got))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// On a terminal, and only there, there is colour.
func TestPaint(t *testing.T) {
	var out bytes.Buffer
	err := sample().Write(&out, check.Text, "", func(s check.Style, text string) string { return fmt.Sprintf("<%d>%s</>", s, text) })
	if err != nil || !strings.Contains(out.String(), "<3>error  </>") || !strings.Contains(out.String(), "<4>warning</>") {
		t.Errorf("%v: %s", err, out.String())
	}
}

// A comment stays within what a code host takes, and its blocks are whole.
func TestMarkdownIsBounded(t *testing.T) {
	r := sample()
	for i := range 3000 {
		r.Changes = append(r.Changes, check.Change{Object: fmt.Sprintf("ConfigMap/web/%d", i), Operation: check.Added, Diff: strings.Repeat("+a line\n", 20)})
		r.Findings = append(r.Findings, r.Findings[1])
		r.Notices = append(r.Notices, strings.Repeat("note ", 10))
	}
	var out bytes.Buffer
	if err := r.Write(&out, check.Markdown, "", nil); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if len(text) > 65_000 {
		t.Errorf("%d bytes", len(text))
	}
	if !strings.Contains(text, "more, for which there is no room here") || strings.Count(text, "<details>") != strings.Count(text, "</details>") {
		t.Errorf("what is cut off is not told, or a block is not closed: %s", text[len(text)-500:])
	}
}

func TestJUnitIsXML(t *testing.T) {
	var out bytes.Buffer
	r := sample()
	r.Undecided = []string{"a worker broke \x00"}
	if err := r.Write(&out, check.JUnit, "", nil); err != nil {
		t.Fatal(err)
	}
	var read struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
	}
	if err := xml.Unmarshal(out.Bytes(), &read); err != nil {
		t.Fatal(err)
	}
	if read.Tests != 7 || read.Failures != 3 || read.Errors != 1 {
		t.Errorf("a warning passes, an error fails, what could not be told is an error: %+v", read)
	}
}
