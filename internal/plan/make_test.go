package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

const me = "Kustomization/apps/mine"

var (
	v1 = [32]byte{1}
	v2 = [32]byte{2}
)

func configMap(name string) object.ID {
	return object.ID{Kind: "ConfigMap", Namespace: "apps", Name: name}
}

func live(value string) *object.Object {
	return &object.Object{Unstructured: unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a"},
		"data": map[string]any{"key": value},
	}}}
}

func TestMakeDecidesPerObject(t *testing.T) {
	tests := map[string]struct {
		reason   string
		seen     Observed
		noRevert bool
		held     bool
		want     Op
	}{
		"deleted": {
			reason: "what somebody deleted comes back", seen: Observed{Sight: Absent}, held: true, want: Create,
		},
		"deleted, nothing reverts": {
			reason: "a deletion is drift like any other", seen: Observed{Sight: Absent}, held: true, noRevert: true, want: Leave,
		},
		"new, nothing reverts": {
			reason: "what was never applied is created", seen: Observed{Sight: Absent}, noRevert: true, want: Create,
		},
		"absent": {
			reason: "what does not exist is created", seen: Observed{Sight: Absent}, want: Create,
		},
		"as applied": {
			reason: "a standing fingerprint of the same desired object costs no request",
			seen:   Observed{Sight: AsApplied, Digest: v1, Owner: me}, want: Keep,
		},
		"source changed": {
			reason: "another digest is another request, whatever the cluster shows",
			seen:   Observed{Sight: AsApplied, Digest: v2, Owner: me}, want: Update,
		},
		"source changed, nothing reverts": {
			reason: "a change of the source is delivered also where drift is left alone",
			seen:   Observed{Sight: Drifted, Digest: v2, Owner: me}, noRevert: true, want: Update,
		},
		"drifted": {
			reason: "what somebody changed is reverted", seen: Observed{Sight: Drifted, Digest: v1, Owner: me}, want: Revert,
		},
		"drifted, nothing reverts": {
			reason: "without self-heal drift is shown, not corrected",
			seen:   Observed{Sight: Drifted, Digest: v1, Owner: me}, noRevert: true, want: Leave,
		},
		"unsure": {
			reason: "what the watch cannot tell costs one apply",
			seen:   Observed{Sight: Unsure, Digest: v1, Owner: me}, want: Confirm,
		},
		"unsure, compared, equal": {
			reason: "a comparison by value that finds nothing settles it",
			seen:   Observed{Sight: Unsure, Digest: v1, Owner: me, Live: live("x"), DryRun: live("x")}, noRevert: true, want: Keep,
		},
		"unsure, compared, different": {
			reason: "a comparison by value that finds a change is drift",
			seen:   Observed{Sight: Unsure, Digest: v1, Owner: me, Live: live("x"), DryRun: live("y")}, noRevert: true, want: Leave,
		},
		"first sight": {
			reason: "an object that we never applied is applied once", seen: Observed{Sight: Unsure}, want: Confirm,
		},
		"another's": {
			reason: "one object, one owner", seen: Observed{Sight: Unsure, Owner: "Application/argocd/other"}, want: Refuse,
		},
		"a dead owner's": {
			reason: "marks of a delivery that is gone bind nobody",
			seen:   Observed{Sight: Unsure, Owner: "Application/argocd/dead"}, want: Confirm,
		},
		"deleting": {
			reason: "an apply to an object that is going would be lost with it",
			seen:   Observed{Sight: AsApplied, Digest: v1, Owner: me, Deleting: true}, want: Await,
		},
		"kind unknown": {
			reason: "its definition may come with an earlier stage", seen: Observed{Sight: KindUnknown}, want: Await,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var inventory []Entry
			if tc.held {
				inventory = []Entry{{ID: configMap("a")}}
			}
			p, err := Make(Input{
				Owner:     me,
				Desired:   []Desired{{ID: configMap("a"), Digest: v1}},
				Inventory: inventory,
				Observe:   func(object.ID) Observed { return tc.seen },
				Alive:     func(owner string) bool { return !strings.HasSuffix(owner, "dead") },
				Revert:    !tc.noRevert,
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Actions()[0].Op; got != tc.want {
				t.Errorf("%s: got %s, want %s", tc.reason, got, tc.want)
			}
		})
	}
}

func TestMakePartsWithLeftovers(t *testing.T) {
	mine := Observed{Sight: AsApplied, Owner: me, UID: "u"}
	tests := map[string]struct {
		reason  string
		seen    Observed
		prune   bool
		forget  bool
		permits *fault.Error
		want    Op
	}{
		"prune":            {reason: "what left the source is deleted", seen: mine, prune: true, want: Prune},
		"no prune, keep":   {reason: "without prune it stays and is shown", seen: mine, want: Leave},
		"no prune, forget": {reason: "Flux forgets what it does not prune", seen: mine, forget: true, want: Release},
		"gone":             {reason: "nothing to do", seen: Observed{Sight: Absent}, prune: true, want: Release},
		"kind gone":        {reason: "its kind went with its definition", seen: Observed{Sight: KindUnknown}, prune: true, want: Release},
		"marked to keep": {
			reason: "the object itself says that it stays", prune: true,
			seen: Observed{Sight: AsApplied, Owner: me, Kept: true}, want: Release,
		},
		"somebody else's now": {
			reason: "ownership is judged by the live marks", prune: true,
			seen: Observed{Sight: Drifted, Owner: "Kustomization/apps/theirs"}, want: Release,
		},
		"already deleting": {
			reason: "a second delete does nothing", prune: true,
			seen: Observed{Sight: AsApplied, Owner: me, Deleting: true}, want: Await,
		},
		"not permitted": {
			reason: "a project's rules hold for deletes", seen: mine, prune: true,
			permits: fault.New(fault.Refused, "no"), want: Refuse,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Make(Input{
				Owner:     me,
				Inventory: []Entry{{ID: configMap("old")}},
				Observe:   func(object.ID) Observed { return tc.seen },
				Permits:   func(Entry) *fault.Error { return tc.permits },
				Prune:     tc.prune,
				Profile:   Profile{Forget: tc.forget, AllowEmpty: true},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Actions()[0].Op; got != tc.want {
				t.Errorf("%s: got %s, want %s", tc.reason, got, tc.want)
			}
		})
	}
}

func TestMakeOrdersStages(t *testing.T) {
	ids := []object.ID{
		{Group: "apps", Kind: "Deployment", Namespace: "apps", Name: "web"},
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration", Name: "hook"},
		{Kind: "ConfigMap", Namespace: "apps", Name: "b"},
		{Kind: "ConfigMap", Namespace: "apps", Name: "a"},
		{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition", Name: "things.example.org"},
		{Kind: "Namespace", Name: "apps"},
		{Group: "example.org", Kind: "Thing", Namespace: "apps", Name: "one"},
	}
	in := Input{
		Owner:     me,
		Inventory: []Entry{{ID: configMap("old")}, {ID: object.ID{Group: "apps", Kind: "Deployment", Namespace: "apps", Name: "old"}}},
		Prune:     true,
		Observe: func(id object.ID) Observed {
			if id.Name == "old" {
				return Observed{Sight: AsApplied, Owner: me}
			}
			return Observed{Sight: Absent}
		},
		Profile: Profile{Stages: []StageRule{{Name: "definitions", Gate: true, Kinds: []kschema.GroupKind{
			{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}, {Kind: "Namespace"},
		}}}},
	}
	for _, id := range ids {
		in.Desired = append(in.Desired, Desired{ID: id, Kind: schema.Kind{}, Digest: v1})
	}
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range p.Stages {
		for _, a := range s.Actions {
			got = append(got, s.Name+" "+string(a.Op)+" "+a.ID.String())
		}
	}
	want := []string{
		"definitions create Namespace/apps",
		"definitions create CustomResourceDefinition.apiextensions.k8s.io/things.example.org",
		"objects create ConfigMap/apps/a",
		"objects create ConfigMap/apps/b",
		"objects create Deployment.apps/apps/web",
		"objects create Thing.example.org/apps/one",
		"objects create ValidatingWebhookConfiguration.admissionregistration.k8s.io/hook",
		"leftovers prune Deployment.apps/apps/old",
		"leftovers prune ConfigMap/apps/old",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order of sending (-want +got):\n%s", diff)
	}
}

func TestMakeRefusesDuplicates(t *testing.T) {
	_, err := Make(Input{
		Desired: []Desired{
			{ID: configMap("a"), Origin: object.Origin{File: "one.yaml", Line: 3}},
			{ID: configMap("a"), Origin: object.Origin{File: "two.yaml", Line: 9}},
		},
		Observe: func(object.ID) Observed { return Observed{} },
	})
	if fault.KindOf(err) != fault.Invalid {
		t.Fatalf("got %v, want an Invalid fault", err)
	}
	for _, part := range []string{"two.yaml:9", "one.yaml:3", "ConfigMap/apps/a"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %s", err, part)
		}
	}
}

func TestMakeRefusesToPruneEverything(t *testing.T) {
	in := Input{
		Owner: me, Prune: true, Inventory: []Entry{{ID: configMap("a")}},
		Observe: func(object.ID) Observed { return Observed{Sight: AsApplied, Owner: me} },
	}
	if _, err := Make(in); fault.KindOf(err) != fault.Refused {
		t.Errorf("an empty source: got %v, want a Refused fault", err)
	}
	in.Profile.AllowEmpty = true
	if _, err := Make(in); err != nil {
		t.Errorf("an empty source that is allowed: %v", err)
	}
}

func TestConflictRefusesThePlan(t *testing.T) {
	p, err := Make(Input{
		Owner:   me,
		Desired: []Desired{{ID: configMap("a"), Origin: object.Origin{File: "a.yaml", Line: 1}}},
		Observe: func(object.ID) Observed { return Observed{Sight: AsApplied, Owner: "Application/argocd/web"} },
		Alive:   func(string) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	conflict := p.Conflict()
	if conflict == nil || !strings.Contains(conflict.Error(), "Application/argocd/web") || conflict.File != "a.yaml" {
		t.Errorf("got %v, want a conflict that names owner and file", conflict)
	}
}
