package cel_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// caseLabel is on the objects of a case, and in the selectors of its policies, so that
// all cases can be in one cluster at once.
const caseLabel = "holdfast.test/case"

// TestCluster puts every case before a real API server: the same policies, bindings and
// parameters, and the same objects as dry runs of what Holdfast sends. Its verdict and
// message must be among what was found here, and its silence must be ours.
func TestCluster(t *testing.T) {
	c := &court{cluster: harness.Shared(t), t: t, clients: map[string]dynamic.Interface{}}
	var all []*trial
	for _, s := range stories(t) {
		if s.offline != "" {
			continue
		}
		s.confine()
		flaws, found, asked := s.judge(t)
		all = append(all, &trial{story: s, flaws: flaws, found: found, asked: asked})
	}
	for _, tr := range all {
		if len(tr.flaws) == 0 {
			c.prepare(tr)
		}
	}
	for _, tr := range all {
		if len(tr.flaws) == 0 {
			c.install(tr.manifests(t, true))
		}
	}
	c.awaitPolicies()
	for _, tr := range all {
		t.Run(tr.name, func(t *testing.T) {
			if len(tr.flaws) > 0 {
				c.refusesPolicies(t, tr)
				return
			}
			for i := range tr.asked.Subjects {
				c.compare(t, tr, i)
			}
		})
	}
}

// trial is one case and what was found in it here.
type trial struct {
	story

	flaws []policy.Flaw
	found policy.Findings
	asked *policy.Case
}

// confine puts the label of the case on its objects and into its policies' selectors.
func (s *story) confine() {
	for _, o := range slices.Concat(s.objects, s.live) {
		u := unstructured.Unstructured{Object: o}
		mark(&u, s.name)
		if path := policy.TemplatePath(u.GroupVersionKind().Group, u.GetKind()); path != nil {
			path = append(slices.Clone(path), "metadata", "labels", caseLabel)
			_ = unstructured.SetNestedField(o, s.name, path...) // the cases have templates
		}
	}
	if strings.HasPrefix(s.want, "flaw") {
		return
	}
	for i, d := range s.documents {
		var parts []string
		for doc := range strings.SplitSeq("\n"+string(d.Content), "\n---") {
			var o map[string]any
			if yaml.Unmarshal([]byte(doc), &o) != nil || o == nil {
				continue
			}
			if o["kind"] == "ValidatingAdmissionPolicy" {
				_ = unstructured.SetNestedField(o, s.name, "spec", "matchConstraints", "objectSelector", "matchLabels", caseLabel)
			}
			text, err := yaml.Marshal(o)
			if err == nil {
				parts = append(parts, string(text))
			}
		}
		s.documents[i].Content = []byte(strings.Join(parts, "---\n"))
	}
}

func mark(u *unstructured.Unstructured, name string) {
	labels := maps.Clone(u.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[caseLabel] = name
	u.SetLabels(labels)
}

// manifests are the objects in the documents: the policies and bindings, or the others.
func (s *story) manifests(tb testing.TB, policies bool) []map[string]any {
	tb.Helper()
	var all []map[string]any
	for _, d := range s.documents {
		for _, o := range objectsOf(tb, string(d.Content)) {
			if strings.HasPrefix(fmt.Sprint(o["apiVersion"]), "admissionregistration") == policies {
				all = append(all, o)
			}
		}
	}
	return all
}

// court is the cluster that judges.
type court struct {
	cluster *harness.Cluster
	t       *testing.T
	clients map[string]dynamic.Interface

	mu       sync.Mutex
	warnings []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (c *court) HandleWarningHeader(_ int, _, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warnings = append(c.warnings, text)
}

// as returns a client of an account; "" is an administrator.
func (c *court) as(account string) dynamic.Interface {
	if client, ok := c.clients[account]; ok {
		return client
	}
	config := c.cluster.Config()
	config.WarningHandler = c
	if account != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: account}
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		c.t.Fatal(err)
	}
	c.clients[account] = client
	return client
}

func (c *court) of(account string, o *unstructured.Unstructured) dynamic.ResourceInterface {
	kind, ok := schema.Builtin().Lookup(o.GroupVersionKind())
	if !ok {
		c.t.Fatalf("no built-in kind: %s", o.GroupVersionKind())
	}
	r := c.as(account).Resource(kind.GVR())
	if kind.Namespaced {
		return r.Namespace(o.GetNamespace())
	}
	return r
}

// prepare makes the namespaces, parameters and earlier objects of a case.
func (c *court) prepare(tr *trial) {
	for name, labels := range tr.namespaces {
		ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
		ns.SetName(name)
		ns.SetLabels(labels)
		c.install([]map[string]any{ns.Object})
	}
	for name := range tr.namespaces {
		c.cluster.Await(c.t, harness.ServiceAccounts, name, "default", "to exist", harness.Exists)
	}
	c.install(tr.manifests(c.t, false))
	c.install(tr.live)
	if tr.account == "" {
		return
	}
	binding, err := yaml.Marshal(&rbacv1.ClusterRoleBinding{
		TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding"}, ObjectMeta: metav1.ObjectMeta{Name: tr.name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: tr.account}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.install(objectsOf(c.t, string(binding)))
}

// install makes objects, and removes them when the test ends.
func (c *court) install(objects []map[string]any) {
	for _, content := range objects {
		o := &unstructured.Unstructured{Object: content}
		if _, err := c.of("", o).Create(c.t.Context(), o, metav1.CreateOptions{FieldManager: "holdfast"}); err != nil {
			c.t.Fatalf("%s: %v", o.GetName(), err)
		}
		c.t.Cleanup(func() {
			err := c.of("", o).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				c.t.Errorf("delete %s: %v", o.GetName(), err)
			}
		})
	}
}

const markerPolicy = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: marker}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
    objectSelector: {matchLabels: {holdfast.test/case: marker}}
  validations: [{expression: "false"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: marker}
spec: {policyName: marker, validationActions: [Deny]}
`

// awaitPolicies returns when the API server judges by all that was installed: by a
// policy that was made after the others, and so is seen after them.
func (c *court) awaitPolicies() {
	c.install(objectsOf(c.t, markerPolicy))
	probe := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
	probe.SetName("marker")
	probe.SetNamespace("default")
	mark(probe, "marker")
	limit := time.After(time.Minute)
	for {
		_, err := c.of("", probe).Create(c.t.Context(), probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return
		}
		select {
		case <-limit:
			c.t.Fatal("the API server does not judge by the policies")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// refusesPolicies demands that the API server does not store what has a flaw here, and
// only that.
func (c *court) refusesPolicies(t *testing.T, tr *trial) {
	t.Helper()
	flawed := map[string]bool{}
	for _, f := range tr.flaws {
		if !strings.Contains(f.Message, "in effect nowhere") {
			flawed[f.Policy] = true
		}
	}
	policies := c.as("").Resource(kschema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"})
	for _, content := range tr.manifests(t, true) {
		o := &unstructured.Unstructured{Object: content}
		to := c.of("", o)
		if o.GetKind() == "ValidatingAdmissionPolicy" {
			to = policies
		}
		_, err := to.Create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		if name := o.GetName(); o.GetKind() == "ValidatingAdmissionPolicy" && flawed[name] != (err != nil) || o.GetKind() != "ValidatingAdmissionPolicy" && err != nil && !flawed[name] {
			t.Errorf("%s %s: flaws %v, but the API server says: %v", o.GetKind(), name, tr.flaws, err)
		}
	}
}

var denied = regexp.MustCompile(`(?s)ValidatingAdmissionPolicy '([^']*)'(?: with binding '([^']*)')? denied request: (.*)`)

// compare puts one subject before the API server.
func (c *court) compare(t *testing.T, tr *trial, i int) {
	t.Helper()
	o := &unstructured.Unstructured{Object: tr.asked.Subjects[i].Object}
	text, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	c.warnings = nil
	force := true
	_, err = c.of(tr.account, o).Patch(t.Context(), o.GetName(), types.ApplyPatchType, text,
		metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: "holdfast", Force: &force})
	var refused, warned []string
	for _, f := range tr.found.List {
		line := fmt.Sprintf("%s/%s: %s", f.Policy, f.Rule, f.Message)
		switch {
		case f.Subject == i && f.Warn:
			warned = append(warned, line)
		case f.Subject == i:
			refused = append(refused, line)
		}
	}
	c.sameRefusal(t, o, err, refused)
	for _, w := range c.warnings {
		m := warning.FindStringSubmatch(w)
		if m != nil && !slices.Contains(warned, fmt.Sprintf("%s/%s: %s", m[1], m[2], m[3])) {
			t.Errorf("%s: the API server warns %q, here: %q", o.GetName(), w, warned)
		}
	}
	if n := len(c.warnings); tr.name == "warn" && n != 1 || tr.name == "typed" && n != len(warned) {
		t.Errorf("%s: the API server warns of %q", o.GetName(), c.warnings)
	}
}

var warning = regexp.MustCompile(`^Validation failed for ValidatingAdmissionPolicy '([^']*)' with binding '([^']*)': (.*)$`)

func (c *court) sameRefusal(t *testing.T, o *unstructured.Unstructured, err error, refused []string) {
	t.Helper()
	var status *apierrors.StatusError
	switch {
	case err == nil && len(refused) > 0:
		t.Errorf("%s: the API server admits it; refused here: %q", o.GetName(), refused)
	case err == nil:
	case !errors.As(err, &status) || denied.FindStringSubmatch(status.ErrStatus.Message) == nil:
		t.Errorf("%s: %v", o.GetName(), err)
	default:
		m := denied.FindStringSubmatch(status.ErrStatus.Message)
		theirs := fmt.Sprintf("%s/%s: %s", m[1], m[2], m[3])
		if !slices.ContainsFunc(refused, func(ours string) bool { return strings.HasPrefix(ours, theirs) }) {
			t.Errorf("%s: the API server refuses it by %q, here: %q", o.GetName(), theirs, refused)
		}
	}
}
