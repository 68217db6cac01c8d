package flux

import (
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/object"
)

// rbacGroup is the one group whose names may hold colons, which an inventory
// writes as two underscores.
const rbacGroup = "rbac.authorization.k8s.io"

// formatID writes an identity as an inventory does: <namespace>_<name>_<group>_<kind>.
func formatID(id object.ID) string {
	name := id.Name
	if id.Group == rbacGroup {
		name = strings.ReplaceAll(name, ":", "__")
	}
	return id.Namespace + "_" + name + "_" + id.Group + "_" + id.Kind
}

// parseID reads what formatID writes; false if s is not of that form.
func parseID(s string) (object.ID, bool) {
	namespace, rest, ok := strings.Cut(s, "_")
	if !ok {
		return object.ID{}, false
	}
	last := strings.LastIndexByte(rest, '_')
	if last < 0 {
		return object.ID{}, false
	}
	rest, kind := rest[:last], rest[last+1:]
	last = strings.LastIndexByte(rest, '_')
	if last < 0 {
		return object.ID{}, false
	}
	name, group := rest[:last], rest[last+1:]
	if group == rbacGroup {
		name = strings.ReplaceAll(name, "__", ":")
	}
	id := object.ID{Group: group, Kind: kind, Namespace: namespace, Name: name}
	return id, name != "" && kind != ""
}

// readInventory returns the entries of a status. Entries that cannot be read
// name nothing that could be found, and are left out.
func readInventory(inv *kustomizev1.ResourceInventory) []delivery.Entry {
	if inv == nil {
		return nil
	}
	entries := make([]delivery.Entry, 0, len(inv.Entries))
	for _, ref := range inv.Entries {
		if id, ok := parseID(ref.ID); ok {
			entries = append(entries, delivery.Entry{ID: id, Version: ref.Version})
		}
	}
	return entries
}

// writeInventory returns entries as a status holds them.
func writeInventory(entries []delivery.Entry) *kustomizev1.ResourceInventory {
	inv := &kustomizev1.ResourceInventory{Entries: make([]kustomizev1.ResourceRef, 0, len(entries))}
	for _, e := range entries {
		inv.Entries = append(inv.Entries, kustomizev1.ResourceRef{ID: formatID(e.ID), Version: e.Version})
	}
	return inv
}

// union returns the entries of a, and those of b that are not in a.
func union(a, b []delivery.Entry) []delivery.Entry {
	if len(b) == 0 {
		return a
	}
	known := make(map[object.ID]bool, len(a))
	for _, e := range a {
		known[e.ID] = true
	}
	for _, e := range b {
		if !known[e.ID] {
			a = append(a, e)
		}
	}
	return a
}
