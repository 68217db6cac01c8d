package flux

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// The kinds that variables come from.
const (
	kindSecret    = "Secret"
	kindConfigMap = "ConfigMap"
)

// watchLabel, set to Enabled, has changes of a ConfigMap or Secret noticed at
// once, as with Flux; of others they are at the interval.
const (
	watchLabel   = "reconcile.fluxcd.io/watch"
	watchEnabled = "Enabled"
)

// variables are what was last read for a Kustomization. They are read again with
// a new revision or generation, on request, after the interval, and when a watch
// says that they moved; not with every event.
type variables struct {
	mu     sync.Mutex
	key    string // what they were read for
	until  time.Time
	values map[VariablesRef]map[string]string
}

// known returns what was read, without asking anybody.
func (v *variables) known(ref VariablesRef) (map[string]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	values, ok := v.values[ref]
	if !ok {
		return nil, fault.New(fault.Waiting, "%s %s/%s was not read yet", ref.Kind, ref.Namespace, ref.Name)
	}
	return values, nil
}

// expire makes the next pass read again. It does not wait for a pass under way,
// but for a moment.
func (v *variables) expire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.key = ""
}

// begin forgets what was read for something else, or too long ago.
func (v *variables) begin(key string, now time.Time, lasts time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.key != key || !now.Before(v.until) {
		v.key, v.until, v.values = key, now.Add(lasts), map[VariablesRef]map[string]string{}
	}
}

func (v *variables) keep(ref VariablesRef, values map[string]string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.values != nil {
		v.values[ref] = values
	}
}

// variables returns what reads references for one pass.
func (c *kustomizations) variables(ctx context.Context, p pass, label string) func(VariablesRef) (map[string]string, error) {
	v := &p.memory.variables
	key := fmt.Sprintf("%s %d %s", label, p.ks.Generation, requested(p.ks.Annotations))
	v.begin(key, c.env.Clock(), p.ks.Spec.Interval.Duration*4/5)
	return func(ref VariablesRef) (map[string]string, error) {
		if values, err := v.known(ref); err == nil {
			return values, nil
		}
		values, err := ReadVariables(ctx, c.env.Engine.Cluster, ref)
		if err == nil {
			v.keep(ref, values)
		}
		return values, err
	}
}

// ReadVariables reads the variables of a ConfigMap or Secret as the account of
// ref. Errors are *fault.Error, without values: NotFound, Refused (the account may
// not read it), Invalid, Unreachable.
func ReadVariables(ctx context.Context, c *cluster.Cluster, ref VariablesRef) (map[string]string, error) {
	at := fmt.Sprintf("%s %s/%s", ref.Kind, ref.Namespace, ref.Name)
	kind, ok := c.Kinds().Lookup(corev1.SchemeGroupVersion.WithKind(ref.Kind))
	if !ok {
		return nil, fault.New(fault.Unreachable, "the cluster does not serve %ss", ref.Kind)
	}
	u, err := c.As(ref.Account).Get(ctx, kind, object.ID{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name})
	switch {
	case err == nil:
		return readData(u, at)
	case fault.KindOf(err) == fault.NotFound:
		return nil, fault.New(fault.NotFound, "%s, which spec.postBuild.substituteFrom names, does not exist", at)
	case fault.KindOf(err) == fault.Rejected:
		return nil, fault.New(fault.Refused, "the account that delivers may not read %s", at).
			WithHint("grant get on it to the account of spec.serviceAccountName")
	}
	return nil, fault.New(fault.Unreachable, "%s cannot be read: %s", at, err).Because(err)
}

// readData reads the values of a ConfigMap or Secret.
func readData(u *unstructured.Unstructured, at string) (map[string]string, error) {
	data, _, err := unstructured.NestedStringMap(u.Object, "data")
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s cannot be read", at) // the error would repeat a value
	}
	if u.GetKind() != kindSecret {
		return data, nil
	}
	values := make(map[string]string, len(data))
	for key, encoded := range data {
		value, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the key %s of %s is not base64", key, at)
		}
		values[key] = string(value)
	}
	return values, nil
}

// configIndex indexes Kustomizations by the ConfigMaps and Secrets that they take
// variables from.
func configIndex(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	listed, _, err := unstructured.NestedSlice(u.Object, "spec", "postBuild", "substituteFrom")
	if err != nil {
		return nil
	}
	var keys []string
	for _, item := range listed {
		ref, _ := item.(map[string]any)
		keys = append(keys, configKey(fmt.Sprint(ref["kind"]), u.GetNamespace(), fmt.Sprint(ref["name"])))
	}
	return keys
}

func configKey(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// moved has those deliver again who take variables from a ConfigMap or Secret.
func (c *kustomizations) moved(ctx context.Context, kind, namespace, name string) {
	all, err := c.desk.list(ctx, client.MatchingFields{byConfig: configKey(kind, namespace, name)})
	if err != nil {
		c.env.Log.Error("cannot look up who takes variables", "from", configKey(kind, namespace, name), "error", err)
		return
	}
	for i := range all {
		name := types.NamespacedName{Namespace: all[i].GetNamespace(), Name: all[i].GetName()}
		c.memories.Of(name).variables.expire()
		c.trigger.Add(name, dialect.Touched)
	}
}

// watchConfigs has changes of labelled ConfigMaps and Secrets noticed at once.
// Only their metadata is watched.
func (c *kustomizations) watchConfigs(mgr ctrl.Manager) error {
	labelled, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient:           mgr.GetHTTPClient(),
		Scheme:               mgr.GetScheme(),
		Mapper:               mgr.GetRESTMapper(),
		DefaultLabelSelector: labels.SelectorFromSet(labels.Set{watchLabel: watchEnabled}),
	})
	if err != nil {
		return fault.New(fault.Internal, "cannot set up the watch of variables: %s", err).Because(err)
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		for _, kind := range []string{kindConfigMap, kindSecret} {
			if err := c.follow(ctx, labelled, kind); err != nil {
				return err
			}
		}
		return labelled.Start(ctx)
	}))
}

// follow tells the changes of one kind. The first list is none: everything is
// read at the start anyway.
func (c *kustomizations) follow(ctx context.Context, from cache.Cache, kind string) error {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	informer, err := from.GetInformer(ctx, o, cache.BlockUntilSynced(false))
	if err != nil {
		return fault.New(fault.Unreachable, "cannot watch %ss: %s", kind, err).Because(err)
	}
	tell := func(o any) {
		if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if m, ok := o.(metav1.Object); ok {
			c.moved(ctx, kind, m.GetNamespace(), m.GetName())
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			if !initial {
				tell(o)
			}
		},
		UpdateFunc: func(old, o any) {
			before, ok := old.(metav1.Object)
			after, also := o.(metav1.Object)
			if !ok || !also || before.GetResourceVersion() != after.GetResourceVersion() {
				tell(o)
			}
		},
		DeleteFunc: tell,
	})
	return err
}
