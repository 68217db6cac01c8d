package object

import (
	"encoding/base64"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Normalise removes from o what a declaration must not carry: fields the API
// server fills (managedFields, resourceVersion, uid, creationTimestamp,
// generation, selfLink), status, and fields that a Kubernetes controller owns by
// design. What is left is what a server-side apply sends.
//
// It works in place and is idempotent.
func Normalise(o *unstructured.Unstructured) {
	meta, _ := o.Object["metadata"].(map[string]any)
	for _, f := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"} {
		delete(meta, f)
	}
	annotations, _ := meta["annotations"].(map[string]any)
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	for _, f := range []string{"annotations", "labels"} {
		if m, isMap := meta[f].(map[string]any); meta[f] == nil || isMap && len(m) == 0 {
			delete(meta, f)
		}
	}
	delete(o.Object, "status")
	if rule, ok := ownedElsewhere[ID{Group: o.GroupVersionKind().Group, Kind: o.GetKind()}]; ok {
		rule(o.Object)
	}
}

// ownedElsewhere drops fields that a controller of Kubernetes itself writes; to
// apply them is to fight it for ever.
var ownedElsewhere = map[ID]func(map[string]any){
	// The aggregation controller fills the rules of an aggregated role.
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}: func(o map[string]any) {
		if o["aggregationRule"] != nil {
			delete(o, "rules")
		}
	},
	// The API server stores data only; stringData is write-only and hides drift.
	{Kind: "Secret"}: foldStringData,
	// cert-manager and others inject the bundle of a conversion webhook.
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: func(o map[string]any) {
		config, found, _ := unstructured.NestedMap(o, "spec", "conversion", "webhook", "clientConfig")
		if found {
			delete(config, "caBundle")
			_ = unstructured.SetNestedMap(o, config, "spec", "conversion", "webhook", "clientConfig")
		}
	},
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
