package object

import "strings"

// use is a Secret that an object refers to.
type use struct {
	secret ID
	field  string // that names it
}

// secretRefs are where the specification of Pods names Secrets of its namespace.
// Source: core/v1 PodSpec.
var secretRefs = []string{
	"imagePullSecrets[].name",
	"initContainers[].env[].valueFrom.secretKeyRef.name", "initContainers[].envFrom[].secretRef.name",
	"containers[].env[].valueFrom.secretKeyRef.name", "containers[].envFrom[].secretRef.name",
	"volumes[].secret.secretName", "volumes[].projected.sources[].secret.name",
	"volumes[].csi.nodePublishSecretRef.name", "volumes[].azureFile.secretName", "volumes[].cephfs.secretRef.name",
	"volumes[].flexVolume.secretRef.name", "volumes[].iscsi.secretRef.name", "volumes[].rbd.secretRef.name",
	"volumes[].scaleIO.secretRef.name", "volumes[].storageos.secretRef.name",
}

// templatesOnly are kinds that describe Pods and make none.
var templatesOnly = map[ID]bool{
	{Kind: "PodTemplate"}:                                   true,
	{Group: "argoproj.io", Kind: "AnalysisTemplate"}:        true,
	{Group: "argoproj.io", Kind: "ClusterAnalysisTemplate"}: true,
}

// Runs reports whether objects of id's kind make Pods, or are one.
func Runs(id ID) bool { return len(podsOf(id)) > 0 }

// podsOf returns where objects of id's kind have the specification of their Pods.
func podsOf(id ID) []string {
	kind := ID{Group: id.Group, Kind: id.Kind}
	if templatesOnly[kind] {
		return nil
	}
	return podSpecs[kind]
}

// uses returns the Secrets without which the Pods of o do not start: those that it
// names, but for optional ones, and those with which its ServiceAccount, if that is
// among accounts, has images pulled for Pods that name none themselves.
func uses(o *Object, accounts map[ID]*Object) []use {
	var found []use
	add := func(field string, holder map[string]any, key string) {
		name, _ := holder[key].(string)
		if optional, _ := holder["optional"].(bool); name != "" && !optional {
			found = append(found, use{ID{Kind: "Secret", Namespace: o.GetNamespace(), Name: name}, field})
		}
	}
	for _, place := range podsOf(o.ID()) {
		for _, ref := range secretRefs {
			path := place + "." + ref
			walkPath(o.Object, path, func(holder map[string]any, key string) { add(path, holder, key) })
		}
		path := place + ".serviceAccountName"
		walkPath(o.Object, path, func(spec map[string]any, key string) {
			if pulls, _ := spec["imagePullSecrets"].([]any); len(pulls) > 0 {
				return
			}
			account := accounts[ID{Kind: "ServiceAccount", Namespace: o.GetNamespace(), Name: accountOf(spec, key)}]
			if account == nil {
				return
			}
			walkPath(account.Object, "imagePullSecrets[].name", func(holder map[string]any, key string) { add(path, holder, key) })
		})
	}
	return found
}

// accountOf is the ServiceAccount that Pods run as.
func accountOf(spec map[string]any, key string) string {
	for _, k := range []string{key, "serviceAccount"} {
		if name, _ := spec[k].(string); name != "" {
			return name
		}
	}
	return "default"
}

// podLabels returns the labels of the Pods that o makes.
func podLabels(o *Object) []map[string]any {
	var all []map[string]any
	for _, place := range podsOf(o.ID()) {
		path := strings.TrimSuffix(place, "spec") + "metadata.labels"
		walkPath(o.Object, path, func(metadata map[string]any, key string) {
			if labels, ok := metadata[key].(map[string]any); ok {
				all = append(all, labels)
			}
		})
	}
	return all
}
