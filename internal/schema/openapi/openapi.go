// Package openapi judges objects by the schemas of the kinds that a release of
// Kubernetes serves, and by those in CustomResourceDefinitions, without a cluster.
//
// The schemas of the last four minor releases are embedded in one file, made from
// Kubernetes' own OpenAPI documents; docs/design/schemas.md says how. The file is
// read on first use.
package openapi

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrUnknownKind is a Problem's Err if nothing is known of an object's kind: a
// custom resource whose definition was not given.
var ErrUnknownKind = errors.New("unknown kind")

// Problem is one thing that is wrong with an object.
type Problem struct {
	// Path is the field, such as spec.template.spec.containers[0].image; empty for the
	// object as a whole. Of a field that is missing it is what lacks it.
	Path string
	// Message says what is wrong, in the words that kubectl and the API server use.
	Message string
	// Err is ErrUnknownKind or nil.
	Err error
}

// String returns path and message.
func (p Problem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// most is how many problems of one object are told.
const most = 100

// Schemas are the schemas of one minor release, and of custom resources. They do
// not change, and may be used by several goroutines.
type Schemas struct {
	minor    int
	builtin  map[kind]*node
	groups   map[string]bool // of Kubernetes itself
	gone     map[kind]removal
	metadata *node
	custom   map[kind]*node
}

// kind is an apiVersion and a kind.
type kind struct{ version, name string }

// removal is when a kind was removed, and what to use instead.
type removal struct {
	minor   int
	instead string
}

// Minors returns the releases of which schemas are known, such as "1.36", oldest
// first.
func Minors() []string { return slices.Clone(embedded().minors) }

// For returns the schemas of a minor release such as "1.36"; "" is the newest. The
// error names those that are known.
func For(minor string) (*Schemas, error) {
	all := embedded()
	if minor == "" {
		minor = all.minors[len(all.minors)-1]
	}
	read, known := all.read[strings.TrimPrefix(minor, "v")]
	if !known {
		return nil, fmt.Errorf("there are no schemas of Kubernetes %q: say one of %s", minor, strings.Join(all.minors, ", "))
	}
	return read(), nil
}

// Minor returns the release, such as "1.36".
func (s *Schemas) Minor() string { return fmt.Sprintf("1.%d", s.minor) }

// Knows says whether objects of a kind can be judged.
func (s *Schemas) Knows(apiVersion, name string) bool { return s.find(kind{apiVersion, name}) != nil }

func (s *Schemas) find(k kind) *node {
	if n := s.builtin[k]; n != nil {
		return n
	}
	return s.custom[k]
}

// With returns schemas that know the kinds of CustomResourceDefinitions too; other
// objects among crds are left out, and so is what cannot be read, of which the
// errors tell. A definition replaces an earlier one of the same kind.
func (s *Schemas) With(crds []map[string]any) (*Schemas, []error) {
	more := *s
	more.custom = maps.Clone(s.custom)
	if more.custom == nil {
		more.custom = map[kind]*node{}
	}
	var failed []error
	for _, crd := range crds {
		if crd["kind"] != "CustomResourceDefinition" || !strings.HasPrefix(text(crd, "apiVersion"), "apiextensions.k8s.io/") {
			continue
		}
		if err := more.define(crd); err != nil {
			failed = append(failed, err)
		}
	}
	return &more, failed
}

// Validate returns what is wrong with an object by its schema, in the order of the
// fields; none if all is well. What only the API server can know, and rules in CEL,
// are not judged.
func (s *Schemas) Validate(o map[string]any) []Problem {
	k := kind{text(o, "apiVersion"), text(o, "kind")}
	for _, name := range []string{"apiVersion", "kind"} {
		if text(o, name) == "" {
			return []Problem{{Message: fmt.Sprintf("missing required field %q", name)}}
		}
	}
	if k == listOfAny {
		return s.items(o)
	}
	n := s.find(k)
	if n == nil {
		return []Problem{s.unknown(k)}
	}
	v := &validation{}
	v.value(n, o, nil)
	v.named(o)
	slices.SortFunc(v.problems, func(a, b Problem) int {
		return strings.Compare(a.Path+"\x00"+a.Message, b.Path+"\x00"+b.Message)
	})
	return v.problems
}

// listOfAny is the kind of a file that holds several objects; the server never sees
// it.
var listOfAny = kind{"v1", "List"}

// items judges what is in a list.
func (s *Schemas) items(o map[string]any) []Problem {
	var all []Problem
	items, _ := o["items"].([]any)
	for i, item := range items {
		object, _ := item.(map[string]any)
		for _, p := range s.Validate(object) {
			p.Path = strings.TrimSuffix(fmt.Sprintf("items[%d].%s", i, p.Path), ".")
			if all = append(all, p); len(all) == most {
				return all
			}
		}
	}
	return all
}

// unknown says why there is no schema for a kind.
func (s *Schemas) unknown(k kind) Problem {
	message := fmt.Sprintf("no matches for kind %q in version %q", k.name, k.version)
	instead := s.instead(k)
	gone, known := s.gone[k]
	if known && gone.minor <= s.minor {
		message += fmt.Sprintf(": not served since Kubernetes 1.%d", gone.minor)
		if gone.instead != "" {
			instead = gone.instead
		}
	}
	if instead != "" {
		message += "; use " + instead
	}
	group, _, grouped := strings.Cut(k.version, "/")
	if !grouped {
		group = ""
	}
	if known || s.groups[group] {
		return Problem{Path: "apiVersion", Message: message}
	}
	return Problem{Path: "apiVersion", Message: message, Err: ErrUnknownKind}
}

// instead finds what may have been meant: the kind in another version of its group,
// or a kind of almost this name in the same version; "" if there is neither.
func (s *Schemas) instead(k kind) string {
	group, _, _ := strings.Cut(k.version, "/")
	var versions, names []string
	for _, known := range []map[kind]*node{s.builtin, s.custom} {
		for other := range known {
			otherGroup, _, _ := strings.Cut(other.version, "/")
			switch {
			case other.name == k.name && group == otherGroup && strings.Contains(k.version, "/"):
				versions = append(versions, other.version)
			case other.version == k.version:
				names = append(names, other.name)
			}
		}
	}
	if len(versions) > 0 {
		return slices.MinFunc(versions, byAge)
	}
	if name := meant(k.name, names); name != "" {
		return "kind " + name
	}
	return ""
}

// byAge orders versions by what should be used: v1 is before v1beta1.
func byAge(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(b, a)
}

// text returns a field that is a string, or "".
func text(o map[string]any, name string) string {
	s, _ := o[name].(string)
	return s
}
