package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/apply/applytest"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

// TestConformance has the real client carry out what the API in memory does.
func TestConformance(t *testing.T) {
	b := newBench(t, "", "ConfigMap", "networking.k8s.io", "NetworkPolicy")
	applytest.Conformance(t, b.As(cluster.Account{}), b.ns)
}

// TestWhole watches a kind by whole objects: it is judged, and its fingerprint,
// taken from an answer in protobuf, stands against what comes in JSON.
func TestWhole(t *testing.T) {
	b := newBench(t, "apps", "StatefulSet")
	s := b.apply(t, lookup(t, b.Cluster, "apps", "StatefulSet"), "web", `{"spec":{"replicas":1,"serviceName":"web",
		"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[
		{"name":"web","image":"web:1","env":[{"name":"A&B<C>","value":"1"}]}]}}}}`)
	if r, _ := s.Look(s.kind, s.id); !r.Judged || r.Health.Status != health.Progressing {
		t.Errorf("right after our own apply: %+v", r)
	}
	deadline := time.After(patience)
	for {
		r, _ := s.Look(s.kind, s.id)
		if got := r.Sight(s.print, us); got != plan.AsApplied {
			t.Fatalf("sight %d; fingerprint %+v, record %+v", got, s.print, r)
		}
		if r.Health.Status == health.Healthy {
			return
		}
		select {
		case <-s.events:
		case <-deadline:
			t.Fatalf("never healthy: %+v", r)
		}
	}
}

const crd = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"gadgets.%[1]s"},"spec":{
	"group":"%[1]s","scope":"Namespaced","names":{"kind":"Gadget","plural":"gadgets"},
	"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"size":{"type":"integer"}}}}}}}]}}`

// TestDefinition makes a kind, uses it at once, and takes it away again, without
// any discovery after the start.
func TestDefinition(t *testing.T) {
	b := newBench(t)
	group := b.ns + ".example.com"
	kinds := make(chan []schema.GroupKind, 16)
	b.SubscribeKinds(func(k []schema.GroupKind) { kinds <- k })
	crdKind := lookup(t, b.Cluster, "apiextensions.k8s.io", "CustomResourceDefinition")
	id := object.ID{Group: crdKind.GVK.Group, Kind: crdKind.GVK.Kind, Name: "gadgets." + group}
	client := b.As(cluster.Account{})
	if _, err := client.Apply(t.Context(), crdKind, id, fmt.Appendf(nil, crd, group), us, true, false); err != nil {
		t.Fatal(err)
	}
	before := b.Requests()["get"]
	gadget := schema.GroupKind{Group: group, Kind: "Gadget"}
	select {
	case k := <-kinds:
		if len(k) != 1 || k[0] != gadget {
			t.Fatalf("told of %v", k)
		}
	case <-time.After(patience):
		t.Fatal("the new kind is not told")
	}
	kind := lookup(t, b.Cluster, group, "Gadget")
	if err := b.Watch(t.Context(), kind); err != nil {
		t.Fatal(err)
	}
	if r, ok := b.Look(crdKind, id); !ok || !r.Judged {
		t.Errorf("a definition is not judged: %+v", r)
	}
	s := b.apply(t, kind, "g", `{"spec":{"size":1}}`)
	s.patch(t, types.MergePatchType, "kubectl-edit", `{"spec":{"size":2}}`)
	s.await(t, plan.Drifted)

	if err := client.Delete(t.Context(), crdKind, id, "", "", metav1.DeletePropagationBackground); err != nil {
		t.Fatal(err)
	}
	s.await(t, plan.Absent)
	deadline := time.After(patience)
	for {
		if _, ok := b.Kinds().Lookup(kind.GVK); !ok {
			break
		}
		select {
		case <-b.events:
		case <-deadline:
			t.Fatal("a kind that is gone is still served")
		}
	}
	if _, err := client.Apply(t.Context(), kind, s.id, s.whole(s.body), us, true, false); !errors.Is(err, cluster.ErrNotServed) {
		t.Errorf("applying what is not served: %v", err)
	}
	if after := b.Requests()["get"]; after != before {
		t.Errorf("%d requests of discovery for a new kind", after-before)
	}
	if err := b.Rediscover(t.Context()); err != nil || b.Requests()["get"] != before {
		t.Errorf("discovery so soon after the last: %v", err)
	}
}

// TestRejections has the API server refuse, and checks what the user is told.
func TestRejections(t *testing.T) {
	b := newBench(t, "apps", "Deployment")
	deploymentKind := lookup(t, b.Cluster, "apps", "Deployment")
	b.apply(t, deploymentKind, "web", deployment)
	tests := []struct {
		name, reason string
		who          cluster.Account
		group, kind  string
		content      string
		want         fault.Kind
		says         []string
		is           error
	}{
		{
			"immutable", "the caller may replace the object",
			cluster.Account{},
			"apps", "Deployment",
			strings.ReplaceAll(deployment, `"app":"web"`, `"app":"other"`), fault.Rejected,
			[]string{"spec.selector", "immutable"},
			cluster.ErrImmutable,
		},
		{
			"invalid", "field by field",
			cluster.Account{},
			"apps", "Deployment",
			strings.Replace(deployment, `"replicas":1`, `"replicas":-1`, 1), fault.Rejected,
			[]string{"spec.replicas", "-1"},
			nil,
		},
		{
			"unknown field", "it is not retried as an internal error",
			cluster.Account{},
			"apps", "Deployment",
			strings.Replace(deployment, `"replicas":1`, `"replicaz":1`, 1), fault.Rejected,
			[]string{".spec.replicaz"},
			nil,
		},
		{
			"doubles", "what client-side apply lets pass",
			cluster.Account{},
			"apps", "Deployment",
			strings.Replace(deployment, `{"name":"B","value":"2"}`, `{"name":"A","value":"2"}`, 1), fault.Rejected,
			[]string{"env", "A"},
			nil,
		},
		{
			"wrong type", "",
			cluster.Account{},
			"apps", "Deployment",
			strings.Replace(deployment, `"replicas":1`, `"replicas":"one"`, 1), fault.Rejected,
			[]string{"replicas"},
			nil,
		},
		{"secret", "its values are not quoted", cluster.Account{}, "", "Secret", `{"data":{"password":"hunter2!"}}`, fault.Rejected, []string{"not base64"}, nil},
		{
			"secret type", "nor here",
			cluster.Account{},
			"", "Secret", `{"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"hunter2"}}`,
			fault.Rejected,
			[]string{"dockerconfigjson"},
			nil,
		},
		{
			"no right", "who lacks which right where", cluster.ServiceAccount(b.ns, "default"), "", "ConfigMap", `{}`, fault.Rejected,
			[]string{"system:serviceaccount:" + b.ns + ":default cannot patch configmaps in namespace " + b.ns, "create and patch"},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kind := lookup(t, b.Cluster, tt.group, tt.kind)
			s := &subject{bench: b, kind: kind, id: object.ID{Group: tt.group, Kind: tt.kind, Namespace: b.ns, Name: "web"}}
			_, err := b.As(tt.who).Apply(t.Context(), kind, s.id, s.whole(tt.content), us, true, false)
			if err == nil {
				t.Fatal("it was accepted")
			}
			t.Log(err)
			if got := fault.KindOf(err); got != tt.want {
				t.Errorf("%s: kind %s, want %s: %v", tt.reason, got, tt.want, err)
			}
			for _, words := range tt.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%s: %q is missing in: %v", tt.reason, words, err)
				}
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%s: it is not %v", tt.reason, tt.is)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a secret is quoted")
			}
		})
	}
}

// TestPreview reads the whole object, live and as an apply would make it.
func TestPreview(t *testing.T) {
	b := newBench(t, "", "ConfigMap")
	s := b.apply(t, lookup(t, b.Cluster, "", "ConfigMap"), "preview", `{"data":{"a":"1"}}`)
	client := s.As(cluster.Account{})
	dry, err := client.DryRunApply(t.Context(), s.kind, s.id, s.whole(`{"data":{"b":"2"}}`), us)
	if err != nil {
		t.Fatal(err)
	}
	live, err := client.Get(t.Context(), s.kind, s.id)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(live.Object["data"], dry.Object["data"]); got != "map[a:1] map[b:2]" {
		t.Errorf("live and dry run: %s", got)
	}
	missing := s.id
	missing.Name = "missing"
	if _, err := client.Get(t.Context(), s.kind, missing); fault.KindOf(err) != fault.NotFound || errors.Is(err, cluster.ErrNotServed) {
		t.Errorf("an object that does not exist: %v", err)
	}
}

// TestForbiddenWatch connects as somebody who may watch definitions only, and
// then is granted more.
func TestForbiddenWatch(t *testing.T) {
	shared := harness.Shared(t)
	admin, _ := connect(t, "admin")
	grant := func(kind, name, body string) {
		t.Helper()
		k := lookup(t, admin, "rbac.authorization.k8s.io", kind)
		id := object.ID{Group: k.GVK.Group, Kind: kind, Name: name}
		meta := fmt.Sprintf(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":%q,"metadata":{"name":%q},`, kind, name)
		if _, err := admin.As(cluster.Account{}).Apply(t.Context(), k, id, []byte(meta+body), us, true, false); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := admin.As(cluster.Account{}).Delete(context.Background(), k, id, "", "", ""); err != nil {
				t.Error(err)
			}
		})
	}
	bind := `"subjects":[{"kind":"User","name":"limited","apiGroup":"rbac.authorization.k8s.io"}],"roleRef":{"kind":"ClusterRole","name":%q,"apiGroup":"rbac.authorization.k8s.io"}}`
	role := `"rules":[{"apiGroups":[%q],"resources":[%q],"verbs":["get","list","watch"]}]}`
	grant("ClusterRole", "limited-crds", fmt.Sprintf(role, "apiextensions.k8s.io", "customresourcedefinitions"))
	grant("ClusterRoleBinding", "limited-crds", fmt.Sprintf(bind, "limited-crds"))

	cfg := shared.Config()
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "limited", Groups: []string{"system:authenticated"}}
	var minutes atomic.Int64 // each look at the clock is a minute later: a failed watch is tried anew whenever asked for
	c, err := cluster.Connect(cfg, cluster.Options{Clock: func() time.Time { return time.Unix(60*minutes.Add(1), 0) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		c.Wait()
	})
	until(t, "definitions may be watched", func() error { return c.Start(ctx) })
	deployments := lookup(t, c, "apps", "Deployment")
	err = c.Watch(ctx, deployments)
	if fault.KindOf(err) != fault.Rejected || !strings.Contains(err.Error(), "get, list and watch on deployments.apps") {
		t.Fatalf("got %v, want the rule that is missing", err)
	}
	grant("ClusterRole", "limited-apps", fmt.Sprintf(role, "apps", "deployments"))
	grant("ClusterRoleBinding", "limited-apps", fmt.Sprintf(bind, "limited-apps"))
	until(t, "deployments may be watched", func() error { return c.Watch(ctx, deployments) })
}

// until tries again and again: nothing tells when the API server has taken in a
// change of rights.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("until %s: %v", what, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	c, err := cluster.Connect(&rest.Config{Host: "http://admin:hunter2@127.0.0.1:1"}, cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Start(t.Context())
	if fault.KindOf(err) != fault.Unreachable || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v, want Unreachable", err)
	}
	kind := hschema.Kind{GVK: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, Resource: "configmaps", Namespaced: true}
	_, err = c.As(cluster.Account{}).Get(t.Context(), kind, object.ID{Kind: "ConfigMap", Namespace: "a", Name: "b"})
	if fault.KindOf(err) != fault.Unreachable || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v, want Unreachable", err)
	}
}

// TestRequests compares what the connection counts with what the API server got.
func TestRequests(t *testing.T) {
	shared := harness.Shared(t)
	mark := shared.Mark(t)
	c, _ := connect(t, "counting")
	ns := shared.Namespace(t)
	kind := lookup(t, c, "", "ConfigMap")
	if err := c.Watch(t.Context(), kind, kind); err != nil {
		t.Fatal(err)
	}
	client := c.As(cluster.ServiceAccount("kube-system", "generic-garbage-collector"))
	id := object.ID{Kind: "ConfigMap", Namespace: ns, Name: "a"}
	_, _ = client.Get(t.Context(), kind, id)
	_ = client.Delete(t.Context(), kind, id, "", "", "")
	got := map[string]int{}
	for _, r := range shared.RequestsSince(t, mark, harness.ByUserAgent("counting")) {
		got[r.Verb]++
		if r.Verb == "delete" && r.As != "system:serviceaccount:kube-system:generic-garbage-collector" {
			t.Errorf("the delete was sent as %q", r.As)
		}
	}
	counted := c.Requests()
	if got["watch"] != counted["watch"] || got["watch"] != 2 || got["list"] != counted["list"] || got["delete"] != 1 || counted["delete"] != 1 {
		t.Errorf("the API server got %v, counted are %v", got, counted)
	}
}
