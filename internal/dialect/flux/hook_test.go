package flux

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

const token = "s3cret"

// hookPlace is a Flux whose API server is in memory.
type hookPlace struct {
	*Flux
	client  client.Client
	fetched []string // what the hub was asked to fetch
	queues  map[string]workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func (p *hookPlace) Fetch(_ context.Context, req source.Request) (source.Revision, error) {
	p.fetched = append(p.fetched, req.URL)
	return source.Revision{Commit: "c", Tree: files("x")}, nil
}

func newHookPlace(t *testing.T, objects ...client.Object) *hookPlace {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, sourcev1.AddToScheme, kustomizev1.AddToScheme, notificationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	blank := func(d *desk) *unstructured.Unstructured { return d.blank() }
	p := &hookPlace{queues: map[string]workqueue.TypedRateLimitingInterface[reconcile.Request]{}}
	gits := newDesk(sourcev1.GroupVersion.WithKind("GitRepository"), nil, nil, "o")
	kss := newDesk(kustomizev1.GroupVersion.WithKind("Kustomization"), nil, nil, "o")
	rcs := newDesk(notificationv1.GroupVersion.WithKind("Receiver"), nil, nil, "o")
	p.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(blank(rcs), byPath, fieldIndex([]string{"status", "webhookPath"}, nil)).
		WithIndex(blank(gits), byURL, fieldIndex([]string{"spec", "url"}, source.NormalizeURL)).
		Build()
	for _, d := range []*desk{gits, kss, rcs} {
		d.cache, d.client = p.client, p.client
	}
	env := &dialect.Env{
		Client: p.client, Reader: p.client, Hub: source.NewHub(p, func() time.Time { return noon }),
		Clock: func() time.Time { return noon }, Log: slog.New(slog.DiscardHandler),
	}
	p.Flux = &Flux{
		env: env, repositories: gits, kustomizations: kss, receivers: rcs,
		fetches: &dialect.Trigger{}, deliveries: &dialect.Trigger{},
		git: &repositories{env: env, heard: map[types.NamespacedName]string{}},
	}
	for name, trigger := range map[string]*dialect.Trigger{"git": p.fetches, "ks": p.deliveries} {
		q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
		if err := trigger.Start(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(q.ShutDown)
		p.queues[name] = q
	}
	p.Hooks = hooks{flux: p.Flux, slots: make(chan struct{}, hooksAtOnce)}
	return p
}

// queued empties a queue and returns the names in it.
func (p *hookPlace) queued(name string) []string {
	q, names := p.queues[name], []string{}
	for q.Len() > 0 {
		r, _ := q.Get()
		q.Done(r)
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names
}

func gitRepository(name, url string, change func(*sourcev1.GitRepository)) *sourcev1.GitRepository {
	r := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name}, Spec: sourcev1.GitRepositorySpec{URL: url}}
	if change != nil {
		change(r)
	}
	return r
}

func receiver(change func(*notificationv1.Receiver)) *notificationv1.Receiver {
	r := &notificationv1.Receiver{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "push"},
		Spec: notificationv1.ReceiverSpec{
			Type:      "generic-hmac",
			SecretRef: &meta.LocalObjectReference{Name: "token"},
			Resources: []notificationv1.ReceiverResource{{CrossNamespaceObjectReference: notificationv1.CrossNamespaceObjectReference{Kind: "GitRepository", Name: "fleet"}}},
		},
	}
	r.Status.WebhookPath = hookPath(token, r.Name, r.Namespace)
	if change != nil {
		change(r)
	}
	return r
}

func tokenSecret() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "token"}, Data: map[string][]byte{"token": []byte(token)}}
}

func sign(name string, newHash func() hash.Hash, key, body string) string {
	mac := hmac.New(newHash, []byte(key))
	mac.Write([]byte(body))
	return name + "=" + hex.EncodeToString(mac.Sum(nil))
}

func (p *hookPlace) post(path, signature, body string) int {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	if signature != "" {
		r.Header.Set("X-Signature", signature)
	}
	w := httptest.NewRecorder()
	p.Hooks.ServeHTTP(w, r)
	return w.Code
}

func TestHookAnswers(t *testing.T) {
	path := hookPath(token, "push", "apps")
	body := `{"any":"thing"}`
	for _, tc := range []struct {
		reason    string
		receiver  *notificationv1.Receiver
		path      string
		signature string
		body      string
		status    int
	}{
		{"sha256", receiver(nil), path, sign("sha256", sha256.New, token, body), body, 200},
		{"sha512", receiver(nil), path, sign("sha512", sha512.New, token, body), body, 200},
		{"sha1", receiver(nil), path, sign("sha1", sha1.New, token, body), body, 200},
		{"no body is a body", receiver(nil), path, sign("sha256", sha256.New, token, ""), "", 200},
		{"another token", receiver(nil), path, sign("sha256", sha256.New, "other", body), body, 401},
		{"another body", receiver(nil), path, sign("sha256", sha256.New, token, "other"), body, 401},
		{"no signature", receiver(nil), path, "", body, 401},
		{"an unknown hash", receiver(nil), path, sign("md5", sha256.New, token, body), body, 401},
		{"no digits", receiver(nil), path, "sha256=xyz", body, 401},
		{"an empty MAC", receiver(nil), path, "sha256=", body, 401},
		{"an unknown path", receiver(nil), "/hook/abc", sign("sha256", sha256.New, token, body), body, 404},
		{"too large", receiver(nil), path, sign("sha256", sha256.New, token, body), strings.Repeat("x", maxHookBody+1), 413},
		{"suspended", receiver(func(r *notificationv1.Receiver) { r.Spec.Suspend = true }), path, sign("sha256", sha256.New, token, body), body, 404},
		{"of another type", receiver(func(r *notificationv1.Receiver) { r.Spec.Type = "harbor" }), path, sign("sha256", sha256.New, token, body), body, 404},
		{
			"a path that somebody else wrote", receiver(func(r *notificationv1.Receiver) { r.Status.WebhookPath = "/hook/forged" }),
			"/hook/forged", sign("sha256", sha256.New, token, body), body, 401,
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			p := newHookPlace(t, tc.receiver, tokenSecret(), gitRepository("fleet", "https://x/fleet", nil))
			if got := p.post(tc.path, tc.signature, tc.body); got != tc.status {
				t.Errorf("got %d, want %d", got, tc.status)
			}
			if refreshed := len(p.queued("git")) > 0; refreshed != (tc.status == 200) {
				t.Errorf("refreshed: %t", refreshed)
			}
		})
	}
}

// Each type of sender proves itself in its own way, and no other.
func TestHookTypes(t *testing.T) {
	body := `{"ref":"refs/heads/main"}`
	good := sign("sha256", sha256.New, token, body)
	for _, tc := range []struct {
		reason, kind string
		events       []string
		header       map[string]string
		status       int
		refreshed    bool
	}{
		{"the path is the proof", "generic", nil, nil, 200, true},
		{"GitHub signs", "github", nil, map[string]string{"X-Hub-Signature-256": good}, 200, true},
		{"GitHub of old signs", "github", nil, map[string]string{"X-Hub-Signature": sign("sha1", sha1.New, token, body)}, 200, true},
		{
			"the better signature counts", "github", nil,
			map[string]string{"X-Hub-Signature-256": "sha256=00", "X-Hub-Signature": sign("sha1", sha1.New, token, body)},
			401, false,
		},
		{"a forged signature", "github", nil, map[string]string{"X-Hub-Signature-256": sign("sha256", sha256.New, "other", body)}, 401, false},
		{"no signature", "github", []string{"push"}, map[string]string{"X-GitHub-Event": "push"}, 401, false},
		{"a signature of another sender", "github", nil, map[string]string{"X-Signature": good}, 401, false},
		{"an event that is asked for", "github", []string{"ping", "Push"}, map[string]string{"X-Hub-Signature-256": good, "X-GitHub-Event": "push"}, 200, true},
		{"an event that is not", "github", []string{"push"}, map[string]string{"X-Hub-Signature-256": good, "X-GitHub-Event": "issues"}, 200, false},
		{"GitLab knows the token", "gitlab", nil, map[string]string{"X-Gitlab-Token": token}, 200, true},
		{"GitLab does not", "gitlab", nil, map[string]string{"X-Gitlab-Token": "x"}, 401, false},
		{"no token", "gitlab", nil, nil, 401, false},
		{"an event of GitLab's", "gitlab", []string{"Push Hook"}, map[string]string{"X-Gitlab-Token": token, "X-Gitlab-Event": "Push Hook"}, 200, true},
		{"another event of GitLab's", "gitlab", []string{"Push Hook"}, map[string]string{"X-Gitlab-Token": token, "X-Gitlab-Event": "Issue Hook"}, 200, false},
		{"events mean nothing without a header for them", "generic-hmac", []string{"push"}, map[string]string{"X-Signature": good}, 200, true},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			p := newHookPlace(t, tokenSecret(), gitRepository("fleet", "https://x/fleet", nil), receiver(func(r *notificationv1.Receiver) {
				r.Spec.Type, r.Spec.Events = tc.kind, tc.events
			}))
			r := httptest.NewRequest(http.MethodPost, hookPath(token, "push", "apps"), strings.NewReader(body))
			for name, value := range tc.header {
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			p.Hooks.ServeHTTP(w, r)
			if refreshed := len(p.queued("git")) > 0; w.Code != tc.status || refreshed != tc.refreshed {
				t.Errorf("got %d, refreshed %t", w.Code, refreshed)
			}
		})
	}
}

// Beside Flux, its own hooks ask for reconciliations: ours only fetch.
func TestHookUnderObserve(t *testing.T) {
	p := newHookPlace(t, tokenSecret(), gitRepository("fleet", "https://x/fleet", nil), receiver(nil))
	p.env.Observe = true
	if got := p.post(hookPath(token, "push", "apps"), sign("sha256", sha256.New, token, "x"), "x"); got != 200 {
		t.Fatalf("got %d", got)
	}
	var r sourcev1.GitRepository
	if err := p.client.Get(t.Context(), fleet, &r); err != nil {
		t.Fatal(err)
	}
	if len(p.queued("git")) != 1 || len(r.Annotations) != 0 {
		t.Errorf("annotations: %v", r.Annotations)
	}
}

func TestHookMethod(t *testing.T) {
	p := newHookPlace(t)
	w := httptest.NewRecorder()
	p.Hooks.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/hook/abc", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: got %d", w.Code)
	}
}

func TestHookRefreshes(t *testing.T) {
	labelled := func(r *sourcev1.GitRepository) { r.Labels = map[string]string{"team": "a"} }
	ref := func(kind, name string, labels map[string]string) notificationv1.ReceiverResource {
		return notificationv1.ReceiverResource{CrossNamespaceObjectReference: notificationv1.CrossNamespaceObjectReference{Kind: kind, Name: name, MatchLabels: labels}}
	}
	other := gitRepository("fleet", "https://x/fleet", labelled)
	other.Namespace = "other"
	objects := func(resources ...notificationv1.ReceiverResource) []client.Object {
		return []client.Object{
			receiver(func(r *notificationv1.Receiver) { r.Spec.Resources = resources }), tokenSecret(), other,
			gitRepository("fleet", "https://x/fleet", labelled), gitRepository("tools", "https://x/tools", nil),
			gitRepository("old", "https://x/old", func(r *sourcev1.GitRepository) { labelled(r); r.Spec.Suspend = true }),
			&kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "web"}},
		}
	}
	for _, tc := range []struct {
		reason    string
		resources []notificationv1.ReceiverResource
		git, ks   []string
	}{
		{"one by name", []notificationv1.ReceiverResource{ref("GitRepository", "tools", nil)}, []string{"tools"}, []string{}},
		{"one that does not exist", []notificationv1.ReceiverResource{ref("GitRepository", "nope", nil)}, []string{}, []string{}},
		{"all of a namespace, but not those suspended", []notificationv1.ReceiverResource{ref("GitRepository", "*", nil)}, []string{"fleet", "tools"}, []string{}},
		{"by label", []notificationv1.ReceiverResource{ref("GitRepository", "*", map[string]string{"team": "a"})}, []string{"fleet"}, []string{}},
		{"a Kustomization", []notificationv1.ReceiverResource{ref("Kustomization", "web", nil)}, []string{}, []string{"web"}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			p := newHookPlace(t, objects(tc.resources...)...)
			if got := p.post(hookPath(token, "push", "apps"), sign("sha256", sha256.New, token, "x"), "x"); got != 200 {
				t.Fatalf("got %d", got)
			}
			if diff := cmp.Diff(tc.git, p.queued("git")); diff != "" {
				t.Errorf("GitRepositories (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.ks, p.queued("ks")); diff != "" {
				t.Errorf("Kustomizations (-want +got):\n%s", diff)
			}
			for _, name := range tc.git {
				var r sourcev1.GitRepository
				if err := p.client.Get(t.Context(), types.NamespacedName{Namespace: "apps", Name: name}, &r); err != nil {
					t.Fatal(err)
				}
				if got := r.Annotations[meta.ReconcileRequestAnnotation]; got != noon.Format(time.RFC3339Nano) {
					t.Errorf("%s: annotation %q", name, got)
				}
				if p.git.unheard(types.NamespacedName{Namespace: "apps", Name: name}, r.Annotations[meta.ReconcileRequestAnnotation]) {
					t.Errorf("%s would be fetched twice", name)
				}
			}
		})
	}
}

func TestRefresh(t *testing.T) {
	branch := func(b, commit string) func(*sourcev1.GitRepository) {
		return func(r *sourcev1.GitRepository) {
			r.Spec.Reference = &sourcev1.GitRepositoryRef{Branch: b, Commit: commit}
		}
	}
	p := newHookPlace(t,
		gitRepository("main", "https://git.example/team/fleet.git", branch("main", "")),
		gitRepository("main2", "http://GIT.example/team/fleet", branch("main", "")),
		gitRepository("master", "https://git.example/team/fleet", nil),
		gitRepository("pinned", "https://git.example/team/fleet", branch("main", "abc")),
		gitRepository("else", "https://git.example/team/other", branch("main", "")),
		gitRepository("tag", "https://git.example/team/fleet", func(r *sourcev1.GitRepository) {
			r.Spec.Reference = &sourcev1.GitRepositoryRef{SemVer: "1.x"}
		}),
	)
	for _, tc := range []struct {
		url, branch string
		want        []string
	}{
		{"git@git.example:team/fleet.git", "main", []string{"main", "main2", "tag"}},
		{"https://git.example/team/fleet/", "master", []string{"master", "tag"}},
		{"https://git.example/team/fleet", "", []string{"main", "main2", "master", "tag"}},
		{"https://git.example/team/none", "main", []string{}},
		{"://", "main", []string{}},
	} {
		p.Refresh(tc.url, tc.branch)
		if diff := cmp.Diff(tc.want, p.queued("git")); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tc.url, tc.branch, diff)
		}
	}
}

func TestCheckReceiver(t *testing.T) {
	set := func(change func(*notificationv1.ReceiverResource)) func(*notificationv1.Receiver) {
		return func(r *notificationv1.Receiver) { change(&r.Spec.Resources[0]) }
	}
	for _, tc := range []struct {
		reason string
		change func(*notificationv1.Receiver)
		kind   fault.Kind
		text   string
	}{
		{"fine", nil, fault.Internal, ""},
		{"a type", func(r *notificationv1.Receiver) { r.Spec.Type = "harbor" }, fault.Unsupported, "spec.type harbor is not supported yet"},
		{"a field", func(r *notificationv1.Receiver) { r.Spec.ResourceFilter = "true" }, fault.Unsupported, "spec.resourceFilter is not supported yet"},
		{"a field in a list", set(func(r *notificationv1.ReceiverResource) { r.Filter = "true" }), fault.Unsupported, "spec.resources[0].filter is not supported yet"},
		{"a kind", set(func(r *notificationv1.ReceiverResource) { r.Kind = "HelmRelease" }), fault.Unsupported, "spec.resources[0].kind HelmRelease is not supported yet"},
		{"a version", set(func(r *notificationv1.ReceiverResource) { r.APIVersion = "x/v1" }), fault.Unsupported, "spec.resources[0].apiVersion x/v1"},
		{"a namespace", set(func(r *notificationv1.ReceiverResource) { r.Namespace = "other" }), fault.Refused, "cross-namespace references have been blocked"},
		{"labels beside a name", set(func(r *notificationv1.ReceiverResource) { r.MatchLabels = map[string]string{"a": "b"} }), fault.Invalid, "matchLabels"},
		{"no secret", func(r *notificationv1.Receiver) { r.Spec.SecretRef = nil }, fault.Invalid, "spec.secretRef"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			r := receiver(tc.change)
			spec, err := asMap(&r.Spec)
			if err != nil {
				t.Fatal(err)
			}
			err = checkReceiver(&unstructured.Unstructured{Object: map[string]any{"spec": spec}}, r)
			if (err == nil) != (tc.text == "") || err != nil && (fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text)) {
				t.Errorf("got %v, want %s: %s", err, tc.kind, tc.text)
			}
		})
	}
}

func TestReceived(t *testing.T) {
	r := receiver(nil)
	r.Generation = 2
	r.Status = received(r, token, nil, noon)
	sum := sha256.Sum256([]byte(token + "push" + "apps"))
	if want := fmt.Sprintf("/hook/%x", sum); r.Status.WebhookPath != want || r.Status.ObservedGeneration != 2 {
		t.Errorf("got %+v, want path %s", r.Status, want)
	}
	if diff := cmp.Diff(map[string]string{"Ready": "True Succeeded"}, kinds(r.Status.Conditions)); diff != "" {
		t.Errorf("ready (-want +got):\n%s", diff)
	}
	stalled := received(r, "", &receiverProblem{err: fault.New(fault.Unsupported, "spec.type github is not supported yet"), stalled: true}, noon)
	if diff := cmp.Diff(map[string]string{"Ready": "False UnsupportedField", "Stalled": "True UnsupportedField"}, kinds(stalled.Conditions)); diff != "" {
		t.Errorf("stalled (-want +got):\n%s", diff)
	}
	if stalled.WebhookPath != "" {
		t.Error("it still says where it listens")
	}
	waiting := received(r, "", &receiverProblem{err: fault.New(fault.NotFound, "Secret apps/token does not exist")}, noon)
	if diff := cmp.Diff(map[string]string{"Ready": "False TokenNotFound", "Reconciling": "True ProgressingWithRetry"}, kinds(waiting.Conditions)); diff != "" {
		t.Errorf("no token (-want +got):\n%s", diff)
	}
}
