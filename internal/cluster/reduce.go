package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/holdfastcd/holdfast/internal/object"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
)

// seen is what is left of an object once it is decoded: its record and name.
// The object itself never leaves the decoder, so that a list of a thousand
// objects is never held.
type seen struct {
	key    key
	record Record
	meta   *metav1.ObjectMeta // where the kind is not known here, see own
	end    bool               // a bookmark that ends the initial list
	crd    *declared          // what a CustomResourceDefinition declares
}

// seenList is a list of seen objects; pagers find its Items by their name.
type seenList struct {
	metav1.ListMeta

	Items []runtime.Object
}

// GetObjectKind implements runtime.Object.
func (l *seenList) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object; a list of seen objects is never changed.
func (l *seenList) DeepCopyObject() runtime.Object { return l }

// GetObjectKind implements runtime.Object.
func (s *seen) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object; a seen object is never changed.
func (s *seen) DeepCopyObject() runtime.Object { return s }

// GetObjectMeta implements metav1.ObjectMetaAccessor, for the reflector.
func (s *seen) GetObjectMeta() metav1.Object {
	m := &metav1.ObjectMeta{Namespace: s.key.namespace, Name: s.key.name, ResourceVersion: s.record.ResourceVersion}
	if s.end {
		m.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	return m
}

// codecs returns the serializers for metadata, options and errors.
func codecs() runtime.NegotiatedSerializer { return scheme.Codecs.WithoutConversion() }

// reducer is the serializer of a client whose responses become seen objects.
type reducer struct {
	runtime.NegotiatedSerializer
	c *Cluster
	w *watcher // nil for answers to our own requests: no health
}

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (r reducer) DecoderToVersion(d runtime.Decoder, _ runtime.GroupVersioner) runtime.Decoder {
	return decoder{c: r.c, w: r.w, codec: d}
}

type decoder struct {
	c     *Cluster
	w     *watcher
	codec runtime.Decoder
}

// Decode implements runtime.Decoder: protobuf is metadata, JSON may be either.
func (d decoder) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if into != nil || !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return d.metadata(data, gvk, into)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, nil, err
	}
	var kind, version string
	_ = json.Unmarshal(top["kind"], &kind)
	_ = json.Unmarshal(top["apiVersion"], &version)
	got := schema.FromAPIVersionAndKind(version, kind)
	if kind == "Status" && version == "v1" {
		return d.codec.Decode(data, gvk, into)
	}
	if _, ok := top["items"]; ok && strings.HasSuffix(kind, "List") {
		s, err := d.list(top)
		return s, &got, err
	}
	s, err := d.object(top)
	return s, &got, err
}

// metadata decodes what the API server reduced to metadata, and errors.
func (d decoder) metadata(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	o, got, err := d.codec.Decode(data, gvk, into)
	if err != nil {
		return nil, got, err
	}
	switch o := o.(type) {
	case *metav1.PartialObjectMetadata:
		return d.reduce(&o.ObjectMeta), got, nil
	case *metav1.PartialObjectMetadataList:
		l := &seenList{ListMeta: o.ListMeta}
		for i := range o.Items {
			l.Items = append(l.Items, d.reduce(&o.Items[i].ObjectMeta))
		}
		return l, got, nil
	}
	return o, got, nil
}

// list decodes a list from JSON, one item at a time.
func (d decoder) list(top map[string]json.RawMessage) (*seenList, error) {
	l := &seenList{}
	if err := json.Unmarshal(top["metadata"], &l.ListMeta); err != nil {
		return nil, err
	}
	var items []json.RawMessage
	if err := json.Unmarshal(top["items"], &items); err != nil {
		return nil, err
	}
	for i := range items {
		var item map[string]json.RawMessage
		if err := json.Unmarshal(items[i], &item); err != nil {
			return nil, err
		}
		s, err := d.object(item)
		if err != nil {
			return nil, err
		}
		l.Items = append(l.Items, s)
	}
	return l, nil
}

// object reduces one object from JSON. Where health is asked for, the rest of
// the object is decoded for as long as judging takes.
func (d decoder) object(top map[string]json.RawMessage) (*seen, error) {
	var m metav1.ObjectMeta
	if err := json.Unmarshal(top["metadata"], &m); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	s := d.reduce(&m)
	if d.w == nil || m.Name == "" {
		return s, nil
	}
	if d.w.kind.GVK.GroupKind() == crdKind {
		var err error
		if s.crd, err = parseCRD(top["spec"], top["status"]); err != nil {
			return nil, err
		}
		d.judge(s, s.crd.sketch(&m, d.w.kind))
		return s, nil
	}
	if !d.w.whole {
		return s, nil
	}
	o, err := assemble(top, &m, d.w.kind)
	if err == nil {
		d.judge(s, o)
	}
	return s, err
}

func (d decoder) judge(s *seen, o map[string]any) {
	s.record.Health, s.record.Judged = d.c.opts.Health(&unstructured.Unstructured{Object: o})
}

// assemble makes the object that health is judged by: everything but managedFields.
func assemble(top map[string]json.RawMessage, m *metav1.ObjectMeta, kind hschema.Kind) (map[string]any, error) {
	o := make(map[string]any, len(top))
	for name, raw := range top {
		if name == "metadata" {
			continue
		}
		var v any
		if err := utiljson.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		o[name] = v
	}
	o["apiVersion"], o["kind"] = kind.GVK.GroupVersion().String(), kind.GVK.Kind
	meta, err := plainMeta(m)
	o["metadata"] = meta
	return o, err
}

func plainMeta(m *metav1.ObjectMeta) (map[string]any, error) {
	c := *m
	c.ManagedFields = nil
	return runtime.DefaultUnstructuredConverter.ToUnstructured(&c)
}

// reduce makes the record of an object from its metadata.
func (d decoder) reduce(m *metav1.ObjectMeta) *seen {
	s := &seen{
		key: key{d.c.names.intern(m.Namespace), m.Name},
		end: m.Annotations[metav1.InitialEventsAnnotationKey] == "true",
		record: Record{
			UID:             m.UID,
			ResourceVersion: m.ResourceVersion,
			Generation:      m.Generation,
			Entries:         d.c.entries(m.ManagedFields),
			Deleting:        m.DeletionTimestamp != nil,
			LastApplied:     m.Annotations[object.LastApplied] != "",
		},
	}
	s.record.KeptInPrune, s.record.KeptInDelete = d.c.opts.Kept(m.Labels, m.Annotations)
	if d.w == nil {
		s.meta = m
		return s
	}
	gk := d.w.kind.GVK.GroupKind()
	s.own(d.c, object.ID{Group: gk.Group, Kind: gk.Kind, Namespace: m.Namespace, Name: m.Name}, m)
	return s
}

// own reads the object's owner from its marks. Answers to our own requests, which
// are reduced without their kind, are completed by whoever sent the request.
func (s *seen) own(c *Cluster, id object.ID, m *metav1.ObjectMeta) {
	s.record.Owner = c.names.intern(c.opts.Owner(id, m.Labels, m.Annotations))
	s.meta = nil
}

// entries reduces managedFields. Those of status are left out: they change all
// the time and touch nothing that we own.
func (c *Cluster) entries(fields []metav1.ManagedFieldsEntry) []Entry {
	n := 0
	for i := range fields {
		if fields[i].Subresource != "status" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	entries := make([]Entry, 0, n)
	for i := range fields {
		f := &fields[i]
		if f.Subresource != "status" {
			entries = append(entries, Entry{
				Manager: c.names.intern(f.Manager),
				Apply:   f.Operation == metav1.ManagedFieldsOperationApply,
				Status:  c.opts.StatusManager != "" && f.Manager == c.opts.StatusManager,
				Part:    f.Subresource != "",
				Scale:   f.Subresource == "scale",
				Hash:    hashEntry(f),
			})
		}
	}
	return entries
}

// hashEntry digests all of an entry but its manager.
func hashEntry(f *metav1.ManagedFieldsEntry) Hash {
	h := sha256.New()
	var when []byte
	if f.Time != nil {
		when = binary.AppendVarint(when, f.Time.Unix())
	}
	h.Write(append(when, 0))
	h.Write([]byte(f.APIVersion + "\x00" + f.Subresource + "\x00" + f.FieldsType + "\x00"))
	if f.FieldsV1 != nil {
		h.Write(plainJSON(f.FieldsV1.GetRawBytes()))
	}
	var sum [sha256.Size]byte
	return Hash(h.Sum(sum[:0])[:len(Hash{})])
}

// plainJSON undoes the escapes that JSON encoders of Go add for HTML: the same
// fields come with them in JSON and without them in protobuf.
func plainJSON(raw []byte) []byte {
	if !bytes.Contains(raw, []byte(`\u`)) {
		return raw
	}
	r := strings.NewReplacer(`\\`, `\\`, `\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\u2028`, "\u2028", `\u2029`, "\u2029")
	return []byte(r.Replace(string(raw)))
}

// interner keeps one copy of each string that many records share.
type interner struct {
	mu  sync.RWMutex
	all map[string]string
}

// maxInterned bounds an interner: managers, namespaces and owners are few, and
// where they are not, sharing them is not worth the memory.
const maxInterned = 16384

func (n *interner) intern(s string) string {
	if s == "" {
		return ""
	}
	n.mu.RLock()
	known, ok := n.all[s]
	n.mu.RUnlock()
	if ok {
		return known
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all == nil {
		n.all = map[string]string{}
	}
	if len(n.all) < maxInterned {
		n.all[s] = s
	}
	return s
}
