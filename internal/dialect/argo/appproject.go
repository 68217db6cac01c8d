package argo

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// compiled is a project in one state.
type compiled struct {
	uid     types.UID
	version string // resourceVersion
	project *Project
	err     error
}

// project returns a project ready to judge by. Errors are those of [Compile], and
// Refused for one that does not exist.
//
// Argo CD creates the project "default", open to every source, cluster and kind,
// when it is missing. Holdfast does not: whoever may create an Application in the
// control plane's namespace could then deliver anything from anywhere. Only a
// permissive process takes a missing default project for an open one, and it
// writes nothing to the cluster for that.
func (a *Argo) project(ctx context.Context, name string) (*Project, error) {
	if name == "" {
		name = defaultProject
	}
	u := blank(api.AppProjectKind)
	err := a.desk.cache.Get(ctx, types.NamespacedName{Namespace: a.env.ArgoNamespace, Name: name}, u)
	switch {
	case apierrors.IsNotFound(err) && name == defaultProject && a.env.Permissive:
		return Open(name), nil
	case apierrors.IsNotFound(err):
		return nil, fault.New(fault.Refused, "the AppProject %s/%s does not exist", a.env.ArgoNamespace, name).
			WithHint("create it with sourceRepos, destinations and destinationServiceAccounts; Holdfast creates none that permits everything")
	case err != nil:
		return nil, fault.New(fault.Unreachable, "the AppProject %s/%s cannot be read", a.env.ArgoNamespace, name).Because(err)
	}
	return a.compile(u)
}

// compile returns a project as it was compiled before, if it has not changed.
func (a *Argo) compile(u *unstructured.Unstructured) (*Project, error) {
	a.mu.Lock()
	known, ok := a.projects[u.GetName()]
	a.mu.Unlock()
	if ok && known.uid == u.GetUID() && known.version == u.GetResourceVersion() {
		return known.project, known.err
	}
	c := compiled{uid: u.GetUID(), version: u.GetResourceVersion()}
	var p *api.AppProject
	if p, c.err = DecodeProject(u); c.err == nil {
		c.project, c.err = Compile(p)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.projects[u.GetName()] = c
	return c.project, c.err
}

// reconcileProject answers a change of a project: its Applications are judged
// again. What is wrong with it is told as an event on it, because an AppProject
// has no conditions, and as a condition on every Application that it stops.
func (a *Argo) reconcileProject(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if req.Namespace != a.env.ArgoNamespace {
		return reconcile.Result{}, nil
	}
	u := blank(api.AppProjectKind)
	err := a.desk.cache.Get(ctx, req.NamespacedName, u)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	apps, listErr := a.desk.list(ctx, a.env.ArgoNamespace)
	if listErr != nil {
		return reconcile.Result{}, listErr
	}
	used := 0
	for i := range apps {
		if projectOf(&apps[i]) == req.Name {
			used++
			a.trigger.Add(client.ObjectKeyFromObject(&apps[i]), dialect.Normal)
		}
	}
	switch {
	case err != nil:
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.projects, req.Name)
		return reconcile.Result{}, nil
	case a.env.Observe: // the peer tells of it, and lets it go
		return reconcile.Result{}, nil
	case u.GetDeletionTimestamp() != nil:
		return a.letGo(ctx, u, used)
	}
	if _, err := a.compile(u); err != nil {
		a.env.Events.Event(u, corev1.EventTypeWarning, "InvalidSpec", err.Error())
	}
	return reconcile.Result{}, nil
}

// letGo lets a project that is being deleted go once no Application names it.
func (a *Argo) letGo(ctx context.Context, u *unstructured.Unstructured, used int) (reconcile.Result, error) {
	if !slices.Contains(u.GetFinalizers(), finalizerResources) {
		return reconcile.Result{}, nil
	}
	if used > 0 {
		return reconcile.Result{RequeueAfter: retryEvery}, nil
	}
	next := u.DeepCopy()
	next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizerResources }))
	patch := client.MergeFromWithOptions(u, client.MergeFromWithOptimisticLock{})
	err := a.env.Client.Patch(ctx, next, patch, client.FieldOwner(dialect.StatusManager))
	return dialect.Settle(0, err)
}

func projectOf(u *unstructured.Unstructured) string {
	name, _, _ := unstructured.NestedString(u.Object, "spec", "project")
	if name == "" {
		return defaultProject
	}
	return name
}
