package openapi

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"
)

//go:embed openapi.txt.gz
var packed []byte

// node is what is known of one place in an object.
type node struct {
	// form is what a value has to be: one of the letters that the head of the file
	// explains, '@' for an object with fields, or 0 for anything.
	form     byte
	item     *node            // of a list's items, a map's values
	fields   map[string]*node // of an object
	required []string
	open     bool     // fields that are not known are kept
	enum     []string // the texts that are allowed; "" is always
	rules    *rules   // of custom resources
}

// archive is the embedded file, as far as it is the same for all releases.
type archive struct {
	minors []string
	read   map[string]func() *Schemas
}

// embedded reads the file's head on first use, and each release when it is asked
// for.
var embedded = sync.OnceValue(func() *archive {
	a := &archive{read: map[string]func() *Schemas{}}
	for line := range strings.Lines(unpacked()) {
		if rest, ok := strings.CutPrefix(line, "minors "); ok {
			a.minors = strings.Fields(rest)
			break
		}
	}
	for i, minor := range a.minors {
		a.read[minor] = sync.OnceValue(func() *Schemas {
			s, err := decode(unpacked(), a.minors, i)
			if err != nil {
				panic(err) // the file is part of the program, and a test reads it
			}
			return s
		})
	}
	return a
})

// unpacked returns the text of the file. It is not kept.
func unpacked() string {
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		panic(err) // as above
	}
	var text strings.Builder
	if _, err := io.Copy(&text, io.LimitReader(zip, 16<<20)); err != nil {
		panic(err) // as above
	}
	return text.String()
}

// decoder reads the part of one release.
type decoder struct {
	s       *Schemas
	minors  []string
	index   int
	types   map[string]*node
	scalars map[string]*node // by form: those without parts are there once
	current *node
}

func decode(text string, minors []string, index int) (*Schemas, error) {
	_, last, _ := strings.Cut(minors[index], ".")
	minor, err := strconv.Atoi(last)
	if err != nil {
		return nil, fmt.Errorf("openapi: %q is no release", minors[index])
	}
	d := &decoder{
		s:      &Schemas{minor: minor, builtin: map[kind]*node{}, groups: map[string]bool{}, gone: map[kind]removal{}},
		minors: minors, index: index, types: map[string]*node{}, scalars: map[string]*node{},
	}
	maps.Copy(d.s.gone, goneLongAgo)
	for line := range strings.Lines(text) {
		if err := d.line(strings.TrimSuffix(line, "\n")); err != nil {
			return nil, err
		}
	}
	d.s.metadata = d.types["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]
	if d.s.metadata == nil || len(d.s.builtin) == 0 {
		return nil, fmt.Errorf("openapi: nothing is there of %s", minors[index])
	}
	return d.s, nil
}

// goneLongAgo are kinds of which the source of today's releases says nothing any
// more. Source: Kubernetes' guide to deprecated APIs.
var goneLongAgo = map[kind]removal{
	{"policy/v1beta1", "PodSecurityPolicy"}:            {25, "Pod Security admission"},
	{"extensions/v1beta1", "PodSecurityPolicy"}:        {16, "Pod Security admission"},
	{"autoscaling/v2beta1", "HorizontalPodAutoscaler"}: {25, "autoscaling/v2"},
	{"autoscaling/v2beta2", "HorizontalPodAutoscaler"}: {26, "autoscaling/v2"},
	{"batch/v2alpha1", "CronJob"}:                      {21, "batch/v1"},
	{"scheduling.k8s.io/v1alpha1", "PriorityClass"}:    {23, "scheduling.k8s.io/v1"},
	{"auditregistration.k8s.io/v1alpha1", "AuditSink"}: {19, ""},
	{"settings.k8s.io/v1alpha1", "PodPreset"}:          {20, ""},
}

func (d *decoder) line(line string) error {
	if field, ok := strings.CutPrefix(line, " "); ok {
		if d.current != nil {
			return d.field(field)
		}
		return nil
	}
	d.current = nil
	words := strings.Fields(line)
	if len(words) < 2 {
		return nil
	}
	switch words[0] {
	case "gone":
		return d.gone(words[1:])
	case "kind", "type":
		mask, err := strconv.ParseUint(words[1], 16, 8)
		if err != nil || len(words) < 3 {
			return fmt.Errorf("openapi: cannot read %q", line)
		}
		here := mask>>d.index&1 == 1
		if words[0] == "kind" && len(words) == 5 {
			d.kind(kind{words[2], words[3]}, words[4], mask, here)
		} else if here {
			d.current = d.typed(words[2])
		}
	}
	return nil
}

// gone enters a kind that is no longer served: release, apiVersion, kind, and what
// to use instead.
func (d *decoder) gone(words []string) error {
	if len(words) < 3 {
		return fmt.Errorf("openapi: cannot read %q", words)
	}
	minor, err := strconv.Atoi(strings.TrimPrefix(words[0], "1."))
	if err != nil {
		return fmt.Errorf("openapi: cannot read %q", words)
	}
	d.s.gone[kind{words[1], words[2]}] = removal{minor, strings.Join(words[3:], " ")}
	return nil
}

// kind enters a kind. One that only other releases serve is known to be gone if all
// of them are older.
func (d *decoder) kind(k kind, typ string, mask uint64, here bool) {
	group, _, grouped := strings.Cut(k.version, "/")
	if !grouped {
		group = ""
	}
	d.s.groups[group] = true
	if here {
		d.s.builtin[k] = d.typed(typ)
		return
	}
	for last := d.index - 1; last >= 0; last-- {
		if mask>>last&1 == 1 {
			minor, _ := strconv.Atoi(strings.TrimPrefix(d.minors[last+1], "1."))
			if r := d.s.gone[k]; r.minor == 0 || r.minor > minor {
				d.s.gone[k] = removal{minor, r.instead}
			}
			return
		}
	}
}

// typed returns the node of a type, made on first mention.
func (d *decoder) typed(name string) *node {
	n := d.types[name]
	if n == nil {
		n = &node{form: '@', fields: map[string]*node{}}
		d.types[name] = n
	}
	return n
}

// field reads a field of the current type: its name, its form, what is allowed.
func (d *decoder) field(line string) error {
	name, form, ok := strings.Cut(line, " ")
	if !ok || form == "" {
		return fmt.Errorf("openapi: cannot read the field %q", line)
	}
	name, required := strings.CutSuffix(name, "!")
	form, values, limited := strings.Cut(form, "=")
	n := d.formed(form)
	if limited {
		n = limit(n, strings.Split(values, "|"))
	}
	name = strings.Clone(name) // the text is not kept for it
	d.current.fields[name] = n
	if required {
		d.current.required = append(d.current.required, name)
	}
	return nil
}

// limit returns n with the texts that are allowed in it, or in its items.
func limit(n *node, values []string) *node {
	limited := *n
	if n.item != nil {
		limited.item = limit(n.item, values)
		return &limited
	}
	for _, v := range values {
		limited.enum = append(limited.enum, strings.Clone(v))
	}
	return &limited
}

// formed returns the node of a form.
func (d *decoder) formed(form string) *node {
	if typ, ok := strings.CutPrefix(form, "@"); ok {
		return d.typed(typ)
	}
	n := d.scalars[form]
	if n == nil {
		n = &node{form: form[0]}
		if len(form) > 1 {
			n.item = d.formed(form[1:])
		}
		d.scalars[form] = n
	}
	return n
}
