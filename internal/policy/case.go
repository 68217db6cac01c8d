package policy

import (
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Hidden stands in a case for each value of a Secret: under data as base64, as the API
// server demands. So no policy can tell one, and CI, which has no keys, judges the same.
const Hidden = "[secret]"

// hiddenData is Hidden in base64.
const hiddenData = "W3NlY3JldF0="

// templates are where kinds keep the template of the Pods that they make.
var templates = map[string][]string{
	"apps/Deployment": {"spec", "template"}, "apps/StatefulSet": {"spec", "template"},
	"apps/DaemonSet": {"spec", "template"}, "apps/ReplicaSet": {"spec", "template"},
	"/ReplicationController": {"spec", "template"}, "batch/Job": {"spec", "template"},
	"batch/CronJob":       {"spec", "jobTemplate", "spec", "template"},
	"/PodTemplate":        {"template"},
	"argoproj.io/Rollout": {"spec", "template"},
}

// NewCase puts objects, placed in their namespaces, before policies: copies, complete
// with what complete fills in (nil: nothing), their Secrets hidden, and after them the Pods that
// their controllers would make. live returns the object that one will replace; nil where
// nobody looks.
func NewCase(objects []object.Object, kinds schema.Kinds, complete func(map[string]any), live func(object.ID) map[string]any) *Case {
	c := &Case{Subjects: make([]Subject, 0, len(objects)+len(objects)/2), Namespaces: map[string]map[string]string{}}
	for i := range objects {
		o := &objects[i]
		s := Subject{Object: runtime.DeepCopyJSON(o.Object), Origin: o.Origin, Namespaced: o.GetNamespace() != ""}
		if kind, ok := kinds.Lookup(o.GroupVersionKind()); ok {
			s.Resource, s.Namespaced = kind.Resource, kind.Namespaced
		}
		if live != nil {
			if old := live(o.ID()); old != nil {
				s.Old = runtime.DeepCopyJSON(old)
				hideSecret(s.Old)
			}
		}
		hideSecret(s.Object)
		if complete != nil {
			complete(s.Object)
		}
		if labels := NamespaceLabels(o); labels != nil {
			c.Namespaces[o.GetName()] = labels
		}
		c.Subjects = append(c.Subjects, s)
	}
	for i := range objects {
		if pod := podOf(&c.Subjects[i], complete); pod != nil {
			c.Subjects = append(c.Subjects, Subject{
				Object: pod, Resource: "pods", Namespaced: true, Of: &i, Origin: objects[i].Origin,
			})
		}
	}
	return c
}

// NamespaceLabels returns the labels that a Namespace has once it is in the cluster, with
// the one that the API server sets; nil if the object is none.
func NamespaceLabels(o *object.Object) map[string]string {
	if id := o.ID(); id.Group != "" || id.Kind != "Namespace" {
		return nil
	}
	labels := map[string]string{}
	maps.Copy(labels, o.GetLabels())
	labels["kubernetes.io/metadata.name"] = o.GetName()
	return labels
}

// hideSecret takes the values out of a Secret, and its last state as kubectl noted it.
func hideSecret(o map[string]any) {
	if o["apiVersion"] != "v1" || o["kind"] != "Secret" {
		return
	}
	for field, value := range map[string]string{"data": hiddenData, "stringData": Hidden} {
		if values, ok := o[field].(map[string]any); ok {
			for key := range values {
				values[key] = value
			}
		}
	}
	unstructured.RemoveNestedField(o, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
}

// TemplatePath returns where a kind keeps the template of the Pods that it makes; nil if
// it makes none.
func TemplatePath(group, kind string) []string { return templates[group+"/"+kind] }

// podOf returns the Pod that the controller of a subject would make; nil if it makes none.
func podOf(s *Subject, complete func(map[string]any)) map[string]any {
	maker := unstructured.Unstructured{Object: s.Object}
	gvk := maker.GroupVersionKind()
	template, ok, err := unstructured.NestedMap(s.Object, TemplatePath(gvk.Group, gvk.Kind)...)
	if TemplatePath(gvk.Group, gvk.Kind) == nil || !ok || err != nil {
		return nil
	}
	pod := unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod"}}
	if metadata, ok := template["metadata"].(map[string]any); ok {
		pod.Object["metadata"] = metadata
	}
	pod.Object["spec"] = template["spec"]
	pod.SetName(maker.GetName())
	pod.SetNamespace(maker.GetNamespace())
	if complete != nil {
		complete(pod.Object)
	}
	return pod.Object
}

// ID returns the identity of a subject's object.
func (s *Subject) ID() object.ID {
	o := object.Object{Unstructured: unstructured.Unstructured{Object: s.Object}}
	return o.ID()
}
