// Package health judges objects: a live object in, a verdict out. It keeps no
// state and asks nobody; rules for kinds are data and small functions.
//
// The rules are Argo CD's built-in ones, quirks included, because people wait on
// them; the messages are our own. Kinds without a rule have no health, unless
// Options.Kstatus asks for the generic one.
package health

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Status is the health of an object, named as Argo CD names it.
type Status string

// The statuses, best first: the order in which they aggregate.
const (
	Healthy     Status = "Healthy"
	Suspended   Status = "Suspended"
	Progressing Status = "Progressing"
	Missing     Status = "Missing"
	Degraded    Status = "Degraded"
	Unknown     Status = "Unknown"
)

// Verdict is what a rule says about one object.
type Verdict struct {
	Status  Status `json:"status"`
	Message string `json:"message,omitempty"`
	// Generic marks a verdict of the generic rule. Argo CD has no health for such
	// an object, so its dialect leaves these out.
	Generic bool `json:"-"`
	// Kstatus is the status by the rules of kstatus, in a verdict that [Both] made;
	// otherwise empty.
	Kstatus Status `json:"-"`
}

// Options choose the rules beyond those that every kind with a rule of its own has.
// The zero value judges as Argo CD does.
type Options struct {
	// Kstatus judges as Flux does when it waits: built-in kinds by the rules of
	// kstatus, and those that nobody wrote a rule for by their Ready, Stalled and
	// Reconciling conditions.
	Kstatus bool
}

// Judge says how obj fares. The result is false when the kind of obj has no health
// under o. A field of an unexpected type makes the verdict Unknown.
func (o Options) Judge(obj *unstructured.Unstructured) (Verdict, bool) {
	if obj == nil {
		return Verdict{}, false
	}
	v := look(obj.Object)
	if verdict, ok := pendingDeletion(v); ok {
		return verdict, true
	}
	gvk := obj.GroupVersionKind()
	if wait, ok := kstatusRules[gvk.GroupKind()]; ok && o.Kstatus {
		return v.settle(wait(v)), true
	}
	r, ok := rules[gvk.GroupKind()]
	switch {
	case ok && !r.covers(gvk.Version):
		return Verdict{Status: Unknown, Message: "no rule for version " + gvk.Version}, true
	case ok:
		return v.settle(r.judge(v)), true
	case !o.Kstatus:
		return Verdict{}, false
	}
	verdict, ok := judgeGeneric(v)
	if !ok {
		return Verdict{}, false
	}
	verdict = v.settle(verdict)
	verdict.Generic = true
	return verdict, true
}

// NeedsObject reports whether the health of a kind shows only in the whole object.
// With Kstatus that holds for every kind outside Kubernetes itself: whether it
// carries conditions is not known before it is seen.
func (o Options) NeedsObject(gk schema.GroupKind) bool {
	if _, ok := rules[gk]; ok {
		return true
	}
	builtIn := !strings.Contains(gk.Group, ".") || strings.HasSuffix(gk.Group, ".k8s.io")
	return o.Kstatus && !builtIn
}

// Worse reports whether a is worse than b. A status that is none of ours is as bad
// as Unknown.
func Worse(a, b Status) bool { return rank(a) > rank(b) }

func rank(s Status) int {
	switch s {
	case Healthy:
		return 0
	case Suspended:
		return 1
	case Progressing:
		return 2
	case Missing:
		return 3
	case Degraded:
		return 4
	case Unknown:
	}
	return 5
}

// Aggregate returns the worst of the verdicts, the first where several are equally
// bad. Nothing at all is Healthy.
func Aggregate(verdicts []Verdict) Verdict {
	worst := Verdict{Status: Healthy}
	for i, v := range verdicts {
		if i == 0 || Worse(v.Status, worst.Status) {
			worst = v
		}
	}
	return worst
}
