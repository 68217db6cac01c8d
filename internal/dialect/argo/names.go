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

	"github.com/holdfastcd/holdfast/internal/object"
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
	annIgnoreHealth     = prefix + "ignore-healthcheck"
	annApproved         = prefix + "deletion-approved"
	annHelmHook         = "helm.sh/hook"
	annHelmWeight       = "helm.sh/hook-weight"
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
	// Kind is the kind of the deliveries of this dialect.
	Kind = "Application"

	defaultProject = "default"
)

// Owner returns the function that reads, from an object's annotations, which
// Application in the control plane's namespace it belongs to, written as
// "Application/namespace/name"; empty if none.
//
// An annotation that names another object than the one it is on was copied with it
// and says nothing. Cluster-scoped objects are named with the Application's
// namespace, so that theirs is not compared.
func Owner(namespace string) func(id object.ID, labels, annotations map[string]string) string {
	return func(id object.ID, _, annotations map[string]string) string {
		app, of, ok := strings.Cut(annotations[annTracking], ":")
		if !ok || app == "" || !tracks(of, id) {
			return ""
		}
		// An Application elsewhere is written with its namespace: <namespace>_<name>.
		if ns, name, elsewhere := strings.Cut(app, "_"); elsewhere {
			return Kind + "/" + ns + "/" + name
		}
		return Kind + "/" + namespace + "/" + app
	}
}

// Kept reports whether an object must outlive its place in the source, and its
// Application. A confirmation that nobody could give keeps it, too, because what is
// left over can be deleted by hand and the opposite cannot be undone. Definitions
// of kinds are never deleted with an Application, since every object of the kind
// would go with them; one that leaves the source waits for a word like all mass
// prunes.
func Kept(_, annotations map[string]string) (inPrune, inDelete bool) {
	if annotations[annHelmPolicy] == "keep" {
		return true, true
	}
	for option := range strings.SplitSeq(annotations[annSyncOptions], ",") {
		switch strings.ReplaceAll(option, " ", "") {
		case "Prune=false", "Prune=confirm":
			inPrune = true
		case "Delete=false", "Delete=confirm":
			inDelete = true
		}
	}
	// What a hook of Argo CD's left behind is not a delivery's object.
	helm := annotations[annHelmHook]
	inPrune = inPrune || annotations[annHook] != "" || helm != "" && helm != "crd-install"
	_, of, _ := strings.Cut(annotations[annTracking], ":")
	return inPrune, inDelete || strings.HasPrefix(of, "apiextensions.k8s.io/CustomResourceDefinition:")
}

// tracks reports whether "<group>/<Kind>:<namespace>/<name>" names an object.
func tracks(of string, id object.ID) bool {
	kind, name, ok := strings.Cut(of, ":")
	namespace, name, whole := strings.Cut(name, "/")
	return ok && whole && kind == id.Group+"/"+id.Kind && name == id.Name && (id.Namespace == "" || namespace == id.Namespace)
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
