package component_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/component"
)

// all returns every component of a cluster with everything turned on.
func all(s component.Settings) []component.Component {
	return append([]component.Component{component.Storage(), component.API(s)}, component.Workers()...)
}

func TestFilesThatFlagsName(t *testing.T) {
	settings := component.Settings{Port: 1234, Audit: true}
	files, _, err := component.Files(settings, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	readsFile := regexp.MustCompile(`^--[a-z-]*(?:-file|kubeconfig|config)=(.*)$`)
	named := 0
	for _, c := range all(settings) {
		for _, arg := range c.Args {
			match := readsFile.FindStringSubmatch(arg)
			if match == nil {
				continue
			}
			named++
			if len(files[match[1]]) == 0 {
				t.Errorf("%s %s: no such file is made", c.Name, arg)
			}
		}
	}
	if named < 10 {
		t.Errorf("found only %d flags that name files; the test looks for the wrong ones", named)
	}
}

func TestAuditOnlyWhenAsked(t *testing.T) {
	isAudit := func(arg string) bool { return strings.HasPrefix(arg, "--audit-") }
	if slices.ContainsFunc(component.API(component.Settings{}).Args, isAudit) {
		t.Error("audit flags without audit")
	}
	if !slices.ContainsFunc(component.API(component.Settings{Audit: true}).Args, isAudit) {
		t.Error("no audit flags with audit")
	}
}

func TestOnlyTheAPIServerListens(t *testing.T) {
	port := regexp.MustCompile(`127\.0\.0\.1:\d|0\.0\.0\.0|http://`)
	for _, c := range all(component.Settings{Port: 1234}) {
		for _, arg := range c.Args {
			if port.MatchString(arg) {
				t.Errorf("%s listens beside the API server: %s", c.Name, arg)
			}
		}
	}
}

// TestStages holds the stages to what kwok does not check: it takes a misspelt stage for one that never matches.
func TestStages(t *testing.T) {
	files, _, err := component.Files(component.Settings{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for document := range strings.SplitSeq(string(files["stages.yaml"]), "\n---\n") {
		for _, line := range []string{"apiVersion: kwok.x-k8s.io/v1alpha1\n", "kind: Stage\n", "  resourceRef: {apiGroup: v1, kind: ", "  steps:\n"} {
			if !strings.Contains(document, line) {
				t.Errorf("no %q in stage:\n%s", line, document)
			}
		}
		names = append(names, regexp.MustCompile(`(?m)^  name: (.*)$`).FindString(document))
	}
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("stages share a name: %q", names)
	}
}

func TestObjects(t *testing.T) {
	nodes := 0
	for _, object := range component.Objects(3) {
		if object.Path == "/api/v1/nodes" {
			nodes++
		}
	}
	if nodes != 3 {
		t.Errorf("got %d nodes; want 3", nodes)
	}
}
