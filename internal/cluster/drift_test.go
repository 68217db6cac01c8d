package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

const (
	us       = "holdfast"
	patience = 30 * time.Second // for what should take milliseconds
)

// bench is one connection and one namespace in which to disturb objects.
type bench struct {
	*cluster.Cluster

	events <-chan cluster.Event
	ns     string
}

func newBench(t *testing.T, kinds ...string) *bench {
	t.Helper()
	c, events := connect(t, "drift")
	b := &bench{c, events, harness.Shared(t).Namespace(t)}
	watched := make([]hschema.Kind, 0, len(kinds)/2)
	for i := 0; i < len(kinds); i += 2 {
		watched = append(watched, lookup(t, c, kinds[i], kinds[i+1]))
	}
	if err := c.Watch(t.Context(), watched...); err != nil {
		t.Fatal(err)
	}
	return b
}

// subject is one object that we applied, and its fingerprint.
type subject struct {
	*bench

	kind  hschema.Kind
	id    object.ID
	body  string
	print cluster.Fingerprint
}

// apply applies content, the fields of an object besides its identity.
func (b *bench) apply(t *testing.T, kind hschema.Kind, name, content string) *subject {
	t.Helper()
	s := &subject{bench: b, kind: kind, id: object.ID{Group: kind.GVK.Group, Kind: kind.GVK.Kind, Namespace: b.ns, Name: name}, body: content}
	r := s.as(t, us, content)
	var ok bool
	if s.print, ok = r.Fingerprint(us, [32]byte{1}); !ok {
		t.Fatalf("our own apply has no entry: %+v", r)
	}
	if got := s.sight(t); got != plan.AsApplied {
		t.Fatalf("right after our own apply the object is %d", got)
	}
	return s
}

// as applies content by force under some manager's name.
func (s *subject) as(t *testing.T, manager, content string) cluster.Record {
	t.Helper()
	r, err := s.As(cluster.Account{}).Apply(t.Context(), s.kind, s.id, s.whole(content), manager, true, false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// whole adds the identity to content.
func (s *subject) whole(content string) []byte {
	o := map[string]any{}
	if err := json.Unmarshal([]byte(content), &o); err != nil {
		panic(err) // a mistake in this file
	}
	o["apiVersion"], o["kind"] = s.kind.GVK.GroupVersion().String(), s.kind.GVK.Kind
	meta, _ := o["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
	}
	meta["name"], meta["namespace"] = s.id.Name, s.id.Namespace
	o["metadata"] = meta
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // it came from JSON
	}
	return b
}

func (s *subject) sight(t *testing.T) plan.Sight {
	t.Helper()
	r, ok := s.Look(s.kind, s.id)
	if !ok {
		return plan.Absent
	}
	return r.Sight(s.print, us)
}

func (s *subject) api(t *testing.T) dynamic.ResourceInterface {
	return harness.Shared(t).Dynamic().Resource(s.kind.GVR()).Namespace(s.ns)
}

// patch changes the object as somebody else would.
func (s *subject) patch(t *testing.T, how types.PatchType, manager, patch string, subresource ...string) {
	t.Helper()
	_, err := s.api(t).Patch(t.Context(), s.id.Name, how, []byte(patch), metav1.PatchOptions{FieldManager: manager}, subresource...)
	if err != nil {
		t.Fatal(err)
	}
}

// await returns when the watch shows what is wanted.
func (s *subject) await(t *testing.T, want plan.Sight) {
	t.Helper()
	deadline := time.After(patience)
	for s.sight(t) != want {
		select {
		case <-s.events:
		case <-deadline:
			r, _ := s.Look(s.kind, s.id)
			t.Fatalf("the watch shows sight %d, want %d; fingerprint %+v, record %+v", s.sight(t), want, s.print, r)
		}
	}
}

// settle returns when the watch has shown everything that happened before: a
// watch shows one kind's changes in order, so an object made now comes last.
func (s *subject) settle(t *testing.T) {
	t.Helper()
	name := fmt.Sprint("last-", time.Now().UnixNano())
	mark := &subject{bench: s.bench, kind: s.kind, id: s.id, body: s.body}
	mark.id.Name = name
	cfg := harness.Shared(t).Config()
	d, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	api := d.Resource(s.kind.GVR()).Namespace(s.ns)
	if _, err := api.Patch(t.Context(), name, types.ApplyPatchType, mark.whole(s.body), metav1.PatchOptions{FieldManager: "mark"}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for {
		select {
		case e := <-s.events:
			if e.ID == mark.id {
				return
			}
		case <-deadline:
			t.Fatal("the watch does not show an object made just now")
		}
	}
}

const deployment = `{"metadata":{"labels":{"team":"a"},"annotations":{"note":"a"}},"spec":{"replicas":1,
"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[
{"name":"web","image":"web:1","args":["a","b"],"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],"resources":{"limits":{"cpu":"1"}}}]}}}}`

// TestDrift disturbs a Deployment that is watched by its metadata alone, in every
// way that DESIGN lists and some more.
func TestDrift(t *testing.T) {
	b := newBench(t, "apps", "Deployment")
	kind := lookup(t, b.Cluster, "apps", "Deployment")
	tests := []struct {
		name, reason string
		change       func(t *testing.T, s *subject)
		want         plan.Sight
	}{
		{"scale by update", "another manager took spec.replicas", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl-edit", `{"spec":{"replicas":2}}`)
		}, plan.Drifted},
		{"scale by subresource", "kubectl scale, or an autoscaler", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl", `{"spec":{"replicas":2}}`, "scale")
		}, plan.Drifted},
		{"set image", "a strategic merge patch of one item", func(t *testing.T, s *subject) {
			s.patch(t, types.StrategicMergePatchType, "kubectl-set", `{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"web:2"}]}}}}`)
		}, plan.Drifted},
		{"item changed", "a value in a list of named items", func(t *testing.T, s *subject) {
			s.patch(t, types.StrategicMergePatchType, "kubectl-edit", `{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"9"}]}]}}}}`)
		}, plan.Drifted},
		{"item removed", "an item of ours is gone", func(t *testing.T, s *subject) {
			s.patch(t, types.StrategicMergePatchType, "kubectl-edit", `{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"B","$patch":"delete"}]}]}}}}`)
		}, plan.Drifted},
		{"plain list changed", "a list that is owned as a whole", func(t *testing.T, s *subject) {
			s.patch(t, types.JSONPatchType, "kubectl-edit", `[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"c"}]`)
		}, plan.Drifted},
		{"field removed", "and nothing put in its place", func(t *testing.T, s *subject) {
			s.patch(t, types.JSONPatchType, "kubectl-edit", `[{"op":"remove","path":"/spec/template/spec/containers/0/resources"}]`)
		}, plan.Drifted},
		{"forced apply by another", "it took a field with another value", func(t *testing.T, s *subject) {
			s.as(t, "rival", `{"spec":{"replicas":2}}`)
		}, plan.Drifted},
		{"managedFields reset", "nothing is proven any more", func(t *testing.T, s *subject) {
			s.patch(t, types.JSONPatchType, "kubectl-edit", `[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]`)
		}, plan.Drifted},
		{"apply under our name", "with other fields", func(t *testing.T, s *subject) {
			s.as(t, us, `{"spec":{"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"web:1"}]}}}}`)
		}, plan.Drifted},
		{"update under our name", "that is an entry of its own", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, us, `{"spec":{"replicas":2}}`)
		}, plan.Drifted},
		{"label removed", "metadata moves no generation, but our entry", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl-label", `{"metadata":{"labels":{"team":null}}}`)
		}, plan.Drifted},
		{"annotation changed", "the same", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl-annotate", `{"metadata":{"annotations":{"note":"b"}}}`)
		}, plan.Drifted},
		{"annotation removed", "the same", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl-annotate", `{"metadata":{"annotations":{"note":null}}}`)
		}, plan.Drifted},
		{"made anew", "the same name is not the same object", func(t *testing.T, s *subject) {
			if err := s.api(t).Delete(t.Context(), s.id.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			s.await(t, plan.Absent)
			s.as(t, us, s.body)
		}, plan.Drifted},
		{"deleted", "it is absent", func(t *testing.T, s *subject) {
			if err := s.api(t).Delete(t.Context(), s.id.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}, plan.Absent},
		{"spec added", "something beside what we own; but a webhook could have used the occasion", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl-edit", `{"spec":{"minReadySeconds":1}}`)
		}, plan.Unsure},
		{"annotation added", "a Deployment's annotations move its generation", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl-annotate", `{"metadata":{"annotations":{"more":"x"}}}`)
		}, plan.Unsure},
		{"item added", "the same", func(t *testing.T, s *subject) {
			s.patch(t, types.StrategicMergePatchType, "kubectl-edit", `{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"C","value":"3"}]}]}}}}`)
		}, plan.Unsure},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := b.apply(t, kind, fmt.Sprint("drift-", i), deployment)
			tt.change(t, s)
			s.await(t, tt.want)
			if tt.want != plan.Unsure {
				return
			}
			before := s.print
			r := s.as(t, us, deployment)
			s.print, _ = r.Fingerprint(us, before.Digest)
			if got := s.sight(t); got != plan.AsApplied || s.print.Ours != before.Ours {
				t.Errorf("after one more apply, which should change nothing, sight is %d", got)
			}
		})
	}
}

// TestNoDrift changes what is not ours: nobody has to look.
func TestNoDrift(t *testing.T) {
	b := newBench(t, "apps", "Deployment")
	kind := lookup(t, b.Cluster, "apps", "Deployment")
	tests := []struct {
		name, reason string
		change       func(t *testing.T, s *subject)
	}{
		{"status", "that is what controllers do all the time", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "someone", `{"status":{"conditions":[{"type":"Odd","status":"True"}]}}`, "status")
		}},
		{"label added", "it is not ours", func(t *testing.T, s *subject) {
			s.patch(t, types.MergePatchType, "kubectl-label", `{"metadata":{"labels":{"more":"x"}}}`)
		}},
		{"the same apply by another", "we own it together, with the same values", func(t *testing.T, s *subject) {
			s.as(t, "friend", `{"spec":{"replicas":1}}`)
		}},
		{"the same apply again", "nothing changes", func(t *testing.T, s *subject) { s.as(t, us, s.body) }},
		{"rollout", "the deployment's own controller notes its revision", func(t *testing.T, s *subject) {
			harness.Shared(t).Await(t, s.kind.GVR(), s.ns, s.id.Name, "to be ready", harness.Ready(1))
		}},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := b.apply(t, kind, fmt.Sprint("calm-", i), deployment)
			tt.change(t, s)
			s.settle(t)
			if got := s.sight(t); got != plan.AsApplied {
				r, _ := s.Look(s.kind, s.id)
				t.Errorf("%s: sight %d; fingerprint %+v, record %+v", tt.reason, got, s.print, r)
			}
		})
	}
}

// TestWithoutGeneration disturbs objects of kinds that have no generation.
func TestWithoutGeneration(t *testing.T) {
	kinds := []struct{ group, kind, content, taken, added string }{
		{"", "ConfigMap", `{"metadata":{"labels":{"l":"1"}},"data":{"a":"1"}}`, `{"data":{"a":"2"}}`, `{"data":{"b":"2"}}`},
		{"", "Secret", `{"metadata":{"labels":{"l":"1"}},"data":{"a":"MQ=="}}`, `{"data":{"a":"Mg=="}}`, `{"data":{"b":"Mg=="}}`},
		{
			"", "Service", `{"metadata":{"labels":{"l":"1"}},"spec":{"selector":{"app":"web"},"ports":[{"name":"http","port":80}]}}`,
			`{"spec":{"selector":{"app":"other"}}}`, `{"spec":{"sessionAffinity":"ClientIP"}}`,
		},
		{
			"", "ServiceAccount", `{"metadata":{"labels":{"l":"1"}},"automountServiceAccountToken":false}`,
			`{"automountServiceAccountToken":true}`, `{"imagePullSecrets":[{"name":"x"}]}`,
		},
		{
			"rbac.authorization.k8s.io", "Role", `{"metadata":{"labels":{"l":"1"}},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`,
			`{"rules":[]}`, `{"metadata":{"annotations":{"x":"y"}}}`,
		},
	}
	var names []string
	for _, k := range kinds {
		names = append(names, k.group, k.kind)
	}
	b := newBench(t, names...)
	for _, k := range kinds {
		kind := lookup(t, b.Cluster, k.group, k.kind)
		t.Run(k.kind, func(t *testing.T) {
			s := b.apply(t, kind, "taken", k.content)
			if s.print.Generation != 0 || s.print.ResourceVersion == "" {
				t.Fatalf("this kind has a generation: %+v", s.print)
			}
			s.patch(t, types.MergePatchType, "kubectl-edit", k.taken)
			s.await(t, plan.Drifted)

			s = b.apply(t, kind, "label", k.content)
			s.patch(t, types.MergePatchType, "kubectl-label", `{"metadata":{"labels":{"l":null}}}`)
			s.await(t, plan.Drifted)

			s = b.apply(t, kind, "added", k.content)
			s.patch(t, types.MergePatchType, "kubectl-edit", k.added)
			s.await(t, plan.Unsure)
			r := s.as(t, us, k.content)
			ours := s.print.Ours
			s.print, _ = r.Fingerprint(us, [32]byte{1})
			s.settle(t)
			if got := s.sight(t); got != plan.AsApplied || s.print.Ours != ours {
				t.Errorf("after one apply the addition of others must not be noticed again: sight %d, %+v", got, s.print)
			}
		})
	}
}

// TestUnderOurName applies under our own name, with the same fields and another
// value, right away. Times in managedFields have seconds, so our entry may stand;
// version or generation do not.
func TestUnderOurName(t *testing.T) {
	b := newBench(t, "", "ConfigMap", "apps", "Deployment")
	s := b.apply(t, lookup(t, b.Cluster, "", "ConfigMap"), "name", `{"data":{"a":"1"}}`)
	s.as(t, us, `{"data":{"a":"2"}}`)
	if got := s.sight(t); got == plan.AsApplied {
		t.Error("a changed ConfigMap passes as applied")
	}
	s = b.apply(t, lookup(t, b.Cluster, "apps", "Deployment"), "name", deployment)
	s.as(t, us, strings.Replace(deployment, `"web:1"`, `"web:2"`, 1))
	if got := s.sight(t); got == plan.AsApplied {
		t.Error("a changed Deployment passes as applied")
	}
}

// TestStringData shows that what is written to a Secret as stringData is not
// owned as data: taking it leaves our entry as it was, and only the version tells.
func TestStringData(t *testing.T) {
	b := newBench(t, "", "Secret")
	content := `{"stringData":{"a":"1"}}`
	s := b.apply(t, lookup(t, b.Cluster, "", "Secret"), "string", content)
	s.patch(t, types.MergePatchType, "kubectl-edit", `{"data":{"a":"Mg=="}}`)
	s.await(t, plan.Unsure)
	s.as(t, us, content)
	o, err := s.api(t).Get(t.Context(), s.id.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if v, _, _ := unstructured.NestedString(o.Object, "data", "a"); v != "MQ==" {
		t.Errorf("one apply did not put it right: %q", v)
	}
}

// TestWebhook has the API server itself change a value of ours during somebody
// else's request: our entry stands, and only the generation tells.
func TestWebhook(t *testing.T) {
	b := newBench(t, "apps", "Deployment")
	k, ok := b.LookupGroupKind(mutatingPolicy)
	if !ok {
		t.Fatalf("this cluster has no %s", mutatingPolicy)
	}
	policies := harness.Shared(t).Dynamic().Resource(k.GVR())
	bindings := harness.Shared(t).Dynamic().Resource(k.GVK.GroupVersion().WithResource("mutatingadmissionpolicybindings"))
	create := func(api dynamic.ResourceInterface, body string) {
		t.Helper()
		if _, err := api.Patch(t.Context(), "scales-"+b.ns, types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: "test"}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := api.Delete(context.Background(), "scales-"+b.ns, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
	s := b.apply(t, lookup(t, b.Cluster, "apps", "Deployment"), "webhook", deployment)
	create(policies, fmt.Sprintf(`{"apiVersion":%q,"kind":"MutatingAdmissionPolicy","metadata":{"name":"scales-%s"},"spec":{
		"matchConstraints":{"resourceRules":[{"apiGroups":["apps"],"apiVersions":["v1"],"operations":["UPDATE"],"resources":["deployments"]}]},
		"matchConditions":[{"name":"asked","expression":"object.metadata.namespace == '%s' && has(object.metadata.annotations) && 'go' in object.metadata.annotations"}],
		"failurePolicy":"Fail","reinvocationPolicy":"Never",
		"mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":"Object{spec: Object.spec{replicas: 3}}"}}]}}`,
		k.GVK.GroupVersion(), b.ns, b.ns))
	create(bindings, fmt.Sprintf(`{"apiVersion":%q,"kind":"MutatingAdmissionPolicyBinding","metadata":{"name":"scales-%s"},"spec":{"policyName":"scales-%s"}}`,
		k.GVK.GroupVersion(), b.ns, b.ns))
	// The policy takes effect some time after it is made, and nothing tells when.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := 0; ; i++ {
		s.patch(t, types.MergePatchType, "kubectl-annotate", fmt.Sprintf(`{"metadata":{"annotations":{"go":"%d"}}}`, i))
		o, err := s.api(t).Get(ctx, s.id.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if o.GetGeneration() != s.print.Generation {
			break
		}
	}
	s.await(t, plan.Unsure)
	if r := s.as(t, us, deployment); r.Generation == s.print.Generation {
		t.Error("one apply did not put it right")
	}
}

// TestEvents checks what subscribers are told: every change that means something,
// once, and nothing else.
func TestEvents(t *testing.T) {
	b := newBench(t, "apps", "Deployment", "", "ConfigMap")
	s := b.apply(t, lookup(t, b.Cluster, "", "ConfigMap"), "events", `{"metadata":{"labels":{"example.com/owner":"me"},"annotations":{"example.com/keep":"true"}},"data":{"a":"1"}}`)
	s.settle(t)
	r, ok := s.Look(s.kind, s.id)
	if !ok || r.Owner != "me" || !r.KeptInPrune {
		t.Fatalf("marks: %+v", r)
	}
	cm := s.As(cluster.Account{})
	if err := cm.Delete(t.Context(), s.kind, s.id, "another", "", metav1.DeletePropagationBackground); !errors.Is(err, cluster.ErrChanged) {
		t.Errorf("deleting what is another object: %v", err)
	}
	if err := cm.Delete(t.Context(), s.kind, s.id, r.UID, r.ResourceVersion, metav1.DeletePropagationBackground); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for {
		select {
		case e := <-s.events:
			if e.ID != s.id {
				continue
			}
			if !e.Gone || e.Record.UID != r.UID {
				t.Errorf("the first thing told of the object is %+v; our own apply is no news", e)
			}
			return
		case <-deadline:
			t.Fatal("the deletion is not told")
		}
	}
}
