package own

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/go-logr/logr"
	"github.com/sigstore/sigstore-go/pkg/root"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard())
	ctrl.SetLogger(logr.Discard())
	harness.Main(m)
}

var (
	trustpolicies = api.GroupVersion.WithResource("trustpolicies")
	definitions   = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	accounts      = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// rig is the dialect on a real API server.
type rig struct {
	cluster *harness.Cluster
	ns      string
	own     *Own
	changed chan struct{}
	entries chan audit.Entry
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{cluster: harness.Shared(t), changed: make(chan struct{}, 100), entries: make(chan audit.Entry, 100)}
	install(t, r.cluster)
	r.ns = r.cluster.Namespace(t)
	return r
}

// install defines TrustPolicies.
func install(t *testing.T, c *harness.Cluster) {
	t.Helper()
	all, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range all {
		if !strings.HasSuffix(crd.GetName(), ".holdfast.dev") {
			continue
		}
		if _, err := c.Dynamic().Resource(definitions).Apply(t.Context(), crd.GetName(), crd, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			t.Fatalf("the API server refuses the definition: %v", err)
		}
		c.Await(t, definitions, "", crd.GetName(), "to be established", func(o *unstructured.Unstructured) bool {
			return condition(o, "Established").status == "True"
		})
	}
}

type stand struct{ status, reason, message string }

func condition(o *unstructured.Unstructured, kind string) stand {
	if o == nil {
		return stand{}
	}
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range list {
		m, _ := c.(map[string]any)
		if m["type"] == kind {
			text := func(k string) string { s, _ := m[k].(string); return s }
			return stand{text("status"), text("reason"), text("message")}
		}
	}
	return stand{}
}

// start runs the dialect until the test ends.
func (r *rig) start(t *testing.T) {
	t.Helper()
	unique := true
	mgr, err := ctrl.NewManager(r.cluster.Config(), ctrl.Options{
		Scheme: runtime.NewScheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &unique},
	})
	if err != nil {
		t.Fatal(err)
	}
	env := &dialect.Env{Client: mgr.GetClient(), Clock: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	r.own, err = Setup(mgr, env, Options{
		Changed: func() { r.changed <- struct{}{} },
		Record:  func(e audit.Entry) { r.entries <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.own.Demands(trust.Subject{Kind: "Kustomization", Namespace: r.ns, Name: "early"}); fault.KindOf(err) != fault.Waiting {
		t.Errorf("before the policies are known, everything waits; got %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	if err := r.own.Start(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the manager ended with %v", err)
		}
	})
}

// apply applies an object as somebody.
func (r *rig) apply(t *testing.T, who string, u *unstructured.Unstructured) error {
	t.Helper()
	resource := map[string]schema.GroupVersionResource{"TrustPolicy": trustpolicies, "ConfigMap": harness.ConfigMaps, "Secret": accounts, "Namespace": harness.Namespaces}[u.GetKind()]
	_, err := r.cluster.Dynamic().Resource(resource).Namespace(u.GetNamespace()).
		Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: who, Force: true})
	if err == nil && u.GetKind() == "TrustPolicy" {
		t.Cleanup(func() { r.remove(u.GetName()) })
	}
	return err
}

func (r *rig) remove(name string) {
	err := r.cluster.Dynamic().Resource(trustpolicies).Delete(context.Background(), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		panic(err)
	}
}

func (r *rig) policy(t *testing.T, who, name, spec string) {
	t.Helper()
	u := written(t, spec)
	u.SetName(name)
	if err := r.apply(t, who, u); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) keys(t *testing.T, kind, name, key, value string) {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind, "metadata": map[string]any{"namespace": r.ns, "name": name}}}
	field := "data"
	if kind == "Secret" {
		field = "stringData"
	}
	u.Object[field] = map[string]any{key: value}
	if err := r.apply(t, "keeper", u); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) await(t *testing.T, name, aim string, wanted func(o *unstructured.Unstructured) bool) *unstructured.Unstructured {
	t.Helper()
	return r.cluster.Await(t, trustpolicies, "", name, aim, func(o *unstructured.Unstructured) bool { return o != nil && wanted(o) })
}

// told waits for the next entry of a policy.
func (r *rig) told(t *testing.T) audit.Entry {
	t.Helper()
	select {
	case e := <-r.entries:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("nothing is recorded")
		return audit.Entry{}
	}
}

func (r *rig) asked(t *testing.T, why string) {
	t.Helper()
	select {
	case <-r.changed:
	case <-time.After(30 * time.Second):
		t.Fatalf("no pass is asked for: %s", why)
	}
}

func (r *rig) demands(t *testing.T, s trust.Subject) []string {
	t.Helper()
	d, err := r.own.Demands(s)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range d.Policies {
		name := p.Name
		if p.Broken != "" {
			name += " (broken)"
		}
		names = append(names, name)
	}
	return names
}

func generation(n int64) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool {
		seen, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration")
		return seen == n
	}
}

// A policy's life: its key is missing, comes, changes; its selection changes; it is deleted.
func TestLivePolicy(t *testing.T) {
	r := newRig(t)
	team := trust.Subject{Kind: "Kustomization", Namespace: r.ns, Name: "apps"}
	other := trust.Subject{Kind: "Kustomization", Namespace: "other", Name: "apps"}
	spec := func(rest string) string {
		return `{select: {namespaces: [` + r.ns + `]}, commits: {authorities: [{name: me, ssh: {configMapRef: {namespace: ` + r.ns + `, name: keys, key: signers}}}]}` + rest + `}`
	}
	r.policy(t, "kubectl-edit", "live", spec(""))
	r.start(t)
	r.broken(t, team, other)

	r.keys(t, "ConfigMap", "keys", "signers", sshKey(t))
	r.asked(t, "the key has come")
	if e := r.told(t); len(e.Who) != 1 || e.Who[0].Name != "keeper" || e.Who[0].Proven || !strings.Contains(e.Reason, "the content of ConfigMap "+r.ns+"/keys") {
		t.Errorf("whoever changes a key changes what is demanded; got %+v", e)
	}
	r.await(t, "live", "to be ready, and count one delivery", func(o *unstructured.Unstructured) bool {
		n, _, _ := unstructured.NestedInt64(o.Object, "status", "selected")
		return condition(o, "Ready").status == "True" && condition(o, "Broken").status == "" && n == 1
	})
	first, err := r.own.Demands(team)
	if err != nil || len(first.Policies) != 1 || first.Policies[0].Broken != "" {
		t.Fatalf("with its key the policy can be judged by: %+v, %v", first, err)
	}

	for len(r.changed) > 0 {
		<-r.changed
	}
	// What makes no difference asks for nothing: the next entry is about what does.
	labels := []byte(`{"metadata":{"labels":{"a":"b"}}}`)
	for resource, ns := range map[schema.GroupVersionResource]string{trustpolicies: "", harness.ConfigMaps: r.ns} {
		name := map[string]string{"": "live", r.ns: "keys"}[ns]
		if _, err := r.cluster.Dynamic().Resource(resource).Namespace(ns).Patch(t.Context(), name, types.MergePatchType, labels, metav1.PatchOptions{FieldManager: "labeller"}); err != nil {
			t.Fatal(err)
		}
	}
	r.keys(t, "ConfigMap", "keys", "signers", sshKey(t))
	r.asked(t, "the key is another")
	if e := r.told(t); len(e.Who) != 1 || e.Who[0].Name != "keeper" {
		t.Errorf("a label is no change of what is demanded; got %+v", e)
	}
	if n := len(r.changed); n != 0 {
		t.Errorf("%d passes too many are asked for", n)
	}
	second, err := r.own.Demands(team)
	if err != nil || second.Version == first.Version {
		t.Errorf("another key is another version: %s, %v", second.Version, err)
	}

	r.policy(t, "kubectl-edit", "live", `{mode: audit, select: {namespaces: [other]}, strict: true}`)
	r.asked(t, "the selection is another")
	if e := r.told(t); len(e.Who) != 1 || e.Who[0].Name != "kubectl-edit" || !strings.Contains(e.Reason, "changed: generation 2, audit, demands") {
		t.Errorf("got %+v", e)
	}
	if a, b := r.demands(t, team), r.demands(t, other); a != nil || len(b) != 1 {
		t.Errorf("the new selection counts at once: %v, %v", a, b)
	}
	r.counts(t, other)

	r.remove("live")
	r.asked(t, "the policy is gone")
	if e := r.told(t); len(e.Who) != 0 || !strings.HasPrefix(e.Reason, "deleted") {
		t.Errorf("nobody is named who deleted it, because nobody knows; got %+v", e)
	}
	if got := r.demands(t, other); got != nil {
		t.Errorf("a policy that is gone demands nothing; got %v", got)
	}
	if n := len(r.entries); n != 0 {
		t.Errorf("%d entries too many", n)
	}
}

// counts has the policy tell of a delivery that it refuses, and of one that it would.
func (r *rig) counts(t *testing.T, s trust.Subject) {
	t.Helper()
	live := []string{"live"}
	for want, j := range map[[2]int64]judgement{{1, 0}: {refused: live}, {0, 1}: {unproven: live}} {
		r.own.Judged(s.Kind, s.Namespace, s.Name, j.refused, j.unproven)
		r.await(t, "live", fmt.Sprint("to count refused and unproven as ", want), func(o *unstructured.Unstructured) bool {
			refused, _, _ := unstructured.NestedInt64(o.Object, "status", "refused")
			unproven, told, _ := unstructured.NestedInt64(o.Object, "status", "unproven")
			return told && want == [2]int64{refused, unproven} && generation(2)(o) && condition(o, "Ready").reason == ReasonAudited
		})
	}
}

// broken is the first part of a policy's life: its key is not there.
func (r *rig) broken(t *testing.T, team, other trust.Subject) {
	t.Helper()
	if e := r.told(t); e.Action != audit.Policy || e.Delivery != "TrustPolicy//live" || !strings.Contains(e.Reason, "in force at the start: generation 1, enforce, broken") {
		t.Errorf("what is in force is recorded when the process begins; got %+v", e)
	}
	r.asked(t, "who has asked before was told to wait")
	if got := r.demands(t, team); !slices.Equal(got, []string{"live (broken)"}) {
		t.Errorf("a policy without its key still selects, and is broken; got %v", got)
	}
	if got := r.demands(t, other); got != nil {
		t.Errorf("what is not selected must prove nothing; got %v", got)
	}
	broken := r.await(t, "live", "to be broken", func(o *unstructured.Unstructured) bool { return condition(o, "Broken").status == "True" })
	if c := condition(broken, "Ready"); c.status != "False" || c.reason != ReasonMissing || !strings.Contains(c.message, "ConfigMap "+r.ns+"/keys does not exist; create it") {
		t.Errorf("the condition says what to do; got %+v", c)
	}
}

// Policies add up, and a field that nobody knows makes a policy broken, not weaker.
func TestLiveStrict(t *testing.T) {
	r := newRig(t)
	r.keys(t, "Secret", "keys", "signers", sshKey(t))
	r.policy(t, "test", "known", `{select: {namespaces: [`+r.ns+`]}, commits: {authorities: [{name: me, ssh: {secretRef: {namespace: `+r.ns+`, name: keys, key: signers}}}]}}`)
	r.policy(t, "test", "slip", `{select: {namespaces: [`+r.ns+`]}, strict: true, commits: {authorMatch: true, authorities: [{name: me, ssh: {inline: `+quoted(sshKey(t))+`}}]}}`)
	r.start(t)
	if got := r.demands(t, trust.Subject{Kind: "Application", Namespace: r.ns, Name: "a"}); !slices.Equal(got, []string{"known", "slip (broken)"}) {
		t.Errorf("got %v", got)
	}
	o := r.await(t, "slip", "to be broken", func(o *unstructured.Unstructured) bool { return condition(o, "Broken").status == "True" })
	if c := condition(o, "Broken"); c.reason != ReasonUnknown || !strings.Contains(c.message, `"spec.commits.authorMatch"`) {
		t.Errorf("the field is named; got %+v", c)
	}
}

// The API server refuses what is wrong by itself.
func TestLiveValidation(t *testing.T) {
	r := newRig(t)
	key := quoted(sshKey(t))
	for name, tt := range map[string]struct{ reason, spec, want string }{
		"nothing":      {"a policy that demands nothing is a mistake", `{mode: enforce}`, "demands nothing"},
		"mode":         {"", `{mode: warn, strict: true}`, "Unsupported value"},
		"two kinds":    {"", `{commits: {authorities: [{name: a, ssh: {inline: k}, gpg: {inline: k}}]}}`, "exactly one of gpg, ssh"},
		"no kind":      {"", `{commits: {authorities: [{name: a}]}}`, "exactly one of gpg, ssh"},
		"two places":   {"", `{commits: {authorities: [{name: a, ssh: {inline: k, secretRef: {namespace: a, name: b, key: c}}}]}}`, "exactly one of inline"},
		"nobody":       {"", `{commits: {authorities: []}}`, "should have at least 1 items"},
		"a name twice": {"", `{commits: {authorities: [{name: a, ssh: {inline: ` + key + `}}, {name: a, ssh: {inline: ` + key + `}}]}}`, "Duplicate value"},
		"line":         {"", `{commits: {line: all, authorities: [{name: a, ssh: {inline: k}}]}}`, "line is for verify: range"},
		"commit":       {"", `{commits: {verify: range, from: [{repository: r, commit: main}], authorities: [{name: a, ssh: {inline: k}}]}}`, "should match"},
		"attestation":  {"", `{images: {sbom: {}}}`, "nobody is named"},
		"issuer":       {"", `{images: {authorities: [{name: a, sigstore: {trustedRoot: {inline: r}, identities: [{subject: s}]}}]}}`, "set issuer or issuerRegexp"},
		"age":          {"", `{images: {scan: {below: HIGH, maxAge: 7 days, authorities: [{name: a, key: {inline: k}}]}}}`, "should match"},
	} {
		u := written(t, tt.spec)
		u.SetName("invalid")
		_, err := r.cluster.Dynamic().Resource(trustpolicies).Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{"All"}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %s: want %q, got %v", name, tt.reason, tt.want, err)
		}
	}
}

// The account that install makes may write the status of policies, but no policy.
func TestPrivileges(t *testing.T) {
	verbs := map[string][]string{}
	manifests, err := deploy.Manifests(deploy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifests {
		rules, _, _ := unstructured.NestedSlice(m.Object, "rules")
		for _, rule := range rules {
			m, _ := rule.(map[string]any)
			groups, _, _ := unstructured.NestedStringSlice(m, "apiGroups")
			resources, _, _ := unstructured.NestedStringSlice(m, "resources")
			may, _, _ := unstructured.NestedStringSlice(m, "verbs")
			for _, resource := range resources {
				if slices.Contains(groups, "holdfast.dev") {
					verbs[resource] = append(verbs[resource], may...)
				}
			}
		}
	}
	for _, kind := range []string{"trustpolicies", "policysets"} {
		if want := []string{"patch"}; !slices.Equal(verbs[kind+"/status"], want) || verbs[kind] != nil {
			t.Errorf("the account may do more than tell how a policy stands: %v", verbs)
		}
	}
}

// What the user's page shows is applied as it stands, with keys of the kind that it
// speaks of, and each policy can be judged by.
func TestExamples(t *testing.T) {
	r := newRig(t)
	const ns = "holdfast-system"
	namespace := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": ns}}}
	if err := r.apply(t, "test", namespace); err != nil {
		t.Fatal(err)
	}
	_, public, _ := pair(t)
	r.ns = ns
	gpg := gpgKey(t)
	r.keys(t, "ConfigMap", "engineers", "keys.asc", gpg)
	r.keys(t, "ConfigMap", "forge", "web-flow.asc", gpg)
	r.keys(t, "ConfigMap", "release", "cosign.pub", public)
	r.keys(t, "ConfigMap", "sigstore", "trusted_root.json", trustedRoot(t))
	r.keys(t, "Secret", "registry", ".dockerconfigjson", `{"auths": {"registry.example.com": {"username": "u", "password": "p"}}}`)
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "trust.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, block := range bytes.Split(page, []byte("\n```yaml\n"))[1:] {
		text, _, _ := bytes.Cut(block, []byte("\n```"))
		for dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
			u := &unstructured.Unstructured{}
			if err := dec.Decode(&u.Object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if err := r.apply(t, "reader", u); err != nil {
				t.Errorf("%s %s: %v", u.GetKind(), u.GetName(), err)
			}
			if u.GetKind() == "TrustPolicy" {
				names = append(names, u.GetName())
			}
		}
	}
	if want := []string{"homelab", "production", "signed-images"}; !slices.Equal(names, want) {
		t.Fatalf("the page shows %v, want %v", names, want)
	}
	r.start(t)
	for _, name := range names {
		o := r.await(t, name, "to be looked at", func(o *unstructured.Unstructured) bool { return condition(o, "Ready").status != "" })
		if c := condition(o, "Ready"); c.status != "True" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	subject := trust.Subject{Kind: "Application", Namespace: "argocd", Name: "web", Repository: "git@git.example.com:platform/web.git", Labels: map[string]string{"tier": "production"}}
	if got := r.demands(t, subject); !slices.Equal(got, names) {
		t.Errorf("all three are for it; got %v", got)
	}
}

// gpgKey is a public key, armoured, as gpg --export writes it.
func gpgKey(t *testing.T) string {
	t.Helper()
	e, err := openpgp.NewEntity("Me", "", "me@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// trustedRoot is that of a sigstore of the test's own.
func trustedRoot(t *testing.T) string {
	t.Helper()
	certificate, public, _ := pair(t)
	block, _ := pem.Decode([]byte(certificate))
	issuer, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode([]byte(public))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now().Add(-time.Hour)
	logs := map[string]*root.TransparencyLog{"00": {
		BaseURL: "https://log.example.com", ID: []byte{0}, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		PublicKey: key, ValidityPeriodStart: start,
	}}
	authority := &root.FulcioCertificateAuthority{Root: issuer, ValidityPeriodStart: start, URI: "https://fulcio.example.com"}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{authority}, logs, nil, logs)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What real tools write is taken.
func TestKeysOfTools(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "id")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@example.com", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	line := "me@example.com namespaces=\"git\",valid-after=\"20260101\" " + string(public)
	spec := fmt.Sprintf(`{commits: {authorities: [{name: me, ssh: {inline: %s}}]}}`, quoted("# people\n\n"+line))
	if got := Compile(written(t, spec), holding(nil)).Policy.Broken; got != "" {
		t.Error(got)
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	spec = fmt.Sprintf(`{commits: {authorities: [{name: me, ssh: {inline: %s}}]}}`, quoted(string(private)))
	if got := Compile(written(t, spec), holding(nil)).Policy.Broken; !strings.Contains(got, "private key") {
		t.Errorf("a private key is refused as one; got %q", got)
	}
}
