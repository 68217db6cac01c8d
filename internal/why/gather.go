package why

import (
	"context"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// Bounds of what is gathered.
const (
	maxOwners = 8   // steps from an object to the one that nobody owns
	maxFound  = 20  // entries about an object
	maxPods   = 200 // of a workload
)

// Cluster is where live objects are read. Errors are *fault.Error; an object that is
// not there is NotFound.
type Cluster interface {
	// Get reads one object.
	Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error)
	// Pods lists Pods of a namespace that a selector chooses, limit at most.
	Pods(ctx context.Context, namespace, selector string, limit int64) ([]*unstructured.Unstructured, error)
}

// Log is where decisions are read. Errors are *fault.Error.
type Log interface {
	// About returns the entries about an object, named by [audit.ObjectName], newest
	// first; of deliveries of one namespace alone, where it is not empty.
	About(ctx context.Context, object, namespace string, limit int) ([]remote.Found, error)
	// Entries returns the entries that a query chooses.
	Entries(ctx context.Context, q remote.Query) (remote.Page, error)
	// Teller says who tells the log, for people.
	Teller() string
}

// Options are what Ask needs to be told.
type Options struct {
	Cluster Cluster
	// Log; nil: there is none, and NoLog says why.
	Log   Log
	NoLog string
	// Namespace is the only one whose deliveries' entries are asked for; empty: all, or,
	// where that is refused, the one of the delivery that marks name, or of the object.
	Namespace string
	// Owner reads from the marks of an object which delivery holds it; empty: none.
	Owner func(id object.ID, labels, annotations map[string]string) string
}

// Ask gathers what is known about an object. It fails with NotFound if neither the
// cluster nor the log knows it, and as the cluster does; a log that cannot be read is
// a fact, not a failure.
func Ask(ctx context.Context, o Options, gvk schema.GroupVersionKind, namespace, name string) (Facts, error) {
	f := Facts{Log: o.NoLog}
	if o.Log != nil {
		f.Told = o.Log.Teller()
	} else if f.Log == "" {
		f.Log = "none was given"
	}
	asked, err := o.Cluster.Get(ctx, gvk, namespace, name)
	missing := fault.KindOf(err) == fault.NotFound
	if err != nil && !missing {
		return Facts{}, err
	}
	if missing {
		asked = &unstructured.Unstructured{}
		asked.SetGroupVersionKind(gvk)
		asked.SetNamespace(namespace)
		asked.SetName(name)
	}
	if failed := o.climb(ctx, asked, &f); failed != nil {
		return Facts{}, failed
	}
	if missing && len(f.Found) == 0 {
		return Facts{}, err
	}
	managed := f.Objects[len(f.Objects)-1]
	f.Marked = o.Owner(idOf(managed), managed.GetLabels(), managed.GetAnnotations())
	f.Approvals = o.approvals(ctx, f)
	f.Pods, err = o.pods(ctx, f.Objects)
	return f, err
}

// climb follows the owners up to the first object that the log knows, or to one that
// nobody owns.
func (o *Options) climb(ctx context.Context, asked *unstructured.Unstructured, f *Facts) error {
	for u := asked; ; {
		f.Objects = append(f.Objects, u)
		f.Found = o.about(ctx, u, f)
		ref := metav1.GetControllerOf(u)
		if len(f.Found) > 0 || ref == nil || len(f.Objects) > maxOwners {
			return nil
		}
		owner, err := o.Cluster.Get(ctx, schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind), u.GetNamespace(), ref.Name)
		switch {
		case fault.KindOf(err) == fault.NotFound:
			f.Lost = ref.Kind + " " + ref.Name + ", which is gone"
			return nil
		case err != nil:
			return err
		case owner.GetUID() != ref.UID:
			f.Lost = ref.Kind + " " + ref.Name + " of another uid than the live one"
			return nil
		}
		u = owner
	}
}

// about asks the log about an object. What it cannot tell is noted.
func (o *Options) about(ctx context.Context, u *unstructured.Unstructured, f *Facts) []remote.Found {
	if o.Log == nil || f.Log != "" {
		return nil
	}
	name := audit.ObjectName(idOf(u), u.GroupVersionKind().Version)
	found, err := o.Log.About(ctx, name, o.Namespace, maxFound)
	if o.Namespace == "" && fault.KindOf(err) == fault.Refused {
		for _, namespace := range o.narrower(u) {
			if found, again := o.Log.About(ctx, name, namespace, maxFound); again == nil {
				o.Namespace = namespace
				return found
			}
		}
	}
	if err != nil {
		f.Log = err.Error()
		return nil
	}
	return found
}

// narrower returns the namespaces in which the right to read may be had.
func (o *Options) narrower(u *unstructured.Unstructured) []string {
	var list []string
	if parts := strings.Split(o.Owner(idOf(u), u.GetLabels(), u.GetAnnotations()), "/"); len(parts) == 3 {
		list = append(list, parts[1])
	}
	if ns := u.GetNamespace(); ns != "" && !slices.Contains(list, ns) {
		list = append(list, ns)
	}
	return list
}

// approvals returns those of the delivery from the sync before the last on: the last
// one was what they were for.
func (o *Options) approvals(ctx context.Context, f Facts) []remote.Found {
	at := f.sync()
	if at < 0 || f.Log != "" {
		return nil
	}
	q := remote.Query{Namespace: o.Namespace, Delivery: f.Found[at].Entry.Delivery, Action: audit.Approve, Limit: 10}
	if before := slices.IndexFunc(f.Found[at+1:], func(e remote.Found) bool { return e.Entry.Action == audit.Sync }); before >= 0 {
		q.Since = f.Found[at+1+before].Entry.Time
	}
	page, err := o.Log.Entries(ctx, q)
	if err != nil {
		return nil // what is missing is no approval
	}
	return slices.DeleteFunc(page.Entries, func(e remote.Found) bool { return e.Index > f.Found[at].Index })
}

// pods returns the Pod that was asked for, or those that a workload selects.
func (o *Options) pods(ctx context.Context, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	asked := objects[0]
	if asked.GetUID() == "" {
		return nil, nil
	}
	if asked.GetKind() == "Pod" && asked.GroupVersionKind().Group == "" {
		return []*unstructured.Unstructured{asked}, nil
	}
	if len(object.Images([]object.Object{{Unstructured: *asked}})) == 0 {
		return nil, nil
	}
	labels, found, _ := unstructured.NestedMap(asked.Object, "spec", "selector")
	if !found {
		return nil, nil
	}
	var s metav1.LabelSelector
	if err := fromMap(labels, &s); err != nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return nil, nil //nolint:nilerr // a selector of another form selects nothing that we know
	}
	pods, err := o.Cluster.Pods(ctx, asked.GetNamespace(), metav1.FormatLabelSelector(&s), maxPods)
	if fault.KindOf(err) == fault.Rejected {
		return nil, nil // who may not list Pods is not told about them
	}
	return pods, err
}

func idOf(u *unstructured.Unstructured) object.ID {
	gvk := u.GroupVersionKind()
	return object.ID{Group: gvk.Group, Kind: gvk.Kind, Namespace: u.GetNamespace(), Name: u.GetName()}
}
