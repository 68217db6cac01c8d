// Package v1alpha1 holds Argo CD's Application and AppProject (group
// argoproj.io) as plain data: what people have written in their repositories, and
// what their clients read back. Field names are Argo CD's; nothing here decides
// anything. Which fields Holdfast acts on, and which it refuses by name, is the
// business of the Argo dialect.
//
// Neither kind has a status subresource: clients write operation and read status
// with ordinary patches, and the definitions generated from these types keep it so.
// Except where a field is marked required, everything may be left out.
//
// +kubebuilder:object:generate=true
// +kubebuilder:validation:Optional
// +groupName=argoproj.io
package v1alpha1

//go:generate go tool -modfile=../../../tools/go.mod controller-gen object paths=.
