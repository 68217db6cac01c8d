package operate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func fakeCluster(t *testing.T, funcs interceptor.Funcs, texts ...string) *Cluster {
	t.Helper()
	b := fake.NewClientBuilder().WithInterceptorFuncs(funcs)
	for _, text := range texts {
		b.WithObjects(parse(t, text))
	}
	for _, k := range kinds {
		b.WithIndex(blank(k.gvk.Kind), "metadata.name", func(o client.Object) []string { return []string{o.GetName()} })
	}
	return New(b.Build())
}

func blank(kind string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	for _, k := range kinds {
		if k.gvk.Kind == kind {
			u.SetGroupVersionKind(k.gvk)
		}
	}
	return u
}

func TestOne(t *testing.T) {
	twin := strings.Replace(strings.Replace(ks, "name: apps", "name: shop", 1), "flux-system", "team", 1)
	c := fakeCluster(t, interceptor.Funcs{}, app, ks, twin)
	tests := []struct {
		reason string
		choice Choice
		want   string
		kind   fault.Kind
	}{
		{"by name alone", Choice{Name: "apps"}, "Kustomization/flux-system/apps", 0},
		{"two of a name must be told apart", Choice{Name: "shop"}, "", fault.Conflict},
		{"by kind", Choice{Kind: Application, Name: "shop"}, "Application/argocd/shop", 0},
		{"by namespace", Choice{Namespace: "team", Name: "shop"}, "Kustomization/team/shop", 0},
		{"none", Choice{Name: "web"}, "", fault.NotFound},
	}
	for _, tt := range tests {
		u, err := c.One(t.Context(), tt.choice)
		if tt.want == "" {
			if fault.KindOf(err) != tt.kind || err == nil {
				t.Errorf("%s: got %v", tt.reason, err)
			}
			continue
		}
		if err != nil || Name(u) != tt.want {
			t.Errorf("%s: got %v, %v", tt.reason, u, err)
		}
	}
}

// A resource that moves under a change is decided about again, and never overwritten.
func TestChangeDecidesAgain(t *testing.T) {
	moved := 0
	c := fakeCluster(t, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if moved++; moved == 1 {
				other := blank(o.GetObjectKind().GroupVersionKind().Kind)
				if err := c.Get(ctx, client.ObjectKeyFromObject(o), other); err != nil {
					return err
				}
				other.SetLabels(map[string]string{"other": "was here"})
				if err := c.Update(ctx, other); err != nil {
					return err
				}
			}
			return c.Patch(ctx, o, p, opts...)
		},
	}, ks)
	u, err := c.One(t.Context(), Choice{Name: "apps"})
	if err != nil {
		t.Fatal(err)
	}
	decided := 0
	err = c.Change(t.Context(), u, func(u *unstructured.Unstructured) error { decided++; return Suspend(u) })
	if err != nil || decided != 2 || u.GetLabels()["other"] == "" {
		t.Errorf("decided %d times about %v: %v", decided, u.GetLabels(), err)
	}
	sent := moved
	if err := c.Change(t.Context(), u, Suspend); err != nil || moved != sent {
		t.Errorf("a change that changes nothing was sent: %v", err)
	}
	if err := c.Change(t.Context(), u, func(*unstructured.Unstructured) error { return errors.New("no") }); err == nil || moved != sent {
		t.Error("a refused change was sent")
	}
}

func TestAwait(t *testing.T) {
	watches := 0
	c := fakeCluster(t, interceptor.Funcs{
		Watch: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
			w, err := c.Watch(ctx, l, opts...)
			if watches++; watches > 1 || err != nil {
				return w, err
			}
			next := blank(Kustomization.Kind)
			if err := c.Get(ctx, client.ObjectKey{Namespace: "flux-system", Name: "apps"}, next); err != nil {
				return w, err
			}
			return w, errors.Join(Suspend(next), c.Update(ctx, next))
		},
	}, ks)
	u, err := c.One(t.Context(), Choice{Name: "apps"})
	if err != nil {
		t.Fatal(err)
	}
	bounded, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	err = c.Await(bounded, u, func(u *unstructured.Unstructured) (bool, error) {
		suspended, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend")
		return suspended, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = c.Await(ctx, u, func(*unstructured.Unstructured) (bool, error) { return false, nil })
	if fault.KindOf(err) != fault.Waiting {
		t.Errorf("at the deadline: %v", err)
	}
	if err := c.Quiet(bounded, u, Idle, time.Millisecond); err != nil {
		t.Errorf("quiet: %v", err)
	}
	if err := c.client.Delete(t.Context(), u.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	err = c.Await(bounded, u, func(*unstructured.Unstructured) (bool, error) { return false, nil })
	if fault.KindOf(err) != fault.NotFound {
		t.Errorf("of what is gone: %v", err)
	}
}
