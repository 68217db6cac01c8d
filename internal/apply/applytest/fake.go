// Package applytest tests what executes plans and what they are executed
// through: an API in memory that owns fields as a real one does, and the
// conformance test that both it and a real client have to pass.
package applytest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// API is an API server in memory, with field ownership by leaf: maps are owned
// key by key, lists as a whole. ConfigMaps have no generation, all else has.
// Watches see what happened at once. It is safe for concurrent use.
type API struct {
	// Before, if set, is called before each request is carried out, with its verb
	// (apply, dry-run, delete). An error it returns is the answer.
	Before func(verb string, id object.ID) error
	// Owner, if set, reads an object's owner from its labels.
	Owner func(labels map[string]string) string

	mu       sync.Mutex
	clock    int
	objects  map[object.ID]*stored
	requests []string
}

type stored struct {
	uid        types.UID
	version    int
	generation int64
	values     map[string]string          // leaf → value as JSON
	owners     map[string]map[string]bool // manager → leaves
	deleting   bool
}

// New returns an API with the given namespaces and nothing else.
func New(namespaces ...string) *API {
	a := &API{objects: map[object.ID]*stored{}}
	for _, n := range namespaces {
		id := object.ID{Kind: "Namespace", Name: n}
		a.objects[id] = &stored{uid: a.newUID(), version: a.tick(), values: map[string]string{}, owners: map[string]map[string]bool{}}
	}
	return a
}

func (a *API) tick() int { a.clock++; return a.clock }

func (a *API) newUID() types.UID { return types.UID(fmt.Sprintf("uid-%d", a.tick())) }

// Requests returns "verb Kind/namespace/name" of every request so far.
func (a *API) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

// Value returns the value at a leaf, such as "/data/key", as JSON.
func (a *API) Value(id object.ID, leaf string) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.objects[id]
	if !ok {
		return "", false
	}
	v, ok := s.values[leaf]
	return v, ok
}

// Hold marks an object as being deleted, as a finalizer would keep it.
func (a *API) Hold(id object.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.objects[id].deleting = true
	a.objects[id].version = a.tick()
}

func (a *API) begin(verb string, kind schema.Kind, id object.ID) error {
	a.mu.Lock()
	a.requests = append(a.requests, verb+" "+id.String())
	a.mu.Unlock()
	if a.Before != nil {
		if err := a.Before(verb, id); err != nil {
			return err
		}
	}
	if kind.Resource == "" {
		return fault.New(fault.NotFound, "the cluster does not serve %s", kind.GVK).On(id.String()).Because(cluster.ErrNotServed)
	}
	return nil
}

// Look implements apply.Client.
func (a *API) Look(_ schema.Kind, id object.ID) (cluster.Record, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.objects[id]
	if !ok {
		return cluster.Record{}, false
	}
	return a.record(s), true
}

// Apply implements apply.Client.
func (a *API) Apply(_ context.Context, kind schema.Kind, id object.ID, body []byte, manager string, force, dryRun bool) (cluster.Record, error) {
	verb := "apply"
	if dryRun {
		verb = "dry-run"
	}
	if err := a.begin(verb, kind, id); err != nil {
		return cluster.Record{}, err
	}
	var o map[string]any
	if err := json.Unmarshal(body, &o); err != nil {
		return cluster.Record{}, fault.New(fault.Rejected, "not JSON").On(id.String())
	}
	wanted := map[string]string{}
	flatten("", o, wanted)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.exists(object.ID{Kind: "Namespace", Name: id.Namespace}) && id.Namespace != "" {
		return cluster.Record{}, fault.New(fault.NotFound, "namespace %s does not exist", id.Namespace).On(id.String())
	}
	s := a.draft(id)
	if taken := s.conflicts(manager, wanted); len(taken) > 0 && !force {
		return cluster.Record{}, fault.New(fault.Conflict, "others own fields of it: %s", strings.Join(taken, ", ")).On(id.String())
	}
	changed, spec := s.merge(manager, wanted)
	if kind.GVK.Kind != "ConfigMap" && (spec || s.generation == 0) {
		s.generation++
	}
	if dryRun {
		return a.record(s), nil
	}
	if changed || !a.exists(id) {
		s.version = a.tick()
	}
	a.objects[id] = s
	return a.record(s), nil
}

// Adopt implements apply.Client: names of peers are compared as they are.
func (a *API) Adopt(_ context.Context, kind schema.Kind, id object.ID, manager string, peers []string) error {
	if err := a.begin("adopt", kind, id); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.exists(id) {
		return nil
	}
	s := a.draft(id)
	for _, p := range peers {
		if leaves := s.owners[p]; p != manager && leaves != nil {
			delete(s.owners, p)
			if s.owners[manager] == nil {
				s.owners[manager] = map[string]bool{}
			}
			maps.Copy(s.owners[manager], leaves)
			s.version = a.tick()
		}
	}
	a.objects[id] = s
	return nil
}

// Strip implements apply.Client.
func (a *API) Strip(_ context.Context, kind schema.Kind, id object.ID, fields []object.Path, _ string) error {
	if err := a.begin("strip", kind, id); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.exists(id) {
		return nil
	}
	s := a.draft(id)
	for leaf := range s.values {
		p := path(leaf)
		if !slices.ContainsFunc(fields, func(f object.Path) bool { return len(f) <= len(p) && slices.Equal(f, p[:len(f)]) }) {
			continue
		}
		delete(s.values, leaf)
		for _, leaves := range s.owners {
			delete(leaves, leaf)
		}
		s.version = a.tick()
	}
	a.objects[id] = s
	return nil
}

// Get implements apply.Client.
func (a *API) Get(_ context.Context, kind schema.Kind, id object.ID) (*unstructured.Unstructured, error) {
	if err := a.begin("get", kind, id); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.objects[id]
	if !ok {
		return nil, fault.New(fault.NotFound, "not found").On(id.String())
	}
	o := &unstructured.Unstructured{Object: map[string]any{"kind": id.Kind}}
	for leaf, text := range s.values {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return nil, fmt.Errorf("%s: %w", leaf, err)
		}
		path(leaf).Set(o.Object, v)
	}
	o.SetName(id.Name)
	o.SetNamespace(id.Namespace)
	o.SetUID(s.uid)
	o.SetResourceVersion(fmt.Sprint(s.version))
	var entries []metav1.ManagedFieldsEntry
	for _, manager := range slices.Sorted(maps.Keys(s.owners)) {
		fields := object.Owned{}
		for leaf := range s.owners[manager] {
			fields = fields.Union(path(leaf).Owned())
		}
		raw, err := json.Marshal(fields)
		if err != nil {
			return nil, err
		}
		entries = append(entries, metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(string(raw)),
		})
	}
	o.SetManagedFields(entries)
	return o, nil
}

// path is the way to a leaf.
func path(leaf string) object.Path {
	var p object.Path
	for step := range strings.SplitSeq(strings.TrimPrefix(leaf, "/"), "/") {
		p = append(p, "f:"+step)
	}
	return p
}

func (a *API) exists(id object.ID) bool {
	_, ok := a.objects[id]
	return ok
}

// draft returns a copy of an object to change, or a new one.
func (a *API) draft(id object.ID) *stored {
	if s, ok := a.objects[id]; ok {
		return s.clone()
	}
	return &stored{uid: a.newUID(), values: map[string]string{}, owners: map[string]map[string]bool{}}
}

// Delete implements apply.Client.
func (a *API) Delete(_ context.Context, kind schema.Kind, id object.ID, uid types.UID, resourceVersion string, _ metav1.DeletionPropagation) error {
	if err := a.begin("delete", kind, id); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.objects[id]
	if !ok {
		return nil
	}
	if uid != "" && uid != s.uid || resourceVersion != "" && resourceVersion != fmt.Sprint(s.version) {
		return fault.New(fault.Conflict, "it changed since it was looked at").On(id.String()).Because(cluster.ErrChanged)
	}
	delete(a.objects, id)
	return nil
}

func (a *API) record(s *stored) cluster.Record {
	r := cluster.Record{UID: s.uid, ResourceVersion: fmt.Sprint(s.version), Generation: s.generation, Deleting: s.deleting}
	for _, manager := range slices.Sorted(maps.Keys(s.owners)) {
		leaves := slices.Sorted(maps.Keys(s.owners[manager]))
		sum := sha256.Sum256([]byte(strings.Join(leaves, "\n")))
		r.Entries = append(r.Entries, cluster.Entry{Manager: manager, Apply: true, Hash: cluster.Hash(sum[:16])})
	}
	if a.Owner != nil {
		labels := map[string]string{}
		for leaf, v := range s.values {
			if key, ok := strings.CutPrefix(leaf, "/metadata/labels/"); ok {
				labels[key] = strings.Trim(v, `"`)
			}
		}
		r.Owner = a.Owner(labels)
	}
	return r
}

func (s *stored) clone() *stored {
	c := *s
	c.values = maps.Clone(s.values)
	c.owners = map[string]map[string]bool{}
	for m, leaves := range s.owners {
		c.owners[m] = maps.Clone(leaves)
	}
	return &c
}

// conflicts returns the leaves that others own with another value.
func (s *stored) conflicts(manager string, wanted map[string]string) []string {
	var taken []string
	for other, leaves := range s.owners {
		for leaf := range leaves {
			if v, ok := wanted[leaf]; ok && other != manager && v != s.values[leaf] {
				taken = append(taken, leaf+" ("+other+")")
			}
		}
	}
	slices.Sort(taken)
	return taken
}

// merge sets what is wanted, takes it from others where it differs, and removes
// what the manager alone had and wants no more.
func (s *stored) merge(manager string, wanted map[string]string) (changed, spec bool) {
	touch := func(leaf string) {
		changed = true
		spec = spec || !strings.HasPrefix(leaf, "/metadata/")
	}
	for leaf := range s.owners[manager] {
		if _, ok := wanted[leaf]; ok {
			continue
		}
		delete(s.owners[manager], leaf)
		changed = true
		if !s.owned(leaf) {
			delete(s.values, leaf)
			touch(leaf)
		}
	}
	if s.owners[manager] == nil {
		s.owners[manager] = map[string]bool{}
	}
	for leaf, v := range wanted {
		if old, ok := s.values[leaf]; !ok || old != v {
			touch(leaf)
			for _, leaves := range s.owners {
				delete(leaves, leaf)
			}
		}
		changed = changed || !s.owners[manager][leaf]
		s.values[leaf], s.owners[manager][leaf] = v, true
	}
	return changed, spec
}

func (s *stored) owned(leaf string) bool {
	for _, leaves := range s.owners {
		if leaves[leaf] {
			return true
		}
	}
	return false
}

// flatten lists the leaves of an object; what every object has is not among them.
func flatten(prefix string, v any, into map[string]string) {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 && prefix != "" {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // it came from JSON
		}
		into[prefix] = string(b)
		return
	}
	for k, v := range m {
		switch path := prefix + "/" + k; path {
		case "/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/status":
		default:
			flatten(path, v, into)
		}
	}
}
