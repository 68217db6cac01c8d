package main

import (
	"context"
	"fmt"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argov1 "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
)

// state is what an application's resource says of itself.
type state struct {
	revision string
	ready    bool
	message  string
}

// tracker follows the resources of a fleet by a watch.
type tracker struct {
	mu     sync.Mutex
	states map[string]state
	moved  chan struct{} // closed and replaced at every change
	watch  watch.Interface
}

func track(ctx context.Context, c client.WithWatch, list client.ObjectList, namespace string) (*tracker, error) {
	w, err := c.Watch(ctx, list, client.InNamespace(namespace))
	if err != nil {
		return nil, err
	}
	t := &tracker{states: map[string]state{}, moved: make(chan struct{}), watch: w}
	go t.follow()
	return t, nil
}

func (t *tracker) follow() {
	for ev := range t.watch.ResultChan() {
		name, s, ok := read(ev.Object)
		if !ok {
			continue
		}
		t.mu.Lock()
		t.states[name] = s
		close(t.moved)
		t.moved = make(chan struct{})
		t.mu.Unlock()
	}
}

func read(o runtime.Object) (string, state, bool) {
	switch o := o.(type) {
	case *kustomizev1.Kustomization:
		s := state{revision: o.Status.LastAppliedRevision}
		if c := apimeta.FindStatusCondition(o.Status.Conditions, "Ready"); c != nil {
			s.ready, s.message = c.Status == "True", c.Message
		}
		return o.Name, s, true
	case *argov1.Application:
		s := state{revision: o.Status.Sync.Revision, ready: o.Status.Sync.Status == "Synced"}
		for _, c := range o.Status.Conditions {
			s.message += c.Message
		}
		return o.Name, s, true
	}
	return "", state{}, false
}

// until waits for all n resources to satisfy ok.
func (t *tracker) until(ctx context.Context, n int, ok func(state) bool) error {
	for {
		t.mu.Lock()
		done, example := 0, ""
		for name, s := range t.states {
			if ok(s) {
				done++
			} else {
				example = fmt.Sprintf("%s: ready=%t revision=%s %s", name, s.ready, s.revision, s.message)
			}
		}
		moved := t.moved
		t.mu.Unlock()
		if done >= n {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d applications arrived; for example %s: %w", done, n, example, ctx.Err())
		}
	}
}
