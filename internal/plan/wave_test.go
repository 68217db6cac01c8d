package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// desire returns a desired object, given as "Kind/namespace/name wave".
func desire(t *testing.T, text string) Desired {
	t.Helper()
	var d Desired
	var path string
	if _, err := fmt.Sscanf(text, "%s %d", &path, &d.Wave); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(path, "/")
	d.ID = object.ID{Kind: parts[0], Namespace: parts[1], Name: parts[2]}
	switch d.ID.Kind {
	case "CustomResourceDefinition":
		d.ID.Group = "apiextensions.k8s.io"
	case "Thing":
		d.ID.Group = "example.org"
	}
	d.Kind = schema.Kind{GVK: kschema.GroupVersionKind{Group: d.ID.Group, Version: "v1", Kind: d.ID.Kind}, Resource: strings.ToLower(d.ID.Kind) + "s"}
	return d
}

// outline renders stages, one a line: wave, gate, objects.
func outline(p Plan) string {
	var b strings.Builder
	for _, s := range p.Stages {
		fmt.Fprintf(&b, "%d", s.Wave)
		if s.Gate {
			b.WriteString("!")
		}
		for _, a := range s.Actions {
			fmt.Fprintf(&b, " %s:%s", a.Op, a.ID.Name)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestWaves(t *testing.T) {
	first := []StageRule{{Name: "first", Gate: true, Kinds: []kschema.GroupKind{{Kind: "Namespace"}, {Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}}}}
	known := func(sight Sight) Observed { return Observed{Sight: sight, Digest: v1, Owner: me} }
	tests := map[string]struct {
		reason  string
		desired []string
		seen    map[string]Observed // others are absent
		ungated bool
		want    string
	}{
		"order": {
			reason:  "wave, then kind, then name; each waits for the one before",
			desired: []string{"Deployment/a/d 2", "ConfigMap/a/c 2", "ConfigMap/a/z 0", "ConfigMap/a/y -1"},
			want:    "-1! create:y\n0! create:z\n2 create:c create:d\n",
		},
		"one wave": {
			reason:  "a single wave waits for nobody's health",
			desired: []string{"Deployment/a/d 3", "ConfigMap/a/c 3"},
			want:    "3 create:c create:d\n",
		},
		"no gates": {
			reason: "waves may be an order alone", ungated: true,
			desired: []string{"ConfigMap/a/c 1", "ConfigMap/a/b 0"},
			want:    "0 create:b\n1 create:c\n",
		},
		"namespace": {
			reason:  "a namespace goes before the first object that lives in it",
			desired: []string{"Namespace//a 5", "Namespace//b 5", "ConfigMap/a/c 1", "ConfigMap/b/d 7"},
			want:    "1! create:a\n1! create:c\n5! create:b\n7 create:d\n",
		},
		"definition": {
			reason:  "a definition goes before the first object of its kind",
			desired: []string{"CustomResourceDefinition//things.example.org 3", "Thing/a/t -2", "ConfigMap/a/c 0"},
			want:    "-2! create:things.example.org\n-2! create:t\n0 create:c\n",
		},
		"nothing new": {
			reason:  "drift is corrected at once, however the wave before fares",
			desired: []string{"Deployment/a/d 0", "ConfigMap/a/c 1"},
			seen:    map[string]Observed{"d": known(AsApplied), "c": known(Drifted)},
			want:    "0 keep:d\n1 revert:c\n",
		},
		"deleted by hand": {
			reason:  "what was there before is no news either",
			desired: []string{"Deployment/a/d 0", "ConfigMap/a/held 1"},
			seen:    map[string]Observed{"d": known(AsApplied)},
			want:    "0 keep:d\n1 create:held\n",
		},
		"news in the middle": {
			reason:  "waves behind the last news have nothing to wait for",
			desired: []string{"ConfigMap/a/x 0", "ConfigMap/a/y 1", "ConfigMap/a/z 2"},
			seen:    map[string]Observed{"x": known(AsApplied), "z": known(AsApplied)},
			want:    "0! keep:x\n1 create:y\n2 keep:z\n",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := Input{
				Owner: me, Revert: true, Profile: Profile{Stages: first, GateWaves: !tc.ungated},
				Inventory: []Entry{{ID: object.ID{Kind: "ConfigMap", Namespace: "a", Name: "held"}}},
				Observe:   func(id object.ID) Observed { return tc.seen[id.Name] },
			}
			for _, text := range tc.desired {
				d := desire(t, text)
				d.Digest = v1
				in.Desired = append(in.Desired, d)
			}
			p, err := Make(in)
			if err != nil {
				t.Fatal(err)
			}
			got := outline(p)
			if got, _, _ = strings.Cut(got, "0 release:held\n"); got != tc.want {
				t.Errorf("%s (-want +got):\n%s", tc.reason, cmp.Diff(tc.want, got))
			}
		})
	}
}

func TestLeftoversGoLastWaveFirst(t *testing.T) {
	entry := func(name string, wave int) Entry { return Entry{ID: configMap(name), Wave: wave} }
	in := Input{
		Owner: me, Prune: true, Profile: Profile{GateWaves: true, AllowEmpty: true},
		Inventory: []Entry{entry("a", 0), entry("b", 2), entry("c", 2), entry("d", -1)},
		Observe:   func(object.ID) Observed { return Observed{Sight: AsApplied, Owner: me} },
	}
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := outline(p), "0 prune:c prune:b await:a await:d\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	in.Profile.GateWaves = false
	if p, err = Make(in); err != nil {
		t.Fatal(err)
	}
	if got, want := outline(p), "0 prune:c prune:b prune:a prune:d\n"; got != want {
		t.Errorf("without gates: got %q, want %q", got, want)
	}
}

func TestOnly(t *testing.T) {
	a := Desired{ID: configMap("a"), Digest: v1}
	b := Desired{ID: configMap("b"), Digest: v1}
	p, err := Make(Input{
		Owner: me, Prune: true, Desired: []Desired{a, b},
		Inventory: []Entry{{ID: configMap("c")}, {ID: configMap("d")}},
		Observe: func(id object.ID) Observed {
			if id.Name == "a" || id.Name == "b" {
				return Observed{}
			}
			return Observed{Sight: AsApplied, Owner: me}
		},
		Only: func(id object.ID) bool { return id.Name == "a" || id.Name == "c" },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := outline(p), "0 create:a leave:b\n0 leave:d prune:c\n"; got != want {
		t.Errorf("what is not asked for is left as it is: got %q, want %q", got, want)
	}
}
