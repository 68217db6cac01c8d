package own

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	toolscache "k8s.io/client-go/tools/cache"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// subscriber is told of the objects of a resource.
type subscriber struct {
	seen, gone func(*unstructured.Unstructured)
	known      func() // those that were there at the beginning have been seen
}

// subscribe tells s of a resource's objects until ctx ends. It returns at once. Errors:
// Internal.
//
// Custom resources are read as plain JSON, not as Go types: a value that a type cannot
// hold would end the watch for every object of the kind.
func subscribe(ctx context.Context, c dynamic.Interface, resource string, s subscriber) error {
	of := c.Resource(api.GroupVersion.WithResource(resource))
	informer := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return of.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return of.Watch(ctx, o) },
	}, &unstructured.Unstructured{}, 0, nil)
	if err := informer.SetTransform(dialect.Slim); err != nil {
		return fault.New(fault.Internal, "cannot watch %s: %s", resource, err)
	}
	telling := func(tell func(*unstructured.Unstructured)) func(any) {
		return func(x any) {
			if tombstone, ok := x.(toolscache.DeletedFinalStateUnknown); ok {
				x = tombstone.Obj
			}
			if u, ok := x.(*unstructured.Unstructured); ok {
				tell(u)
			}
		}
	}
	seen := telling(s.seen)
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, x any) { seen(x) }, DeleteFunc: telling(s.gone),
	})
	if err != nil {
		return fault.New(fault.Internal, "cannot watch %s: %s", resource, err)
	}
	go informer.RunWithContext(ctx)
	go func() {
		if toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			s.known()
		}
	}()
	return nil
}
