package cel

import (
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	plugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// request is what the API server would be asked to store one subject.
type request struct {
	object, old *unstructured.Unstructured // as given
	attributes  admission.Attributes
	versioned   *admission.VersionedAttributes // see stored
	admission   *admissionv1.AdmissionRequest
	labels      map[string]string // of the namespace; nil: unknown, or there is none
	namespace   *corev1.Namespace // nil: as for labels; also for a Namespace itself
	annotated   bool              // whether annotations of the namespace are known
}

// excluded are resources that no policy of the API server sees: reviews, which are not
// stored. Source: k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion.
var excluded = map[schema.GroupResource]bool{
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}:       true,
	{Group: "authentication.k8s.io", Resource: "tokenreviews"}:             true,
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: true,
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}:  true,
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}:   true,
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}:      true,
}

// options are those of a create and an update, as requests show them.
var (
	createOptions = &metav1.CreateOptions{TypeMeta: metav1.TypeMeta{Kind: "CreateOptions", APIVersion: "meta.k8s.io/v1"}}
	updateOptions = &metav1.UpdateOptions{TypeMeta: metav1.TypeMeta{Kind: "UpdateOptions", APIVersion: "meta.k8s.io/v1"}}
)

// requester makes requests of the subjects of one case. It is not changed once made.
type requester struct {
	names map[string]map[string]string // labels of namespaces
	// delivered are the namespaces that are subjects themselves, of which more is known.
	delivered map[string]*unstructured.Unstructured
	user      user.Info // nil: nobody knows who applies
}

func newRequester(c *policy.Case) *requester {
	r := &requester{names: c.Namespaces, delivered: map[string]*unstructured.Unstructured{}}
	for i := range c.Subjects {
		if o := (&unstructured.Unstructured{Object: c.Subjects[i].Object}); o.GetAPIVersion() == "v1" && o.GetKind() == "Namespace" {
			r.delivered[o.GetName()] = o
		}
	}
	if account := c.Delivery.Account; account != "" {
		groups := []string{user.AllAuthenticated}
		if namespace, _, err := serviceaccount.SplitUsername(account); err == nil {
			groups = append(serviceaccount.MakeGroupNames(namespace), groups...)
		}
		r.user = &user.DefaultInfo{Name: account, Groups: groups}
	}
	return r
}

// request returns what would be asked for a subject; nil if policies do not see it.
func (r *requester) request(s *policy.Subject) *request {
	in := &request{object: &unstructured.Unstructured{Object: s.Object}}
	kind := in.object.GroupVersionKind()
	resource := kind.GroupVersion().WithResource(s.Resource)
	if s.Resource == "" {
		resource, _ = meta.UnsafeGuessKindToResource(kind)
	}
	operation, options := admission.Create, runtime.Object(createOptions)
	var before runtime.Object
	if s.Old != nil && s.Of == nil {
		in.old = &unstructured.Unstructured{Object: s.Old}
		operation, options, before = admission.Update, updateOptions, in.old
	}
	namespace := ""
	if s.Namespaced {
		namespace = in.object.GetNamespace()
	}
	if kind == corev1.SchemeGroupVersion.WithKind("Namespace") {
		namespace = in.object.GetName() // as in requests for one
		in.labels = labelsOf(namespace, in.object.GetLabels())
	} else if in.namespace = r.namespace(namespace); in.namespace != nil {
		in.labels, in.annotated = in.namespace.Labels, r.delivered[namespace] != nil
	}
	in.attributes = admission.NewAttributesRecord(in.object, before, kind, namespace, in.object.GetName(), resource, "", operation, options, false, r.user)
	if excluded[resource.GroupResource()] || rules.IsExemptAdmissionConfigurationResource(in.attributes) {
		return nil
	}
	return in
}

// stored completes the request with what expressions look at. That is made for the first
// policy that asks: most objects concern few.
func (r *request) stored() {
	if r.versioned != nil {
		return
	}
	kind, resource := r.attributes.GetKind(), r.attributes.GetResource()
	r.versioned = &admission.VersionedAttributes{Attributes: r.attributes, VersionedObject: asStored(r.object.Object), VersionedKind: kind}
	if r.old != nil {
		r.versioned.VersionedOldObject = asStored(r.old.Object)
	}
	r.admission = plugin.CreateAdmissionRequest(r.attributes, metav1.GroupVersionResource(resource), metav1.GroupVersionKind(kind))
}

// namespace returns what is known of a namespace; nil if that is nothing.
func (r *requester) namespace(name string) *corev1.Namespace {
	known, ok := r.names[name]
	delivered := r.delivered[name]
	if !ok && delivered != nil {
		known, ok = delivered.GetLabels(), true
	}
	var ns *corev1.Namespace
	if ok {
		ns = &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labelsOf(name, known)},
			Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
			Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
		}
	}
	if delivered != nil {
		ns.Annotations = delivered.GetAnnotations()
	}
	return ns
}

// labelsOf returns labels of a namespace with the one that the API server adds.
func labelsOf(name string, known map[string]string) map[string]string {
	all := make(map[string]string, len(known)+1)
	maps.Copy(all, known)
	all[nameLabel] = name
	return all
}

// integers returns a value in which whole numbers are int64, as the API server has
// them, where a JSON reader made float64 of them, and whether there were any. Nothing is
// changed in place: other engines look at the same case.
func integers(v any) (now any, copied bool) {
	switch v := v.(type) {
	case float64:
		if whole := int64(v); float64(whole) == v {
			return whole, true
		}
	case map[string]any:
		all := v
		for key, item := range v {
			if now, changed := integers(item); changed {
				if !copied {
					all, copied = maps.Clone(v), true
				}
				all[key] = now
			}
		}
		return all, copied
	case []any:
		all := v
		for i, item := range v {
			if now, changed := integers(item); changed {
				if !copied {
					all, copied = slices.Clone(v), true
				}
				all[i] = now
			}
		}
		return all, copied
	}
	return v, false
}
