// Package argo is the Argo CD dialect: it translates Applications and AppProjects
// to deliveries, and what came of them to the status that Argo CD's clients read.
//
// What an Application means is decided by pure functions, which the controller,
// `holdfast build` and `holdfast diff` share: [Validate] refuses by name what this
// version does not support, [Compile] makes rules of an AppProject, [Request] says
// what to fetch and [Spec] what to deliver. What happens next, and what the status
// shall say, are pure functions of the status before and the report of the engine.
package argo

import (
	"slices"
	"strings"
)

// The annotations that the dialect reads and writes.
const (
	prefix = "argocd.argoproj.io/"

	annTracking         = prefix + "tracking-id"
	annRefresh          = prefix + "refresh"
	annRefreshTimestamp = prefix + "refresh-timestamp"
	annSkipReconcile    = prefix + "skip-reconcile"
	annSyncOptions      = prefix + "sync-options"
	annSyncWave         = prefix + "sync-wave"
	annHook             = prefix + "hook"
	annCompareOptions   = prefix + "compare-options"
	annHydrate          = prefix + "hydrate"
	annHelmHook         = "helm.sh/hook"
	annHelmPolicy       = "helm.sh/resource-policy"
)

// The finalizers of an Application.
const (
	finalizerResources  = "resources-finalizer.argocd.argoproj.io"
	finalizerForeground = finalizerResources + "/foreground"
	finalizerBackground = finalizerResources + "/background"
	finalizerPreDelete  = "pre-delete-finalizer.argocd.argoproj.io"
	finalizerPostDelete = "post-delete-finalizer.argocd.argoproj.io"
)

const (
	// Server is the URL by which Applications name the cluster that Holdfast serves.
	Server = "https://kubernetes.default.svc"
	// ServerName is that cluster's name.
	ServerName = "in-cluster"
	// FieldManager owns the fields of delivered objects. It is the peer's own
	// name, so that an object that Argo CD delivered changes hands without a trace.
	FieldManager = "argocd-controller"
	// StatusManager owns what Holdfast writes on Applications themselves.
	StatusManager = "holdfast-status"
	// Kind is the kind of the deliveries of this dialect.
	Kind = "Application"

	defaultProject = "default"
)

// Owner returns the function that reads, from an object's annotations, which
// Application in the control plane's namespace it belongs to, written as
// "Application/namespace/name"; empty if none.
func Owner(namespace string) func(labels, annotations map[string]string) string {
	return func(_, annotations map[string]string) string {
		app, _, ok := strings.Cut(annotations[annTracking], ":")
		if !ok || app == "" {
			return ""
		}
		// An Application elsewhere is written with its namespace: <namespace>_<name>.
		if ns, name, elsewhere := strings.Cut(app, "_"); elsewhere {
			return Kind + "/" + ns + "/" + name
		}
		return Kind + "/" + namespace + "/" + app
	}
}

// Kept reports whether an object must outlive its place in the source and its
// Application. Argo CD tells Prune=false and Delete=false apart; here each of them
// keeps the object in both cases, and so does a confirmation that nobody could
// give, because what is left over can be deleted by hand and the opposite cannot
// be undone. Definitions of kinds are never deleted, since every object of the
// kind would go with them.
func Kept(_, annotations map[string]string) bool {
	if annotations[annHelmPolicy] == "keep" {
		return true
	}
	for option := range strings.SplitSeq(annotations[annSyncOptions], ",") {
		switch strings.ReplaceAll(option, " ", "") {
		case "Prune=false", "Prune=confirm", "Delete=false", "Delete=confirm":
			return true
		}
	}
	_, of, _ := strings.Cut(annotations[annTracking], ":")
	return strings.HasPrefix(of, "apiextensions.k8s.io/CustomResourceDefinition:")
}

// cascades reports whether deleting an Application deletes its objects, and how.
func cascades(finalizers []string) (propagation string, ok bool) {
	switch {
	case slices.Contains(finalizers, finalizerBackground):
		return "Background", true
	case slices.Contains(finalizers, finalizerResources), slices.Contains(finalizers, finalizerForeground):
		return "Foreground", true
	}
	return "", false
}
