package delivery_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/test/harness"
)

const esoGroup = "external-secrets.io"

var (
	externalSecrets = kschema.GroupVersionResource{Group: esoGroup, Version: "v1", Resource: "externalsecrets"}
	secretStores    = kschema.GroupVersionResource{Group: esoGroup, Version: "v1", Resource: "secretstores"}
	sealedSecrets   = kschema.GroupVersionResource{Group: "bitnami.com", Version: "v1alpha1", Resource: "sealedsecrets"}
	secrets         = kschema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// operator does in one namespace what the External Secrets Operator and the controller
// of SealedSecrets do: they make Secrets of what the store or the object has, and say
// so in the status. The provider is the store's own list of values.
type operator struct {
	t    testing.TB
	ns   string
	api  dynamic.Interface
	down atomic.Bool // the provider does not answer
	poke chan struct{}
}

// operate starts an operator that ends with the test.
func (w *world) operate() *operator {
	w.t.Helper()
	op := &operator{t: w.t, ns: w.ns, api: w.harness.Dynamic(), poke: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	events := make(chan struct{}, 1)
	for _, kind := range []kschema.GroupVersionResource{externalSecrets, secretStores, sealedSecrets} {
		feed, err := op.api.Resource(kind).Namespace(op.ns).Watch(ctx, metav1.ListOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		go func(feed watch.Interface) {
			for range feed.ResultChan() {
				select {
				case events <- struct{}{}:
				default:
				}
			}
		}(feed)
	}
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-events:
			case <-op.poke:
			}
			op.reconcile(ctx)
		}
	}()
	w.t.Cleanup(func() {
		stop()
		<-done
	})
	op.again()
	return op
}

func (o *operator) again() {
	select {
	case o.poke <- struct{}{}:
	default:
	}
}

// fail makes the provider answer or not.
func (o *operator) fail(down bool) {
	o.down.Store(down)
	o.again()
}

func (o *operator) list(ctx context.Context, kind kschema.GroupVersionResource) []unstructured.Unstructured {
	all, err := o.api.Resource(kind).Namespace(o.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	return all.Items
}

func (o *operator) reconcile(ctx context.Context) {
	values := map[string]map[string]string{} // by store and key
	for _, store := range o.list(ctx, secretStores) {
		have := map[string]string{}
		data, _, _ := unstructured.NestedSlice(store.Object, "spec", "provider", "fake", "data")
		for _, d := range data {
			entry, _ := d.(map[string]any)
			have[fmt.Sprint(entry["key"])] = fmt.Sprint(entry["value"])
		}
		if o.down.Load() {
			o.say(ctx, secretStores, store, "Ready", "False", "InvalidProviderConfig", "unable to validate store", false)
			continue
		}
		o.say(ctx, secretStores, store, "Ready", "True", "Valid", "store validated", false)
		values[store.GetName()] = have
	}
	for _, es := range o.list(ctx, externalSecrets) {
		o.sync(ctx, es, values)
	}
	for _, sealed := range o.list(ctx, sealedSecrets) {
		data, _, _ := unstructured.NestedStringMap(sealed.Object, "spec", "encryptedData")
		if o.write(ctx, sealed, sealed.GetName(), data) {
			o.say(ctx, sealedSecrets, sealed, "Synced", "True", "", "", true)
		}
	}
}

// sync makes the Secret of one ExternalSecret.
func (o *operator) sync(ctx context.Context, es unstructured.Unstructured, values map[string]map[string]string) {
	store, _, _ := unstructured.NestedString(es.Object, "spec", "secretStoreRef", "name")
	entries, _, _ := unstructured.NestedSlice(es.Object, "spec", "data")
	data := map[string]string{}
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		remote, _ := entry["remoteRef"].(map[string]any)
		value, ok := values[store][fmt.Sprint(remote["key"])]
		if !ok {
			o.say(ctx, externalSecrets, es, "Ready", "False", "SecretSyncedError", "could not get secret data from provider", true)
			return
		}
		data[fmt.Sprint(entry["secretKey"])] = value
	}
	name, _, _ := unstructured.NestedString(es.Object, "spec", "target", "name")
	if name == "" {
		name = es.GetName()
	}
	policy, _, _ := unstructured.NestedString(es.Object, "spec", "target", "creationPolicy")
	if policy != "None" && !o.write(ctx, es, name, data) {
		return
	}
	o.say(ctx, externalSecrets, es, "Ready", "True", "SecretSynced", "secret synced", true)
}

// write makes a Secret that belongs to owner; it reports whether it is there.
func (o *operator) write(ctx context.Context, owner unstructured.Unstructured, name string, data map[string]string) bool {
	secret := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret"}}
	secret.SetName(name)
	yes := true
	secret.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: owner.GetAPIVersion(), Kind: owner.GetKind(), Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes,
	}})
	encoded := map[string]any{}
	for k, v := range data {
		encoded[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	secret.Object["data"] = encoded
	_, err := o.api.Resource(secrets).Namespace(o.ns).Create(ctx, secret, metav1.CreateOptions{FieldManager: "operator"})
	return err == nil || apierrors.IsAlreadyExists(err)
}

// say sets the one condition of an object, if it is not that already. What changed
// meanwhile makes an event of its own.
func (o *operator) say(ctx context.Context, kind kschema.GroupVersionResource, obj unstructured.Unstructured, condition, status, reason, message string, versioned bool) {
	want := map[string]any{"type": condition, "status": status, "reason": reason, "message": message}
	state := map[string]any{}
	if kind == sealedSecrets {
		want["lastTransitionTime"], want["lastUpdateTime"] = "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"
		state["observedGeneration"] = obj.GetGeneration()
	}
	state["conditions"] = []any{want}
	if kind == externalSecrets && versioned && status == "True" {
		state["syncedResourceVersion"] = fmt.Sprintf("%d-%x", obj.GetGeneration(), sha256.Sum256([]byte(obj.GetName())))
	}
	if cmp.Equal(obj.Object["status"], any(state)) {
		return
	}
	obj.Object["status"] = state
	_, err := o.api.Resource(kind).Namespace(o.ns).UpdateStatus(ctx, &obj, metav1.UpdateOptions{FieldManager: "operator"})
	if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		o.t.Errorf("the operator cannot write a status: %v", err)
	}
}

// newSecretWorld is a world with the definitions of what makes Secrets.
func newSecretWorld(t *testing.T) *world {
	t.Helper()
	h := harness.Shared(t)
	h.Define(t, harness.ExternalSecrets)
	h.Define(t, harness.SealedSecrets)
	return newWorldOn(t, h)
}

// likeFlux has the world deliver as Flux does: no waves, by kstatus.
func (w *world) likeFlux() {
	w.spec.Profile.WaveKeys, w.spec.Profile.NoHealth = nil, true
	w.spec.Profile.Health = health.Options{Kstatus: true}
	w.spec.Profile.Plan = plan.Profile{Forget: true, AllowEmpty: true, Stages: []plan.StageRule{
		{Name: "definitions", Gate: true, Kinds: []kschema.GroupKind{{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}, {Kind: "Namespace"}}},
		{Name: "classes", Gate: true, Kinds: []kschema.GroupKind{{Group: "*", Kind: "*Class"}}},
	}}
}

func fakeStore(values string) string {
	return "{apiVersion: " + esoGroup + "/v1, kind: SecretStore, metadata: {name: store}, spec: {provider: {fake: {data: [" + values + "]}}}}"
}

func external(version, name, extra string) string {
	return "{apiVersion: " + esoGroup + "/" + version + ", kind: ExternalSecret, metadata: {name: " + name + ", annotations: {" + extra + "}}, " +
		"spec: {secretStoreRef: {name: store, kind: SecretStore}, target: {name: login}, data: [{secretKey: password, remoteRef: {key: db}}]}}"
}

func webNeeding(secret string) string {
	return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 1, selector: {matchLabels: {a: web}},
		template: {metadata: {labels: {a: web}}, spec: {containers: [{name: web, image: "example.org/web:1",
		env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: ` + secret + `, key: password}}}]}]}}}}`
}

const values = "{key: db, value: canary-1}"

// unhurt is a report that does not repeat how the maker of a Secret fares: that depends
// on what the watch has shown already.
func unhurt(r delivery.Report) delivery.Report {
	if err := r.Err; err != nil {
		short, _, _ := strings.Cut(err.Msg, " is to make: ")
		r.Err = &fault.Error{Kind: err.Kind, Object: err.Object, File: err.File, Line: err.Line, Msg: strings.TrimSuffix(short, " is to make") + " is to make"}
	}
	return r
}

// wrote lists the first write of each of some resources since a mark, in order.
func (w *world) wrote(since harness.Mark, verb string, resources ...string) []string {
	var order []string
	for _, r := range w.harness.RequestsSince(w.t, since, harness.InNamespace(w.ns), harness.ByVerb(verb)) {
		if slices.Contains(resources, r.Resource) && r.Subresource == "" && r.Code < 300 && !slices.Contains(order, r.Resource) {
			order = append(order, r.Resource)
		}
	}
	return order
}

// The engine is the same for both dialects; what differs is their profile.
func TestWorkloadWaitsForTheSecretThatIsMadeForIt(t *testing.T) {
	for dialect, version := range map[string]string{"like Flux": "v1", "like Argo CD": "v1beta1"} {
		t.Run(dialect+" "+version, func(t *testing.T) {
			w := newSecretWorld(t)
			if dialect == "like Flux" {
				w.likeFlux()
			}
			since := w.harness.Mark(t)
			w.commit(webNeeding("login"), config("other", "x"), external(version, "db", ""), fakeStore(values))
			first, second := w.pass(), w.pass()
			w.want(unhurt(first), "what makes Secrets goes before, what needs none beside", `
				ConfigMap other created
				SecretStore store created
				ExternalSecret db created
				Deployment web waiting
				Waiting: all.yaml:1: Deployment.apps/NS/web: waits for Secret/NS/login, which ExternalSecret.external-secrets.io/NS/db is to make
			`)
			if first.RetryAfter <= 0 || first.RetryAfter > 5*time.Minute || second.Err == nil || second.Err.Kind != fault.Waiting {
				t.Errorf("the wait is bounded, and goes on: %s, then:\n%s", first.RetryAfter, show(second))
			}
			w.operate()
			r := w.until("the Secret and the workload", applied)
			if got := w.wrote(since, "patch", "secretstores", "externalsecrets", "deployments"); !slices.Equal(got, []string{"secretstores", "externalsecrets", "deployments"}) {
				t.Errorf("sent in the order %v", got)
			}
			if strings.Contains(fmt.Sprintf("%+v", r), "canary") {
				t.Error("the report has the value of the Secret")
			}
			before := w.cluster.Requests()
			if r = w.pass(); r.Err != nil || len(r.Changed()) != 0 || r.RetryAfter != 0 {
				t.Errorf("nothing is left to do:\n%s", show(r))
			}
			if diff := cmp.Diff(before, w.cluster.Requests()); diff != "" {
				t.Errorf("nothing moved, so nothing is asked (-before +after):\n%s", diff)
			}
			since = w.harness.Mark(t)
			w.spec.Profile.Plan.Brake = plan.NoBrake()
			w.commit(config("other", "x"))
			w.until("all to be gone", func(r delivery.Report) bool { return len(r.Inventory) == 1 })
			if got := w.wrote(since, "delete", "secretstores", "externalsecrets", "deployments"); !slices.Equal(got, []string{"deployments", "externalsecrets", "secretstores"}) {
				t.Errorf("deleted in the order %v", got)
			}
		})
	}
}

// The API server takes every kind as the guides write it, and each has its place: what
// others take values from first, also where it leaves again.
func TestAllKindsOfExternalSecrets(t *testing.T) {
	w := newSecretWorld(t)
	w.likeFlux()
	w.spec.Profile.Plan.Brake = plan.NoBrake()
	since := w.harness.Mark(t)
	w.commit(
		"{apiVersion: "+esoGroup+"/v1, kind: ClusterExternalSecret, metadata: {name: "+w.ns+"}, spec: {namespaces: ["+w.ns+"], externalSecretName: spread, externalSecretSpec: {secretStoreRef: {name: store}, target: {name: spread}, data: [{secretKey: a, remoteRef: {key: db}}]}}}",
		"{apiVersion: "+esoGroup+"/v1alpha1, kind: PushSecret, metadata: {name: push}, spec: {secretStoreRefs: [{name: store, kind: SecretStore}], selector: {secret: {name: own}}, data: [{match: {secretKey: k, remoteRef: {remoteKey: r}}}]}}",
		"{apiVersion: "+esoGroup+"/v1, kind: ExternalSecret, metadata: {name: made}, spec: {dataFrom: [{sourceRef: {generatorRef: {apiVersion: generators."+esoGroup+"/v1alpha1, kind: Password, name: gen}}}]}}",
		"{apiVersion: generators."+esoGroup+"/v1alpha1, kind: Password, metadata: {name: gen}, spec: {length: 20, digits: 5, symbols: 5, symbolCharacters: '-_', noUpper: false, allowRepeat: true}}",
		fakeStore(values), "{apiVersion: v1, kind: Secret, metadata: {name: own}, stringData: {k: x}}",
		webNeeding("spread"),
	)
	w.want(unhurt(w.pass()), "each has its place", `
		Secret own created
		SecretStore store created
		Password gen created
		ExternalSecret made created
		ClusterExternalSecret `+w.ns+` created
		PushSecret push created
		Deployment web waiting
		Waiting: all.yaml:7: Deployment.apps/NS/web: waits for Secret/NS/spread, which ClusterExternalSecret.external-secrets.io/`+w.ns+` is to make
	`)
	w.commit(config("left", "x"))
	w.until("all to be gone", func(r delivery.Report) bool { return len(r.Inventory) == 1 })
	deleted := w.wrote(since, "delete", "secretstores", "passwords", "externalsecrets", "pushsecrets")
	if len(deleted) != 4 || slices.Index(deleted, "secretstores") < 2 || slices.Index(deleted, "passwords") < 2 {
		t.Errorf("stores and generators go when nobody takes values from them any more: %v", deleted)
	}
}

// Where another controller opens SealedSecrets, the Secret is waited for just so.
func TestWorkloadWaitsForASealedSecretThatOthersOpen(t *testing.T) {
	w := newSecretWorld(t)
	w.commit(webNeeding("login"), "{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {name: login}, spec: {encryptedData: {password: AgBy}}}")
	w.want(unhurt(w.pass()), "nobody has opened it yet", `
		SealedSecret login created
		Deployment web waiting
		Waiting: all.yaml:1: Deployment.apps/NS/web: waits for Secret/NS/login, which SealedSecret.bitnami.com/NS/login is to make
	`)
	w.operate()
	w.until("the workload", applied)
	if r := w.until("health", func(r delivery.Report) bool { return r.Health.Status == health.Healthy }); r.Err != nil {
		t.Error(r.Err)
	}
}

func TestTroubleOfTheProviderIsToldAndEnds(t *testing.T) {
	w := newSecretWorld(t)
	op := w.operate()
	op.fail(true)
	w.commit(webNeeding("login"), external("v1", "db", ""), fakeStore(values))
	r := w.until("the failure to be told", func(r delivery.Report) bool {
		return strings.Contains(show(r), "db is to make: could not get secret data from provider")
	})
	if r.Err.Kind != fault.Waiting || r.Health.Status != health.Degraded {
		t.Errorf("it waits, and something is degraded:\n%s", show(r))
	}
	op.fail(false)
	w.until("the workload", applied)
	w.until("health", func(r delivery.Report) bool { return r.Health.Status == health.Healthy })
}

// A wave waits for the health of the one before, as ever; Secrets ask for no more.
func TestExternalSecretInAnEarlierWave(t *testing.T) {
	w := newSecretWorld(t)
	op := w.operate()
	op.fail(true)
	early := waveKey + ": '-1'"
	store := strings.Replace(fakeStore(values), "{name: store}", "{name: store, annotations: {"+early+"}}", 1)
	w.commit(webNeeding("login"), external("v1", "db", early), store)
	r := w.until("the failure of the wave", func(r delivery.Report) bool { return r.Err != nil && r.Err.Kind == fault.Rejected })
	if !strings.Contains(r.Err.Error(), "the objects after wave -1 are not sent: it is degraded") {
		t.Errorf("not told why: %s", r.Err)
	}
	op.fail(false)
	w.until("both waves", applied)
}

// What can never come is not waited for, and said.
func TestCirclesGoOn(t *testing.T) {
	tests := map[string]struct {
		reason, says string
		docs         []string
	}{
		"later wave": {
			"the maker's wave waits for the workload's", "that is in wave 1, which waits for this one",
			[]string{webNeeding("login"), external("v1", "db", waveKey+": '1'"), fakeStore(values)},
		},
		"own provider": {
			"the store asks the workload", "that needs this object itself, through SecretStore.external-secrets.io/",
			[]string{
				webNeeding("login"), external("v1", "db", ""),
				"{apiVersion: v1, kind: Service, metadata: {name: vault}, spec: {ports: [{port: 8200}], selector: {a: web}}}",
				"{apiVersion: " + esoGroup + "/v1, kind: SecretStore, metadata: {name: store}, spec: {provider: {vault: {server: 'http://vault:8200', auth: {tokenSecretRef: {name: t, key: k}}}}}}",
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newSecretWorld(t)
			w.commit(tt.docs...)
			r := w.until("the workload", func(r delivery.Report) bool { return strings.Contains(show(r), "Deployment web created") })
			i := slices.IndexFunc(r.Objects, func(o delivery.Object) bool { return o.ID.Kind == "Deployment" })
			warnings := strings.Join(r.Objects[i].Warnings, "\n")
			if !strings.Contains(warnings, "sent without waiting for Secret/"+w.ns+"/login") || !strings.Contains(warnings, tt.says) {
				t.Errorf("%s, and it is not said: %q", tt.reason, warnings)
			}
		})
	}
}

// What nobody knows to lead in a circle ends by time.
func TestPatienceEnds(t *testing.T) {
	w := newSecretWorld(t)
	var ahead atomic.Int64
	w.engine = delivery.New(delivery.Options{
		Renderer: func(delivery.ID) render.Renderer { return w.render }, Cluster: w.cluster, Memory: memory{},
		Digest: sha256.Sum256, Log: slog.New(slog.DiscardHandler), Alive: func(string) bool { return true },
		Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	w.commit(webNeeding("login"), external("v1", "db", ""), fakeStore(values))
	r := w.pass()
	ahead.Store(int64(r.RetryAfter) + int64(time.Second))
	r = w.pass()
	w.want(r, "it was waited for long enough", `
		SecretStore store unchanged
		ExternalSecret db unchanged
		Deployment web created
	`)
	if message := r.Objects[2].Message; !strings.Contains(message, "sent without Secret/"+w.ns+"/login, which ExternalSecret.external-secrets.io/"+w.ns+"/db has not made in time") {
		t.Errorf("it is not said: %q", message)
	}
	if r = w.pass(); r.Err != nil || r.RetryAfter != 0 {
		t.Errorf("nothing is left to do, in %s:\n%s", r.RetryAfter, show(r))
	}
}
