// Package v1alpha1 holds Holdfast's own kinds (group holdfast.dev) as plain data.
// What they mean is decided where they are compiled, by package own.
//
// Fields that nobody knows are kept by the API server, so that they are refused by
// name and not dropped: a demand with a slip in its name must not be no demand.
//
// +kubebuilder:object:generate=true
// +kubebuilder:validation:Optional
// +groupName=holdfast.dev
package v1alpha1

//go:generate go tool -modfile=../../../tools/go.mod controller-gen object paths=.
