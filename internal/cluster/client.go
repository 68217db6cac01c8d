package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Client sends requests as one account. It costs nothing to make: connections
// belong to the cluster.
type Client struct {
	c   *Cluster
	who Account
}

// As returns a client that sends as who.
func (c *Cluster) As(who Account) *Client { return &Client{c: c, who: who} }

// Apply applies body, an object as JSON, by server-side apply and returns the
// record of what it became; health is not part of the answer. With dryRun nothing
// is stored and nothing noted. Errors: Rejected (invalid, or a right is missing:
// who may not do what), NotFound (the namespace or the kind), Conflict (not
// forced, and others own fields), Waiting (the namespace is being deleted),
// Unauthorized, Unreachable; see also [ErrImmutable], [ErrNotServed], [RetryAfter].
func (k *Client) Apply(ctx context.Context, kind schema.Kind, id object.ID, body []byte, manager string, force, dryRun bool) (Record, error) {
	r := k.patch(k.c.meta, kind, id, body, manager, force, dryRun).SetHeader("Accept", acceptMeta)
	o, err := k.do(ctx, r, request{"patch", k.who, kind, id})
	if err != nil {
		return Record{}, err
	}
	got, err := o.Get()
	s, ok := got.(*seen)
	if err != nil || !ok {
		return Record{}, fault.New(fault.Rejected, "the answer of the API server cannot be read").On(id.String()).Because(err)
	}
	if s.meta != nil {
		s.own(k.c, id, s.meta)
	}
	if !dryRun {
		k.c.Note(id, s.record)
	}
	return s.record, nil
}

// Look is [Cluster.Look].
func (k *Client) Look(kind schema.Kind, id object.ID) (Record, bool) { return k.c.Look(kind, id) }

// DryRunApply returns the whole object as a forced apply of body would make it.
// Errors as [Client.Apply].
func (k *Client) DryRunApply(ctx context.Context, kind schema.Kind, id object.ID, body []byte, manager string) (*unstructured.Unstructured, error) {
	r := k.patch(k.c.plain, kind, id, body, manager, true, true).SetHeader("Accept", acceptWhole)
	return k.whole(ctx, r, request{"patch", k.who, kind, id})
}

// Get returns a live object. Errors: NotFound, Rejected (a right is missing),
// Unauthorized, Unreachable.
func (k *Client) Get(ctx context.Context, kind schema.Kind, id object.ID) (*unstructured.Unstructured, error) {
	r := k.as(k.c.plain.Get()).AbsPath(urlPath(kind, id.Namespace, id.Name)...).SetHeader("Accept", acceptWhole)
	return k.whole(ctx, r, request{"get", k.who, kind, id})
}

// Delete deletes an object if it still has this UID and resource version (either
// may be empty: any). It returns nil if the object does not exist. A nil error
// does not mean that the object is gone: finalizers, and propagation, may hold
// it. Errors: Conflict with [ErrChanged] if it changed since, Rejected,
// Unauthorized, Unreachable.
func (k *Client) Delete(ctx context.Context, kind schema.Kind, id object.ID, uid types.UID, resourceVersion string, propagation metav1.DeletionPropagation) error {
	o := metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions:     &metav1.Preconditions{},
		PropagationPolicy: &propagation,
	}
	if uid != "" {
		o.Preconditions.UID = &uid
	}
	if resourceVersion != "" {
		o.Preconditions.ResourceVersion = &resourceVersion
	}
	if propagation == "" {
		o.PropagationPolicy = nil
	}
	body, err := json.Marshal(&o)
	if err != nil {
		return fmt.Errorf("delete options: %w", err)
	}
	q := request{"delete", k.who, kind, id}
	r := k.as(k.c.meta.Delete()).AbsPath(urlPath(kind, id.Namespace, id.Name)...).
		SetHeader("Content-Type", "application/json").SetHeader("Accept", acceptMeta).Body(body)
	_, err = k.do(ctx, r, q)
	if fault.KindOf(err) == fault.NotFound && !errors.Is(err, ErrNotServed) {
		k.c.Gone(id, string(uid))
		return nil
	}
	return err
}

func (k *Client) patch(c *rest.RESTClient, kind schema.Kind, id object.ID, body []byte, manager string, force, dryRun bool) *rest.Request {
	r := k.as(c.Patch(types.ApplyPatchType)).AbsPath(urlPath(kind, id.Namespace, id.Name)...).Body(body).
		Param("fieldManager", manager)
	if force {
		r.Param("force", "true")
	}
	if dryRun {
		r.Param("dryRun", metav1.DryRunAll)
	}
	return r
}

// as says who a request is sent as. The API server adds the groups that a
// service account has.
func (k *Client) as(r *rest.Request) *rest.Request {
	if k.who.User != "" {
		r.SetHeader("Impersonate-User", k.who.User)
	}
	return r
}

func (k *Client) whole(ctx context.Context, r *rest.Request, q request) (*unstructured.Unstructured, error) {
	res, err := k.do(ctx, r, q)
	if err != nil {
		return nil, err
	}
	raw, err := res.Raw()
	if err != nil {
		return nil, explain(err, q)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(raw); err != nil {
		return nil, fault.New(fault.Rejected, "the answer of the API server cannot be read").On(q.id.String()).Because(err)
	}
	return o, nil
}

func (k *Client) do(ctx context.Context, r *rest.Request, q request) (rest.Result, error) {
	if err := q.check(); err != nil {
		return rest.Result{}, err
	}
	res, err := k.send(ctx, r)
	return res, explain(err, q)
}

// send sends one request once a slot is free. It does not retry: who executes a
// plan knows what may be repeated.
func (k *Client) send(ctx context.Context, r *rest.Request) (rest.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	select {
	case k.c.slots <- struct{}{}:
	case <-ctx.Done():
		return rest.Result{}, ctx.Err()
	}
	defer func() { <-k.c.slots }()
	res := r.MaxRetries(0).Do(ctx)
	return res, res.Error()
}

// urlPath returns the URL path of a kind's objects, or of one.
func urlPath(k schema.Kind, namespace, name string) []string {
	p := make([]string, 0, 7)
	if k.GVK.Group == "" {
		p = append(p, "/api", k.GVK.Version)
	} else {
		p = append(p, "/apis", k.GVK.Group, k.GVK.Version)
	}
	if namespace != "" && k.Namespaced {
		p = append(p, "namespaces", namespace)
	}
	p = append(p, k.Resource)
	if name != "" {
		p = append(p, name)
	}
	return p
}
