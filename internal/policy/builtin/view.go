package builtin

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// view is a case as policies look at it: each Pod is read once for all of them.
type view struct {
	c     *policy.Case
	ids   []object.ID
	pods  []pod // see podList
	read  bool
	flaws []policy.Flaw // of Pods
}

// pod is a Pod that is delivered, or that the controller of a delivered object makes.
type pod struct {
	subject int    // what is delivered
	at      string // where its template is in that: "" for a Pod, or "spec.template."
	meta    metav1.ObjectMeta
	spec    corev1.PodSpec
}

func newView(c *policy.Case) *view {
	v := &view{c: c, ids: make([]object.ID, len(c.Subjects))}
	for i := range c.Subjects {
		v.ids[i] = c.Subjects[i].ID()
	}
	return v
}

// podList reads the Pods of the case, at the first call. One that cannot be read is a
// flaw, whichever policy asked.
func (v *view) podList() []pod {
	if v.read {
		return v.pods
	}
	v.read = true
	for i := range v.c.Subjects {
		if v.ids[i].Group != "" || v.ids[i].Kind != "Pod" {
			continue
		}
		p := pod{subject: i}
		if of := v.c.Subjects[i].Of; of != nil && *of >= 0 && *of < len(v.ids) {
			p.subject = *of
			p.at = strings.Join(policy.TemplatePath(v.ids[*of].Group, v.ids[*of].Kind), ".") + "."
		}
		whole, err := read[corev1.Pod](&v.c.Subjects[i])
		if err != nil {
			v.flaws = append(v.flaws, unreadable(v.ids[i], v.c.Subjects[i].Origin, "", err))
			continue
		}
		p.meta, p.spec = whole.ObjectMeta, whole.Spec
		v.pods = append(v.pods, p)
	}
	return v.pods
}

// unreadable is that an object cannot be judged.
func unreadable(id object.ID, origin object.Origin, name string, err error) policy.Flaw {
	return policy.Flaw{
		File: origin.File, Line: origin.Line, Policy: name,
		Message: fmt.Sprintf("%s cannot be judged, for it is not a %s: %s", id, id.Kind, firstLine(err.Error())),
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// read reads a subject as its type; the error says which of its fields is not of it.
func read[T any](s *policy.Subject) (*T, error) {
	into := new(T)
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(s.Object, into)
	if err == nil {
		return into, nil
	}
	// The converter is quick, and does not say which field it stopped at.
	content, wrong := json.Marshal(s.Object)
	if wrong == nil {
		wrong = json.Unmarshal(content, into)
	}
	if wrong != nil {
		err = wrong
	}
	return nil, err
}

// reporter takes what one policy finds.
type reporter struct {
	about *About
	found *policy.Findings
	view  *view
}

// findingf tells of a rule that a subject breaks, and at which field.
func (r *reporter) findingf(subject int, rule, path, format string, args ...any) {
	r.found.List = append(r.found.List, policy.Finding{
		Policy: r.about.Name, Rule: rule, Subject: subject, Path: path, Message: fmt.Sprintf(format, args...),
		Severity: r.about.Severity, Reference: r.about.Reference,
	})
}

// judged counts a subject.
func (r *reporter) judged() { r.found.Judged[r.about.Name]++ }

// pods are those in namespaces that are not exempt.
func (r *reporter) pods(e exempt) iter.Seq[*pod] {
	return func(yield func(*pod) bool) {
		all := r.view.podList()
		for i := range all {
			p := &all[i]
			if e.covers(r.view.ids[p.subject].Namespace) {
				continue
			}
			r.judged()
			if !yield(p) {
				return
			}
		}
	}
}

// all are the delivered subjects in namespaces that are not exempt, by index: those of
// kinds, or all.
func (r *reporter) all(e exempt, kinds ...schema.GroupKind) iter.Seq2[int, *policy.Subject] {
	return func(yield func(int, *policy.Subject) bool) {
		for i := range r.view.c.Subjects {
			s, id := &r.view.c.Subjects[i], r.view.ids[i]
			if s.Of != nil || len(kinds) > 0 && !slices.Contains(kinds, id.GroupKind()) || e.covers(home(id)) {
				continue
			}
			r.judged()
			if !yield(i, s) {
				return
			}
		}
	}
}

// home is the namespace that an object lies in, or is.
func home(id object.ID) string {
	if id.Group == "" && id.Kind == "Namespace" {
		return id.Name
	}
	return id.Namespace
}

// typed are the subjects of kinds, read as T. One that cannot be is a flaw.
func typed[T any](r *reporter, e exempt, kinds ...schema.GroupKind) iter.Seq2[int, *T] {
	return func(yield func(int, *T) bool) {
		for i, s := range r.all(e, kinds...) {
			o, err := read[T](s)
			if err != nil {
				r.found.Flaws = append(r.found.Flaws, unreadable(r.view.ids[i], s.Origin, r.about.Name, err))
				continue
			}
			if !yield(i, o) {
				return
			}
		}
	}
}

// container is one of a Pod's containers, of whatever list.
type container struct {
	*corev1.Container

	path      string // spec.template.spec.containers[0], of what is delivered
	ephemeral bool
}

// containers are all containers of a Pod.
func (p *pod) containers() []container {
	all := make([]container, 0, len(p.spec.InitContainers)+len(p.spec.Containers)+len(p.spec.EphemeralContainers))
	add := func(list string, i int, c *corev1.Container, ephemeral bool) {
		all = append(all, container{c, fmt.Sprintf("%sspec.%s[%d]", p.at, list, i), ephemeral})
	}
	for i := range p.spec.InitContainers {
		add("initContainers", i, &p.spec.InitContainers[i], false)
	}
	for i := range p.spec.Containers {
		add("containers", i, &p.spec.Containers[i], false)
	}
	for i := range p.spec.EphemeralContainers {
		// The two types have the same fields, so that one may stand for the other.
		add("ephemeralContainers", i, (*corev1.Container)(&p.spec.EphemeralContainers[i].EphemeralContainerCommon), true)
	}
	return all
}

// windows reports whether a Pod says that it is for Windows, where what Linux knows of
// users and files does not hold.
func (p *pod) windows() bool { return p.spec.OS != nil && p.spec.OS.Name == corev1.Windows }
