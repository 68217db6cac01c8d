package cel_test

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/schema/defaults"
)

// story is a case of testdata: its comment is the reason, policies/* are the documents,
// objects.yaml is delivered, live.yaml is in the cluster before, namespaces.yaml are
// labels of namespaces that are known, account is who applies, want is what is found,
// and offline says why the API server is not asked about it.
type story struct {
	name, reason     string
	documents        []policy.Document
	objects, live    []map[string]any
	namespaces       map[string]map[string]string
	account, offline string
	want             string
}

func stories(tb testing.TB) []story {
	tb.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no cases: %v", err)
	}
	var all []story
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		s := story{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), reason: strings.TrimSpace(string(archive.Comment))}
		if s.reason == "" {
			tb.Errorf("%s has no reason", file)
		}
		for _, f := range archive.Files {
			s.section(tb, f)
		}
		all = append(all, s)
	}
	return all
}

func (s *story) section(tb testing.TB, f txtar.File) {
	tb.Helper()
	text := strings.TrimSpace(string(f.Data))
	switch f.Name {
	case "objects.yaml":
		s.objects = objectsOf(tb, text)
	case "live.yaml":
		s.live = objectsOf(tb, text)
	case "namespaces.yaml":
		if err := yaml.UnmarshalStrict(f.Data, &s.namespaces); err != nil {
			tb.Fatal(err)
		}
	case "account":
		s.account = text
	case "offline":
		s.offline = text
	case "want":
		s.want = text
	default:
		if !strings.HasPrefix(f.Name, "policies/") {
			tb.Fatalf("%s: what is %s?", s.name, f.Name)
		}
		s.documents = append(s.documents, policy.Document{File: strings.TrimPrefix(f.Name, "policies/"), Content: f.Data})
	}
}

// objectsOf reads objects as JSON readers do: numbers are float64.
func objectsOf(tb testing.TB, text string) []map[string]any {
	tb.Helper()
	var all []map[string]any
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		var o map[string]any
		if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
			tb.Fatal(err)
		}
		if o != nil {
			all = append(all, o)
		}
	}
	return all
}

// kinds are the built-in ones and those of the definitions that the story delivers.
func (s *story) kinds() schema.Kinds {
	all := schema.Union{schema.Builtin()}
	for _, o := range s.objects {
		all = append(all, schema.FromCRD(&unstructured.Unstructured{Object: o}))
	}
	return all
}

func (s *story) toCase() *policy.Case {
	var delivered []object.Object
	for _, o := range s.objects {
		delivered = append(delivered, object.Object{Unstructured: unstructured.Unstructured{Object: o}})
	}
	c := policy.NewCase(delivered, s.kinds(), defaults.Complete, func(id object.ID) map[string]any {
		for _, o := range s.live {
			u := object.Object{Unstructured: unstructured.Unstructured{Object: o}}
			if u.ID() == id {
				return o
			}
		}
		return nil
	})
	maps.Copy(c.Namespaces, s.namespaces)
	c.Delivery.Account = s.account
	return c
}

// judge returns what is found: flaws of compiling, then findings.
func (s *story) judge(tb testing.TB) ([]policy.Flaw, policy.Findings, *policy.Case) {
	tb.Helper()
	program, _, flaws, err := cel.Engine{}.Compile(tb.Context(), s.documents)
	if err != nil {
		tb.Fatal(err)
	}
	c := s.toCase()
	if program == nil {
		return flaws, policy.Findings{}, c
	}
	found, err := program.Judge(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	return flaws, found, c
}

func TestStories(t *testing.T) {
	for _, s := range stories(t) {
		t.Run(s.name, func(t *testing.T) {
			flaws, found, c := s.judge(t)
			if os.Getenv("HOLDFAST_UPDATE") != "" {
				s.update(t, told(flaws, found, c))
			}
			if diff := cmp.Diff(strings.Split(s.want, "\n"), told(flaws, found, c)); diff != "" {
				t.Errorf("%s\n(-want +got):\n%s", s.reason, diff)
			}
		})
	}
}

// update writes what is found into the case: read it before it is committed.
func (s *story) update(tb testing.TB, lines []string) {
	tb.Helper()
	file := filepath.Join("testdata", s.name+".txtar")
	archive, err := txtar.ParseFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	s.want = strings.Join(lines, "\n")
	for i := range archive.Files {
		if archive.Files[i].Name == "want" {
			archive.Files[i].Data = []byte(s.want + "\n")
		}
	}
	if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func told(flaws []policy.Flaw, found policy.Findings, c *policy.Case) []string {
	var lines []string
	for _, f := range slices.Concat(flaws, found.Flaws) {
		lines = append(lines, "flaw "+f.String())
	}
	for _, f := range found.List {
		outcome := "refused"
		if f.Warn {
			outcome = "warned"
		}
		about := "the delivery"
		if f.Subject >= 0 {
			about = c.Subjects[f.Subject].ID().String()
		}
		lines = append(lines, fmt.Sprintf("%s %s by %s at %s:%d: %s", outcome, about, path.Join(f.Policy, f.Rule), f.File, f.Line, f.Message))
	}
	if lines == nil {
		lines = []string{"nothing"}
	}
	return lines
}
