package installed

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// TestTake holds what the cluster is asked for, and what of it counts.
func TestTake(t *testing.T) {
	document := func(file, content string) policy.Document {
		return policy.Document{File: file, Content: []byte(content)}
	}
	const template = `{"apiVersion":"templates.gatekeeper.sh/v1","kind":"ConstraintTemplate","spec":{"crd":{"spec":{"names":{"kind":"%s"}}}}}`
	kept := map[string][]policy.Document{
		"ConstraintTemplate.templates.gatekeeper.sh": {document("b", fmt.Sprintf(template, "Used")), document("c", fmt.Sprintf(template, "Idle")), document("d", fmt.Sprintf(template, "Unserved"))},
		"Used.constraints.gatekeeper.sh":             {document("a", `{"apiVersion":"constraints.gatekeeper.sh/v1beta1","kind":"Used"}`)},
		"ClusterPolicy.kyverno.io":                   {document("huge", strings.Repeat("x", MaxBytes+1))},
	}
	lookup := func(gk kschema.GroupKind) (schema.Kind, bool) {
		_, ok := kept[gk.String()]
		return schema.Kind{}, ok || gk.Kind == "Idle"
	}
	var asked []string
	read := func(p Part) ([]policy.Document, error) {
		asked = append(asked, p.String())
		return kept[p.String()], nil
	}
	got, err := Take(Gatekeeper, lookup, read)
	var files []string
	for _, d := range got.Documents {
		files = append(files, d.File)
	}
	if err != nil || !got.Served || !slices.Equal(files, []string{"a", "b"}) {
		t.Errorf("a template counts with its constraints alone, and a kind that is not served has none: %v, %v", files, err)
	}
	if !slices.Contains(asked, "Idle.constraints.gatekeeper.sh") || slices.Contains(asked, "Unserved.constraints.gatekeeper.sh") {
		t.Errorf("asked for are the constraints of all templates that are served: %v", asked)
	}
	if _, err := Take(Kyverno, lookup, read); fault.KindOf(err) != fault.Limit {
		t.Errorf("more than is held is an error: %v", err)
	}
	if got, err := Take(Admission, lookup, read); err != nil || got.Served {
		t.Errorf("what the cluster does not serve is told: %v, %v", got, err)
	}
}
