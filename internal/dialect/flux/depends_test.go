package flux

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/holdfastcd/holdfast/internal/dialect"
)

const current = "main@sha1:new"

// member returns a Kustomization that is ready on a revision, and depends on others.
func member(name, revision string, on ...string) *kustomizev1.Kustomization {
	return kustomization(func(ks *kustomizev1.Kustomization) {
		ks.Name = name
		for _, d := range on {
			ks.Spec.DependsOn = append(ks.Spec.DependsOn, kustomizev1.DependencyReference{Name: d})
		}
		ks.Status.ObservedGeneration, ks.Status.LastAppliedRevision = ks.Generation, revision
		ks.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "True", Reason: "ReconciliationSucceeded"}}
	})
}

func changed(ks *kustomizev1.Kustomization, change func(*kustomizev1.Kustomization)) *kustomizev1.Kustomization {
	change(ks)
	return ks
}

// among returns the controller of some Kustomizations, on an API server in memory.
func among(t *testing.T, all ...*kustomizev1.Kustomization) *kustomizations {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := kustomizev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	d := newDesk(kustomizev1.GroupVersion.WithKind("Kustomization"), nil, nil, "o")
	b := fake.NewClientBuilder().WithScheme(scheme).WithIndex(d.blank(), byDependency, dependencyIndex).WithIndex(d.blank(), byConfig, configIndex)
	for _, ks := range all {
		b = b.WithObjects(ks)
	}
	d.cache = b.Build()
	return &kustomizations{
		env:  &dialect.Env{Clock: func() time.Time { return noon }, Log: slog.New(slog.DiscardHandler)},
		desk: d, catalog: newCatalog(), trigger: &dialect.Trigger{},
	}
}

func TestDependencies(t *testing.T) {
	for _, tc := range []struct {
		reason string
		others []*kustomizev1.Kustomization
		text   string // why it waits; empty: it does not
		silent bool
	}{
		{"ready on this revision", []*kustomizev1.Kustomization{member("db", current)}, "", false},
		{"not there", nil, "dependency 'apps/db' is not ready: it does not exist", false},
		{"ready on the last revision", []*kustomizev1.Kustomization{member("db", "main@sha1:old")}, "is not the current one", true},
		{"another source has other revisions", []*kustomizev1.Kustomization{changed(member("db", "main@sha1:old"), func(ks *kustomizev1.Kustomization) {
			ks.Spec.SourceRef.Name = "other"
		})}, "", false},
		{"changed since", []*kustomizev1.Kustomization{changed(member("db", current), func(ks *kustomizev1.Kustomization) {
			ks.Status.ObservedGeneration--
		})}, "dependency 'apps/db' is not ready: it was not delivered yet", false},
		{"never delivered", []*kustomizev1.Kustomization{changed(member("db", ""), func(ks *kustomizev1.Kustomization) {
			ks.Status = kustomizev1.KustomizationStatus{ObservedGeneration: -1}
		})}, "it was not delivered yet", false},
		{"broken", []*kustomizev1.Kustomization{changed(member("db", current), func(ks *kustomizev1.Kustomization) {
			ks.Status.Conditions[0] = metav1.Condition{Type: "Ready", Status: "False", Reason: "BuildFailed", Message: "a.yaml:1: not YAML"}
		})}, "dependency 'apps/db' is not ready: BuildFailed: a.yaml:1: not YAML", false},
		{"a circle", []*kustomizev1.Kustomization{
			changed(member("db", "", "net"), func(ks *kustomizev1.Kustomization) { ks.Status = kustomizev1.KustomizationStatus{} }), member("net", "", "web"),
		}, "circular dependency: apps/web depends on apps/db depends on apps/net depends on apps/web", false},
		{"a circle of others", []*kustomizev1.Kustomization{
			changed(member("db", "", "net"), func(ks *kustomizev1.Kustomization) { ks.Status = kustomizev1.KustomizationStatus{} }), member("net", "", "db"),
		}, "dependency 'apps/db' is not ready", false},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			c := among(t, append(tc.others, member("web", "", "db"))...)
			p := pass{ks: member("web", "", "db"), memory: &memory{}}
			var o outcome
			_, silent := c.depend(t.Context(), p, edition{label: current}, &o)
			if silent != tc.silent {
				t.Errorf("silent: %t", silent)
			}
			if silent { // when it takes longer, it is worth a word
				p.memory.behind = noon.Add(-behindGrace)
				if _, silent = c.depend(t.Context(), p, edition{label: current}, &o); silent {
					t.Error("it never says a word")
				}
			}
			if (o.early == nil) != (tc.text == "") || o.early != nil && (!strings.Contains(o.early.Error(), tc.text) || o.reason != "DependencyNotReady") {
				t.Errorf("got %v (%s), want %q", o.early, o.reason, tc.text)
			}
			p.observing, o = true, outcome{}
			if _, silent := c.depend(t.Context(), p, edition{label: current}, &o); silent || o.early != nil {
				t.Errorf("what is only observed waits: %v", o.early)
			}
		})
	}
}

// Everybody in a circle is told of it.
func TestCircle(t *testing.T) {
	c := among(t, member("a", "", "b"), member("b", "", "c"), member("c", "", "a"), member("d", "", "a"), member("e", "", "e"))
	for name, want := range map[string]string{
		"a": "apps/a apps/b apps/c apps/a", "b": "apps/b apps/c apps/a apps/b", "c": "apps/c apps/a apps/b apps/c", "d": "", "e": "apps/e" + " apps/e",
	} {
		if got := strings.Join(c.circle(t.Context(), types.NamespacedName{Namespace: "apps", Name: name}), " "); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestIndexes(t *testing.T) {
	ks := kustomization(func(ks *kustomizev1.Kustomization) {
		ks.Spec.SourceRef.Namespace = "infra"
		ks.Spec.DependsOn = []kustomizev1.DependencyReference{{Name: "a"}, {Name: "b", Namespace: "other"}}
		ks.Spec.PostBuild = &kustomizev1.PostBuild{SubstituteFrom: []kustomizev1.SubstituteReference{{Kind: "Secret", Name: "s"}}}
	})
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(ks)
	if err != nil {
		t.Fatal(err)
	}
	u := (&desk{}).blank()
	u.Object = o
	for _, tc := range []struct {
		index client.IndexerFunc
		want  string
	}{{sourceIndex, "infra/fleet"}, {dependencyIndex, "apps/a other/b"}, {configIndex, "Secret/apps/s"}} {
		if got := strings.Join(tc.index(u), " "); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
		u.Object["spec"].(map[string]any)["junk"] = true
		if got := tc.index(ks); got != nil {
			t.Errorf("an object of another type: %q", got)
		}
	}
	u.Object["spec"] = map[string]any{"sourceRef": "x", "dependsOn": []any{"x", int64(1)}, "postBuild": map[string]any{"substituteFrom": "x"}}
	if got := len(sourceIndex(u)) + len(dependencyIndex(u)) + len(configIndex(u)); got != 0 {
		t.Errorf("nonsense is indexed %d times", got)
	}
}

// What was read holds for one revision, generation and request, and for a while.
func TestVariablesAreReadAgain(t *testing.T) {
	var v variables
	ref := VariablesRef{Kind: "ConfigMap", Namespace: "apps", Name: "vars"}
	read := func(key string, at time.Time) bool {
		v.begin(key, at, time.Minute)
		_, err := v.known(ref)
		v.keep(ref, map[string]string{"a": "b"})
		return err != nil
	}
	for _, tc := range []struct {
		reason, key string
		at          int
		before      func()
		want        bool
	}{
		{"at first", "r1", 0, nil, true},
		{"an event brought the pass", "r1", 59, nil, false},
		{"the interval is over", "r1", 60, nil, true},
		{"another revision", "r2", 61, nil, true},
		{"they moved", "r2", 62, v.expire, true},
		{"once is enough", "r2", 63, nil, false},
	} {
		if tc.before != nil {
			tc.before()
		}
		if got := read(tc.key, noon.Add(time.Duration(tc.at)*time.Second)); got != tc.want {
			t.Errorf("%s: read again %t", tc.reason, got)
		}
	}
}
