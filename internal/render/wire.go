package render

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"path"
	"strings"
	"unicode"

	validate "k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// Bounds of one rendering.
const (
	maxFile    = 10<<20 - 1 // bytes of one file: 10 MiB are refused
	maxRead    = 128 << 20  // bytes of all files read
	maxOutput  = 64 << 20   // bytes of all objects
	maxObjects = 20_000
	maxValues  = 1_000_000 // in all objects: in memory, one takes some hundred bytes, however short it is written
)

// rendered is one object on its way out of the worker, and in the cache.
type rendered struct {
	File   string          `json:"file,omitempty"`
	Line   int             `json:"line,omitempty"`
	Object json.RawMessage `json:"object"`
}

// output collects what a renderer in the worker gives.
type output []rendered

// add checks that value names an object, and appends it.
func (o *output) add(value map[string]any, origin object.Origin) error {
	if err := identify(value); err != nil {
		return err.At(origin.File, origin.Line)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fault.New(fault.Invalid, "this has no JSON form: %v", err).At(origin.File, origin.Line)
	}
	*o = append(*o, rendered{File: origin.File, Line: origin.Line, Object: raw})
	return nil
}

// identify checks that value has what every Kubernetes object has, and that it
// can be written into a path and a line.
func identify(value map[string]any) *fault.Error {
	for _, key := range []string{"apiVersion", "kind"} {
		s, ok := value[key].(string)
		if !ok || s == "" {
			return fault.New(fault.Invalid, "this is not a Kubernetes object: it has no %s", key)
		}
		if !printable(s) || strings.Count(s, "/") > 1 {
			return fault.New(fault.Invalid, "this is not a Kubernetes object: its %s is %q", key, s)
		}
	}
	meta, _ := value["metadata"].(map[string]any)
	if s, ok := meta["name"].(string); ok && s != "" {
		return named(meta, s)
	}
	f := fault.New(fault.Invalid, "this %s has no metadata.name", value["kind"])
	if _, ok := meta["generateName"]; ok {
		return f.WithHint("generateName makes a new object each time, so nothing could be held to it")
	}
	return f
}

// named checks that the cluster could have an object of this name: both names
// become parts of a path, and of every message about the object.
func named(meta map[string]any, name string) *fault.Error {
	namespace, _ := meta["namespace"].(string)
	for _, s := range []string{name, namespace} {
		if bad := validate.IsPathSegmentName(s); len(bad) > 0 {
			return fault.New(fault.Invalid, "%q cannot be a name: it %s", s, strings.Join(bad, ", "))
		}
		if !printable(s) {
			return fault.New(fault.Invalid, "%q cannot be a name: it contains what cannot be printed", s)
		}
	}
	return nil
}

// printable reports whether s shows in a line as it is.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// decode reads objects that were encoded. Errors are fault.Internal.
func decode(body []byte) ([]object.Object, [32]byte, error) {
	var list output
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, [32]byte{}, fault.New(fault.Internal, "the rendered objects cannot be read: %v", err)
	}
	return unpack(list)
}

// unpack reads what a worker gave. It is checked again: the worker ran what a
// tenant wrote. Errors are fault.Internal, or Limit.
func unpack(list output) ([]object.Object, [32]byte, error) {
	if len(list) > maxObjects {
		return nil, [32]byte{}, fault.New(fault.Internal, "%d rendered objects are too many", len(list))
	}
	objects := make([]object.Object, 0, len(list))
	left := maxValues
	for _, r := range list {
		if left -= values(r.Object); left < 0 {
			return nil, [32]byte{}, fault.New(fault.Limit, "the rendered objects hold more than %d values", maxValues).At(r.File, r.Line)
		}
		var value map[string]any
		if err := kjson.Unmarshal(r.Object, &value); err != nil {
			return nil, [32]byte{}, fault.New(fault.Internal, "a rendered object cannot be read: %v", err)
		}
		if err := identify(value); err != nil {
			return nil, [32]byte{}, err.At(r.File, r.Line)
		}
		objects = append(objects, object.Object{
			Unstructured: unstructured.Unstructured{Object: value},
			Origin:       object.Origin{File: r.File, Line: r.Line},
		})
	}
	return objects, digest(list), nil
}

// values counts what of JSON takes a place in memory, before it does.
func values(raw []byte) int {
	n, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	return n
}

// encode is the inverse of decode.
func encode(objects []object.Object) ([]byte, error) {
	list := make(output, 0, len(objects))
	for i := range objects {
		if err := list.add(objects[i].Object, objects[i].Origin); err != nil {
			return nil, err
		}
	}
	return json.Marshal(list)
}

// digest is over the objects alone: that a line above an object was inserted
// changes nothing in the cluster.
func digest(list []rendered) [32]byte {
	h := sha256.New()
	var size [8]byte
	for _, r := range list {
		binary.BigEndian.PutUint64(size[:], uint64(len(r.Object)))
		h.Write(size[:])
		h.Write(r.Object)
	}
	return [32]byte(h.Sum(nil))
}

// directory returns the request's path relative to the root of the tree.
func (r Request) directory() string {
	dir := path.Clean(strings.TrimLeft(r.Path, "/"))
	if dir == "." {
		return ""
	}
	return dir
}
