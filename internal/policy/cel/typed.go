package cel

import (
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// builtin are the kinds of Kubernetes itself, in the versions that clusters serve by default.
var builtin = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	add := runtime.NewSchemeBuilder(
		admissionregistrationv1.AddToScheme, appsv1.AddToScheme, autoscalingv1.AddToScheme, autoscalingv2.AddToScheme,
		batchv1.AddToScheme, certificatesv1.AddToScheme, coordinationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme,
		eventsv1.AddToScheme, flowcontrolv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme, policyv1.AddToScheme,
		rbacv1.AddToScheme, resourcev1.AddToScheme, schedulingv1.AddToScheme, storagev1.AddToScheme, apiextensionsv1.AddToScheme,
	)
	if err := add.AddToScheme(s); err != nil {
		return runtime.NewScheme() // it fails for nobody, or for everybody
	}
	return s
})

// asStored returns an object as expressions see it in the API server: one of a built-in
// kind passes through its Go type, by which fields that are not written and have no way
// to be absent are there (resources: {}), quantities have their canonical form, and
// unknown fields are gone. What does not fit the type, which no API server would store,
// and custom resources stay as they are, with their whole numbers as int64. The content
// given does not change.
func asStored(content map[string]any) *unstructured.Unstructured {
	if changed, ok := integers(content); ok {
		content, _ = changed.(map[string]any)
	}
	o := &unstructured.Unstructured{Object: content}
	typed, err := builtin().New(o.GroupVersionKind())
	if err != nil {
		return o // not built in
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, typed); err != nil {
		return o
	}
	stored, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return o
	}
	return &unstructured.Unstructured{Object: stored}
}
