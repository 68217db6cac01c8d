package object

import (
	"encoding/base64"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/schema"
)

// LastApplied is the annotation in which client-side apply keeps what it sent.
const LastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Normalise removes from o what a declaration must not carry: fields the API
// server fills (managedFields, resourceVersion, uid, creationTimestamp,
// generation, selfLink), status, fields without a value, and fields that a
// Kubernetes controller owns by design. Of items of the same key in the lists
// named, which a server-side apply refuses, it leaves one. What is left is what a
// server-side apply sends.
//
// It works in place and is idempotent. The warnings, each beginning with the
// field it is about, are for whoever keeps the manifest; they quote no values but keys.
func Normalise(o *unstructured.Unstructured, lists []schema.List) (warnings []string) {
	meta, _ := o.Object["metadata"].(map[string]any)
	if fields, ok := meta["managedFields"].([]any); ok && len(fields) > 0 {
		warnings = append(warnings, "metadata.managedFields: it belongs to the API server and is left out")
	}
	for _, f := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"} {
		delete(meta, f)
	}
	delete(o.Object, "status")
	dropNulls(o.Object)
	annotations, _ := meta["annotations"].(map[string]any)
	delete(annotations, LastApplied)
	for _, f := range []string{"annotations", "labels"} {
		if m, isMap := meta[f].(map[string]any); isMap && len(m) == 0 {
			delete(meta, f)
		}
	}
	for _, l := range lists {
		warnings = append(warnings, unite(o.Object, "", l.Path, l)...)
	}
	if rule, ok := ownedElsewhere[ID{Group: o.GroupVersionKind().Group, Kind: o.GetKind()}]; ok {
		rule(o.Object)
	}
	return warnings
}

// dropNulls removes fields without a value: client-side apply takes null for
// "not there", a server-side apply would own it. Nulls in lists are left for the
// API server to judge.
func dropNulls(value any) {
	switch v := value.(type) {
	case map[string]any:
		for k, child := range v {
			if child == nil {
				delete(v, k)
				continue
			}
			dropNulls(child)
		}
	case []any:
		for _, child := range v {
			dropNulls(child)
		}
	}
}

// ownedElsewhere drops fields that a controller of Kubernetes itself writes, or
// one that the object asks for; to apply them is to fight it for ever.
var ownedElsewhere = map[ID]func(map[string]any){
	// The aggregation controller fills the rules of an aggregated role.
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}: func(o map[string]any) {
		if o["aggregationRule"] != nil {
			delete(o, "rules")
		}
	},
	// The API server stores data only; stringData is write-only and hides drift.
	{Kind: "Secret"}: foldStringData,
	// Controllers add the tokens of an account to its secrets; an empty list of
	// ours says nothing, and named ones are owned one by one.
	{Kind: "ServiceAccount"}: func(o map[string]any) {
		if list, ok := o["secrets"].([]any); ok && len(list) == 0 {
			delete(o, "secrets")
		}
	},
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: func(o map[string]any) {
		leaveBundle(o, o, "spec", "conversion", "webhook", "clientConfig")
	},
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:                           func(o map[string]any) { leaveBundle(o, o, "spec") },
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:   leaveBundles,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}: leaveBundles,
}

// leaveBundles is leaveBundle for every webhook of a configuration.
func leaveBundles(o map[string]any) {
	hooks, _ := o["webhooks"].([]any)
	for _, h := range hooks {
		if hook, ok := h.(map[string]any); ok {
			leaveBundle(o, hook, "clientConfig")
		}
	}
}

// leaveBundle drops the caBundle below path, if o asks cert-manager or OpenShift
// to inject one, or if it holds no certificate, which is how others mark the
// place for theirs: empty, or a line feed, as kubebuilder writes it.
func leaveBundle(o, from map[string]any, path ...string) {
	for _, step := range path {
		from, _ = from[step].(map[string]any)
	}
	bundle, ok := from["caBundle"].(string)
	if ok && (bundle == "" || bundle == "Cg==" || injected(o)) {
		delete(from, "caBundle")
	}
}

// injected reports whether o's annotations ask for a certificate bundle.
func injected(o map[string]any) bool {
	meta, _ := o["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	for key := range annotations {
		if strings.HasPrefix(key, "cert-manager.io/inject-") || key == "service.beta.openshift.io/inject-cabundle" {
			return true
		}
	}
	return false
}

// foldStringData moves a Secret's stringData into data, as the API server does.
// Values that are not strings are left for the API server to refuse.
func foldStringData(o map[string]any) {
	plain, ok := o["stringData"].(map[string]any)
	if !ok {
		return
	}
	data, ok := o["data"].(map[string]any)
	if !ok {
		data = map[string]any{}
	}
	for k, v := range plain {
		s, isString := v.(string)
		if !isString {
			return
		}
		data[k] = base64.StdEncoding.EncodeToString([]byte(s))
	}
	o["data"] = data
	delete(o, "stringData")
}

// Check reports why o cannot be sent to any cluster: no apiVersion, kind or name.
func Check(o *unstructured.Unstructured) error {
	switch {
	case o.GetAPIVersion() == "":
		return fmt.Errorf("the object has no apiVersion")
	case o.GetKind() == "":
		return fmt.Errorf("the object has no kind")
	case o.GetName() == "" && o.GetGenerateName() != "":
		return fmt.Errorf("the %s has a generateName; an object that is held to Git needs a name", o.GetKind())
	case o.GetName() == "":
		return fmt.Errorf("the %s has no metadata.name", o.GetKind())
	}
	return nil
}
