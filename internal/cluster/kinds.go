package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"

	"github.com/holdfastcd/holdfast/internal/fault"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
)

var crdKind = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}

// kindSet is one state of what the cluster serves. It is never changed once
// published, so that a plan is made from one state.
type kindSet struct {
	served    map[schema.GroupVersionKind]hschema.Kind
	preferred map[schema.GroupKind]hschema.Kind
	blind     map[schema.GroupVersionKind]bool // cannot be watched
}

func newKindSet() *kindSet {
	return &kindSet{
		served:    map[schema.GroupVersionKind]hschema.Kind{},
		preferred: map[schema.GroupKind]hschema.Kind{},
		blind:     map[schema.GroupVersionKind]bool{},
	}
}

// Lookup implements schema.Kinds.
func (s *kindSet) Lookup(gvk schema.GroupVersionKind) (hschema.Kind, bool) {
	k, ok := s.served[gvk]
	return k, ok
}

// add takes a kind; the first version added of a kind is the preferred one.
func (s *kindSet) add(k hschema.Kind) {
	if _, ok := s.served[k.GVK]; !ok {
		s.served[k.GVK] = k
	}
	if _, ok := s.preferred[k.GVK.GroupKind()]; !ok {
		s.preferred[k.GVK.GroupKind()] = k
	}
}

func (s *kindSet) clone() *kindSet {
	return &kindSet{maps.Clone(s.served), maps.Clone(s.preferred), s.blind}
}

// Kinds returns what the cluster serves now, as a value that does not change.
func (c *Cluster) Kinds() hschema.Kinds { return c.kinds.Load() }

// LookupGroupKind returns a kind in the version that the cluster prefers.
func (c *Cluster) LookupGroupKind(gk schema.GroupKind) (hschema.Kind, bool) {
	k, ok := c.kinds.Load().preferred[gk]
	return k, ok
}

// Rediscover asks the cluster anew what it serves, for kinds that no
// CustomResourceDefinition announces. It has no effect if the last time is less
// than 15 seconds ago. Errors: Unreachable, Unauthorized, Rejected.
func (c *Cluster) Rediscover(ctx context.Context) error {
	c.kindsMu.Lock()
	wait := c.opts.Clock().Sub(c.asked) < rediscoverAtMost
	c.kindsMu.Unlock()
	if wait {
		return nil
	}
	return c.discover(ctx)
}

// discover asks the API server for everything that it serves.
func (c *Cluster) discover(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.New(fault.Unreachable, "interrupted").Because(err)
	}
	client := &http.Client{Transport: c.http.Transport, Timeout: requestTimeout}
	d, err := discovery.NewDiscoveryClientForConfigAndClient(c.config, client)
	if err != nil {
		return fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	groups, lists, err := discovery.ServerGroupsAndResources(d)
	var partly *discovery.ErrGroupDiscoveryFailed
	if err != nil && !errors.As(err, &partly) {
		return explain(err, request{verb: "discover"})
	}
	set := collect(groups, lists)
	c.kindsMu.Lock()
	c.asked = c.opts.Clock()
	if partly != nil {
		c.keepFailed(set, partly)
	}
	c.crds.discovered = set
	tell := c.publish()
	c.kindsMu.Unlock()
	tell()
	return nil
}

// keepFailed keeps the kinds of groups whose server did not answer: an outage of
// an aggregated API is no reason to think that its objects are gone.
func (c *Cluster) keepFailed(set *kindSet, partly *discovery.ErrGroupDiscoveryFailed) {
	for _, k := range c.kinds.Load().served {
		if _, failed := partly.Groups[k.GVK.GroupVersion()]; failed {
			set.add(k)
		}
	}
}

// collect makes a set from discovery, each group's preferred version first.
func collect(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) *kindSet {
	byVersion := map[string]*metav1.APIResourceList{}
	for _, l := range lists {
		byVersion[l.GroupVersion] = l
	}
	set := newKindSet()
	for _, g := range groups {
		versions := append([]metav1.GroupVersionForDiscovery{g.PreferredVersion}, g.Versions...)
		for _, v := range versions {
			if l := byVersion[v.GroupVersion]; l != nil {
				set.addList(schema.GroupVersion{Group: g.Name, Version: v.Version}, l)
			}
		}
	}
	return set
}

func (s *kindSet) addList(gv schema.GroupVersion, l *metav1.APIResourceList) {
	for i := range l.APIResources {
		r := &l.APIResources[i]
		if strings.Contains(r.Name, "/") {
			continue
		}
		k := hschema.Kind{GVK: gv.WithKind(r.Kind), Resource: r.Name, Namespaced: r.Namespaced}
		s.add(k)
		if !slices.Contains(r.Verbs, "watch") {
			s.blind[k.GVK] = true
		}
	}
}

// crdSet is what CustomResourceDefinitions say over what discovery said.
type crdSet struct {
	discovered *kindSet
	// byName holds every definition seen; nil for those that are gone, which an
	// answer of discovery may still name.
	byName map[string]*declared
}

func newCRDSet() crdSet {
	return crdSet{discovered: newKindSet(), byName: map[string]*declared{}}
}

// learn takes what the watch shows of definitions, by name; nil for gone ones.
func (c *Cluster) learn(seen map[string]*declared) {
	c.kindsMu.Lock()
	changed := false
	for name, d := range seen {
		old, known := c.crds.byName[name]
		if !known || !reflect.DeepEqual(old, d) {
			c.crds.byName[name] = d
			changed = true
		}
	}
	tell := func() {}
	if changed {
		tell = c.publish()
	}
	c.kindsMu.Unlock()
	tell()
}

// publish makes the current set from discovery and definitions. What it returns
// tells those who wait for new kinds and ends the watches of those that are gone;
// it is called without the lock.
func (c *Cluster) publish() (tell func()) {
	old, set := c.kinds.Load(), c.crds.compose()
	c.kinds.Store(set)
	return func() {
		for _, gk := range without(old, set) {
			c.drop(gk)
		}
		if added := without(set, old); len(added) > 0 {
			c.newKinds.tell(added)
		}
	}
}

// without returns the kinds of a that b lacks.
func without(a, b *kindSet) []schema.GroupKind {
	var kinds []schema.GroupKind
	for gk := range a.preferred {
		if _, ok := b.preferred[gk]; !ok {
			kinds = append(kinds, gk)
		}
	}
	return kinds
}

// compose lays the definitions over what discovery said.
func (s *crdSet) compose() *kindSet {
	set := s.discovered.clone()
	defined := func(k hschema.Kind) bool {
		_, ok := s.byName[k.Resource+"."+k.GVK.Group]
		return ok
	}
	maps.DeleteFunc(set.served, func(_ schema.GroupVersionKind, k hschema.Kind) bool { return defined(k) })
	maps.DeleteFunc(set.preferred, func(_ schema.GroupKind, k hschema.Kind) bool { return defined(k) })
	for _, d := range s.byName {
		if d == nil || !d.established() {
			continue
		}
		for _, v := range d.served() {
			gvk := schema.GroupVersionKind{Group: d.spec.Group, Version: v, Kind: d.spec.Names.Kind}
			set.add(hschema.Kind{GVK: gvk, Resource: d.spec.Names.Plural, Namespaced: d.spec.Scope == "Namespaced"})
		}
	}
	return set
}

// declared is what a CustomResourceDefinition says, without its schemas.
type declared struct {
	spec   crdSpec
	status crdStatus
}

type crdSpec struct {
	Group string `json:"group"`
	Scope string `json:"scope"`
	Names struct {
		Kind   string `json:"kind"`
		Plural string `json:"plural"`
	} `json:"names"`
	Versions []struct {
		Name   string `json:"name"`
		Served bool   `json:"served"`
	} `json:"versions"`
}

type crdStatus struct {
	Conditions []struct {
		Type               string `json:"type"`
		Status             string `json:"status"`
		Reason             string `json:"reason,omitempty"`
		Message            string `json:"message,omitempty"`
		ObservedGeneration int64  `json:"observedGeneration,omitempty"`
	} `json:"conditions"`
}

func parseCRD(spec, status json.RawMessage) (*declared, error) {
	var d declared
	if err := json.Unmarshal(spec, &d.spec); err != nil {
		return nil, err
	}
	if len(status) == 0 {
		return &d, nil
	}
	return &d, json.Unmarshal(status, &d.status)
}

func (d *declared) established() bool {
	for _, c := range d.status.Conditions {
		if c.Type == "Established" {
			return c.Status == "True"
		}
	}
	return false
}

// served returns the versions served, the most stable first.
func (d *declared) served() []string {
	var versions []string
	for _, v := range d.spec.Versions {
		if v.Served {
			versions = append(versions, v.Name)
		}
	}
	slices.SortFunc(versions, func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
	return versions
}

// sketch is as much of a definition as health needs.
func (d *declared) sketch(m *metav1.ObjectMeta, kind hschema.Kind) map[string]any {
	conditions := make([]any, 0, len(d.status.Conditions))
	for _, c := range d.status.Conditions {
		conditions = append(conditions, map[string]any{
			"type": c.Type, "status": c.Status, "reason": c.Reason, "message": c.Message,
		})
	}
	meta, err := plainMeta(m)
	if err != nil {
		meta = map[string]any{"name": m.Name}
	}
	return map[string]any{
		"apiVersion": kind.GVK.GroupVersion().String(), "kind": kind.GVK.Kind,
		"metadata": meta,
		"spec": map[string]any{
			"group": d.spec.Group, "scope": d.spec.Scope,
			"names": map[string]any{"kind": d.spec.Names.Kind, "plural": d.spec.Names.Plural},
		},
		"status": map[string]any{"conditions": conditions},
	}
}
