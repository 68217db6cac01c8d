package sealed

import (
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Scope says where a sealed value may be opened. It is part of what is encrypted: a
// value that was sealed for one place does not open in another.
type Scope uint8

// The scopes of a SealedSecret.
const (
	Strict        Scope = iota // under its name and namespace only
	NamespaceWide              // under any name in its namespace
	ClusterWide                // anywhere in the cluster
)

// Annotations of SealedSecrets, and of the Secrets that are sealed.
const (
	annotations = "sealedsecrets.bitnami.com/"
	// AnnotationClusterWide, "true", gives a SealedSecret the scope ClusterWide.
	AnnotationClusterWide = annotations + "cluster-wide"
	// AnnotationNamespaceWide, "true", gives a SealedSecret the scope NamespaceWide.
	AnnotationNamespaceWide = annotations + "namespace-wide"
)

const on = "true"

// String returns the name of the scope, as kubeseal has it.
func (s Scope) String() string {
	switch s {
	case NamespaceWide:
		return "namespace-wide"
	case ClusterWide:
		return "cluster-wide"
	case Strict:
	}
	return "strict"
}

// ParseScope is the inverse of String; empty is Strict. Errors are Invalid.
func ParseScope(name string) (Scope, error) {
	for _, s := range []Scope{Strict, NamespaceWide, ClusterWide} {
		if name == s.String() {
			return s, nil
		}
	}
	if name == "" {
		return Strict, nil
	}
	return Strict, fault.New(fault.Invalid, "%q is no scope of a SealedSecret", name).WithHint("choose strict, namespace-wide or cluster-wide")
}

// ScopeOf returns the scope that annotations give; where they give both, it is
// ClusterWide, as for the stock controller.
func ScopeOf(annotations map[string]string) Scope {
	switch {
	case annotations[AnnotationClusterWide] == on:
		return ClusterWide
	case annotations[AnnotationNamespaceWide] == on:
		return NamespaceWide
	}
	return Strict
}

// annotate has annotations say s and no other scope.
func (s Scope) annotate(annotations map[string]string) map[string]string {
	if annotations == nil {
		annotations = map[string]string{}
	}
	delete(annotations, AnnotationClusterWide)
	delete(annotations, AnnotationNamespaceWide)
	if a := s.annotation(); a != "" {
		annotations[a] = on
	}
	return annotations
}

// annotation is the annotation that says s; "" for Strict.
func (s Scope) annotation() string {
	switch s {
	case NamespaceWide:
		return AnnotationNamespaceWide
	case ClusterWide:
		return AnnotationClusterWide
	case Strict:
	}
	return ""
}

// label is what a value of a Secret is bound to: the label of RSA-OAEP.
func (s Scope) label(namespace, name string) []byte {
	switch s {
	case NamespaceWide:
		return []byte(namespace)
	case ClusterWide:
		return []byte{}
	case Strict:
	}
	return []byte(namespace + "/" + name)
}
