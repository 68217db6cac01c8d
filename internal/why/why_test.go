package why_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/why"
)

// cluster holds objects by kind and name.
type cluster map[string]*unstructured.Unstructured

// Get implements why.Cluster.
func (c cluster) Get(_ context.Context, gvk schema.GroupVersionKind, _, name string) (*unstructured.Unstructured, error) {
	u, ok := c[gvk.Kind+"/"+name]
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no %s %s", gvk.Kind, name)
	}
	return u, nil
}

// Pods implements why.Cluster.
func (c cluster) Pods(context.Context, string, string, int64) ([]*unstructured.Unstructured, error) {
	return []*unstructured.Unstructured{c["Pod/web-1-x"]}, nil
}

// log holds entries by the object they are about; who may read only one namespace is
// refused the others.
type log struct {
	found   map[string][]remote.Found
	allowed string
	asked   *[]string
}

// About implements why.Log.
func (l log) About(_ context.Context, name, namespace string, _ int) ([]remote.Found, error) {
	*l.asked = append(*l.asked, namespace+" "+name)
	if l.allowed != "" && namespace != l.allowed {
		return nil, fault.New(fault.Refused, "not in %q", namespace)
	}
	return l.found[name], nil
}

// Entries implements why.Log.
func (l log) Entries(_ context.Context, q remote.Query) (remote.Page, error) {
	return remote.Page{Entries: []remote.Found{{Index: 9, Entry: audit.Entry{Action: audit.Approve, Delivery: q.Delivery}}, {Index: 1, Entry: audit.Entry{Action: audit.Approve, Delivery: q.Delivery}}}}, nil
}

// Teller implements why.Log.
func (l log) Teller() string { return "a test" }

func thing(kind, name, uid, ownerKind, owner, ownerUID string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": kind}}
	if kind == "Pod" || kind == "ConfigMap" {
		u.SetAPIVersion("v1")
	}
	u.SetNamespace("shop")
	u.SetName(name)
	u.SetUID(types.UID(uid))
	if owner != "" {
		yes := true
		u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: ownerKind, Name: owner, UID: types.UID(ownerUID), Controller: &yes}})
	}
	if kind == "Deployment" {
		u.SetLabels(map[string]string{"owner": "Kustomization/team-a/apps"})
	}
	return u
}

func TestAsk(t *testing.T) {
	objects := cluster{
		"Pod/web-1-x":      thing("Pod", "web-1-x", "p", "ReplicaSet", "web-1", "r"),
		"ReplicaSet/web-1": thing("ReplicaSet", "web-1", "r", "Deployment", "web", "d"),
		"Deployment/web":   thing("Deployment", "web", "d", "", "", ""),
		"Pod/orphan":       thing("Pod", "orphan", "o", "ReplicaSet", "gone", "x"),
		"Pod/liar":         thing("Pod", "liar", "l", "ReplicaSet", "web-1", "another"),
	}
	sync := []remote.Found{{Index: 4, Entry: audit.Entry{Time: time.Unix(10, 0), Action: audit.Sync, Delivery: "Kustomization/team-a/apps"}, Change: &audit.Change{}}}
	cases := map[string]struct {
		reason     string
		kind, name string
		allowed    string
		none       bool
		objects    []string
		lost, log  string
		found      int
		approvals  int
		asked      int
		kindOf     fault.Kind
		fails      bool
	}{
		"Managed":    {reason: "nobody owns it", kind: "Deployment", name: "web", objects: []string{"web"}, found: 1, approvals: 1, asked: 1},
		"Owned":      {reason: "up the owners to what the log knows; approvals that came later were for others", kind: "Pod", name: "web-1-x", objects: []string{"web-1-x", "web-1", "web"}, found: 1, approvals: 1, asked: 3},
		"Orphan":     {reason: "an owner that is gone is said", kind: "Pod", name: "orphan", objects: []string{"orphan"}, lost: "ReplicaSet gone, which is gone", asked: 1},
		"Liar":       {reason: "an owner of another uid is not the owner", kind: "Pod", name: "liar", objects: []string{"liar"}, lost: "ReplicaSet web-1 of another uid than the live one", asked: 1},
		"Namespaced": {reason: "who may read one namespace is asked in it", kind: "Deployment", name: "web", allowed: "team-a", objects: []string{"web"}, found: 1, approvals: 1, asked: 2},
		"Forbidden":  {reason: "a log that may not be read is a fact", kind: "Deployment", name: "web", allowed: "elsewhere", objects: []string{"web"}, log: `not in ""`, asked: 3},
		"Deleted":    {reason: "the log may know what the cluster does not", kind: "ConfigMap", name: "old", objects: []string{"old"}, found: 1, approvals: 1, asked: 1},
		"Nothing":    {reason: "nobody knows it", kind: "ConfigMap", name: "none", fails: true, kindOf: fault.NotFound},
		"NoLog":      {reason: "without a log the cluster tells", kind: "Deployment", name: "web", none: true, objects: []string{"web"}, log: "none was given"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var asked []string
			o := why.Options{
				Cluster: objects,
				Log: log{asked: &asked, allowed: tc.allowed, found: map[string][]remote.Found{
					"apps/v1/Deployment/shop/web": sync, "/v1/ConfigMap/shop/old": sync,
				}},
				Owner: func(_ object.ID, labels, _ map[string]string) string { return labels["owner"] },
			}
			if tc.none {
				o.Log = nil
			}
			gvk := schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: tc.kind}
			if tc.kind == "Pod" || tc.kind == "ConfigMap" {
				gvk.Group = ""
			}
			f, err := why.Ask(t.Context(), o, gvk, "shop", tc.name)
			if (err != nil) != tc.fails || tc.fails && fault.KindOf(err) != tc.kindOf {
				t.Fatalf("%s: got error %v", tc.reason, err)
			}
			if tc.fails {
				return
			}
			var names []string
			for _, u := range f.Objects {
				names = append(names, u.GetName())
			}
			if diff := cmp.Diff(tc.objects, names); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			got := []any{f.Lost, f.Log, len(f.Found), len(f.Approvals), len(asked)}
			if diff := cmp.Diff([]any{tc.lost, tc.log, tc.found, tc.approvals, tc.asked}, got); diff != "" {
				t.Errorf("%s: lost, log, found, approvals, asked (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// An object that its owner's owner owns, and so on without end.
func TestAskWithoutEnd(t *testing.T) {
	objects := cluster{"ReplicaSet/a": thing("ReplicaSet", "a", "a", "ReplicaSet", "a", "a")}
	f, err := why.Ask(t.Context(), why.Options{Cluster: objects, Owner: func(object.ID, map[string]string, map[string]string) string { return "" }},
		schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, "shop", "a")
	if err != nil || len(f.Objects) > 10 {
		t.Errorf("%d objects, %v", len(f.Objects), err)
	}
}
