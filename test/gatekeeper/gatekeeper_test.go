package gatekeeper

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/apis"
	constraint "github.com/open-policy-agent/frameworks/constraint/pkg/client"
	driver "github.com/open-policy-agent/frameworks/constraint/pkg/client/drivers/rego"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/reviews"
	"github.com/open-policy-agent/frameworks/constraint/pkg/core/templates"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/mutation/types"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/target"
	"golang.org/x/tools/txtar"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// webhook is the place where Gatekeeper's webhook enforces.
const webhook = "validation.gatekeeper.sh"

// apart are the cases in which Holdfast differs on purpose, each with the reason.
var apart = map[string]string{
	"scoped_audit": "what the webhook does not enforce is a warning, not nothing",
}

// generated is a finding about a Pod that a controller would make: nobody asks Gatekeeper
// about those here.
var generated = regexp.MustCompile(`\(the pod of \w+\)$`)

// TestSameVerdicts: the findings in want are those of Gatekeeper's library.
func TestSameVerdicts(t *testing.T) {
	files, err := filepath.Glob("../../internal/policy/rego/testdata/gatekeeper/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d cases: %v", len(files), err)
	}
	compared := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, ok := wanted(archive)
		if !ok || apart[name] != "" {
			continue
		}
		compared++
		t.Run(name, func(t *testing.T) {
			got := judge(t, archive)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\nwant of Holdfast, Gatekeeper:\n%s", archive.Comment, diff)
			}
		})
	}
	t.Logf("%d cases compared", compared)
	if compared < 20 {
		t.Errorf("only %d cases compared", compared)
	}
}

// wanted returns the findings of a case, without file and line; false where there is a
// flaw: Gatekeeper refuses those objects elsewhere, or not at all.
func wanted(archive *txtar.Archive) ([]string, bool) {
	var all []string
	for line := range strings.Lines(string(archive.Files[len(archive.Files)-1].Data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "flaw ") {
			return nil, false
		}
		fields := strings.SplitN(line, " ", 5) // deny, rule, object, place, message
		if !generated.MatchString(line) {
			all = append(all, strings.Join([]string{fields[0], fields[1], fields[2], fields[4]}, " "))
		}
	}
	slices.Sort(all)
	return all, true
}

// judge has Gatekeeper review the objects of a case, one after the other.
func judge(t *testing.T, archive *txtar.Archive) []string {
	t.Helper()
	ctx := t.Context()
	client := newClient(t)
	var objects, live, constraints []*unstructured.Unstructured
	for _, f := range archive.Files {
		switch f.Name {
		case "want":
		case "objects.yaml":
			objects = read(t, f.Data)
		case "live.yaml":
			live = read(t, f.Data)
		default:
			for _, u := range read(t, f.Data) {
				if u.GetKind() == "ConstraintTemplate" {
					add(t, client, u)
				} else {
					constraints = append(constraints, u)
				}
			}
		}
	}
	for _, u := range constraints {
		if _, err := client.AddConstraint(ctx, complete(t, client, u)); err != nil {
			t.Fatal(err)
		}
	}
	namespaces := map[string]*corev1.Namespace{}
	for _, u := range objects {
		if _, err := client.AddData(ctx, u); err != nil {
			t.Fatal(err)
		}
		if u.GetKind() == "Namespace" {
			namespaces[u.GetName()] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: u.GetName(), Labels: u.GetLabels()}}
		}
	}
	var all []string
	for _, u := range objects {
		all = append(all, review(ctx, t, client, u, old(u, live), namespaces)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func newClient(t *testing.T) *constraint.Client {
	t.Helper()
	d, err := driver.New()
	if err != nil {
		t.Fatal(err)
	}
	client, err := constraint.NewClient(constraint.Targets(&target.K8sValidationTarget{}), constraint.Driver(d), constraint.EnforcementPoints(webhook))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// add converts a template as the API server and Gatekeeper do.
func add(t *testing.T, client *constraint.Client, u *unstructured.Unstructured) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := apis.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	versioned, err := scheme.New(u.GroupVersionKind())
	if err != nil {
		t.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, versioned); err != nil {
		t.Fatal(err)
	}
	scheme.Default(versioned)
	var template templates.ConstraintTemplate
	if err := scheme.Convert(versioned, &template, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AddTemplate(t.Context(), &template); err != nil {
		t.Fatal(err)
	}
}

// complete fills in the defaults of the template's schema at the top of the parameters,
// which the API server does.
func complete(t *testing.T, client *constraint.Client, u *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	template, err := client.GetTemplate(&templates.ConstraintTemplate{ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(u.GetKind())}})
	if err != nil {
		t.Fatal(err)
	}
	v := template.Spec.CRD.Spec.Validation
	if v == nil || v.OpenAPIV3Schema == nil {
		return u
	}
	for name, property := range v.OpenAPIV3Schema.Properties {
		if _, ok, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "parameters", name); ok || property.Default == nil {
			continue
		}
		text, err := json.Marshal(property.Default)
		if err != nil {
			t.Fatal(err)
		}
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		if err := unstructured.SetNestedField(u.Object, value, "spec", "parameters", name); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func old(u *unstructured.Unstructured, live []*unstructured.Unstructured) *unstructured.Unstructured {
	for _, l := range live {
		if l.GetKind() == u.GetKind() && l.GetNamespace() == u.GetNamespace() && l.GetName() == u.GetName() {
			return l
		}
	}
	return nil
}

// review asks about one object, as Gatekeeper's webhook does.
func review(ctx context.Context, t *testing.T, client *constraint.Client, u, old *unstructured.Unstructured, namespaces map[string]*corev1.Namespace) []string {
	t.Helper()
	gvk := u.GroupVersionKind()
	request := &admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}, Operation: admissionv1.Create,
		Name: u.GetName(), Namespace: u.GetNamespace(), Object: raw(t, u),
	}
	if old != nil {
		request.Operation, request.OldObject = admissionv1.Update, raw(t, old)
	}
	responses, err := client.Review(ctx, &target.AugmentedReview{
		AdmissionRequest: request, Namespace: namespaces[u.GetNamespace()], Source: types.SourceTypeOriginal, IsAdmission: true,
	}, reviews.EnforcementPoint(webhook))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range responses.Results() {
		word := "warn"
		if r.EnforcementAction == "deny" || slices.Contains(r.ScopedEnforcementActions, "deny") {
			word = "deny"
		}
		all = append(all, fmt.Sprintf("%s %s/%s %s %s", word, r.Constraint.GetKind(), r.Constraint.GetName(), title(u), r.Msg))
	}
	return all
}

// title names an object as findings do.
func title(u *unstructured.Unstructured) string {
	name := u.GetKind()
	if group := u.GroupVersionKind().Group; group != "" {
		name += "." + group
	}
	if u.GetNamespace() != "" {
		name += "/" + u.GetNamespace()
	}
	return name + "/" + u.GetName()
}

func raw(t *testing.T, u *unstructured.Unstructured) runtime.RawExtension {
	t.Helper()
	text, err := u.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return runtime.RawExtension{Raw: text}
}

// read returns the objects of a file, lists unfolded.
func read(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, part := range strings.Split("\n"+string(text), "\n---") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(part), &u.Object); err != nil {
			t.Fatal(err)
		}
		items, isList, _ := unstructured.NestedSlice(u.Object, "items")
		for _, item := range items {
			object, ok := item.(map[string]any)
			if !ok {
				t.Fatal("an item is no object")
			}
			all = append(all, &unstructured.Unstructured{Object: object})
		}
		if !isList && len(u.Object) > 0 {
			all = append(all, u)
		}
	}
	return all
}
