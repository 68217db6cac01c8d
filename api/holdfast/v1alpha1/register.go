package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the kinds in this package.
var GroupVersion = schema.GroupVersion{Group: "holdfast.dev", Version: "v1alpha1"}

// The kinds of this package.
const (
	TrustPolicyKind = "TrustPolicy"
	PolicySetKind   = "PolicySet"
)

// AddToScheme registers the kinds of this package in s. It never fails.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &TrustPolicy{}, &TrustPolicyList{}, &PolicySet{}, &PolicySetList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
