// Package admission judges what others than Holdfast write into namespaces that ask for
// it, before the API server stores it: by the policies that deliveries are judged by, and
// by whether the object is one that a delivery holds. It answers a validating webhook
// (https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/).
package admission

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Label of a namespace says what is asked of those who write into it.
const Label = "holdfast.dev/admission"

// The values of the label. Any other is taken for Locked: a slip must not open a door.
const (
	// Policies: what is written must hold before the policy sets for the namespace.
	Policies = "policies"
	// Locked: that, and nobody but Holdfast writes what a delivery holds.
	Locked = "locked"
)

// Judge judges a case by sets; *judge.Judge is one.
type Judge interface {
	Judge(ctx context.Context, sets []policy.Set, c *policy.Case, now time.Time) ([]policy.Decision, error)
}

// Holder says who holds an object.
type Holder struct {
	Delivery string   // as messages name it
	Users    []string // who write it in its name
}

// Options say by what requests are judged.
type Options struct {
	// Sets are the policies for what others write into a namespace. An error refuses.
	Sets  func(namespace string) ([]policy.Set, error)
	Judge Judge
	// Held returns which delivery holds an object, by its marks; nil ones where only its
	// identity is known.
	Held func(id object.ID, labels, annotations map[string]string) (Holder, bool)
	// Labels returns those of a namespace; false where it is not known.
	Labels func(namespace string) (map[string]string, bool)
	// Complete fills in what the API server would; nil: nothing is.
	Complete func(map[string]any)
	// Self are the users that Holdfast is itself; they are let through.
	Self []string
	// Groups are let through as well: who may break the glass.
	Groups []string
	// Kubernetes is the cluster's version, "1.36".
	Kubernetes string
	Clock      func() time.Time
	Log        *slog.Logger
}

// Gate answers requests.
type Gate struct{ Options }

// New returns a Gate.
func New(o Options) *Gate {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Gate{o}
}

// Answer is what becomes of a request.
type Answer struct {
	Refused  string // why; "" if it may go on
	Warnings []string
}

// Review judges one request. What cannot be judged is refused.
func (g *Gate) Review(ctx context.Context, r *admissionv1.AdmissionRequest) Answer {
	if slices.Contains(g.Self, r.UserInfo.Username) || slices.ContainsFunc(g.Groups, func(group string) bool { return slices.Contains(r.UserInfo.Groups, group) }) {
		return Answer{}
	}
	labels, ok := g.Labels(r.Namespace)
	if !ok {
		return Answer{Refused: "Holdfast does not know the namespace " + r.Namespace + " yet; try again"}
	}
	if labels[Label] != Policies {
		if why := g.locked(r); why != "" {
			return Answer{Refused: why}
		}
	}
	if r.SubResource != "" || r.Operation != admissionv1.Create && r.Operation != admissionv1.Update {
		return Answer{}
	}
	answer, err := g.judge(ctx, r, labels)
	if err != nil {
		g.Log.Warn("a write was refused because it could not be judged", "namespace", r.Namespace, "kind", r.Kind.Kind, "name", r.Name, "error", err)
		return Answer{Refused: "it could not be judged by the policies: " + fault.From(err).Msg}
	}
	return answer
}

// scaled are the kinds whose size is written through a subresource.
var scaled = map[string]string{
	"deployments": "Deployment", "statefulsets": "StatefulSet", "replicasets": "ReplicaSet",
	"replicationcontrollers": "ReplicationController", "rollouts": "Rollout",
}

// locked says why a request may not touch what a delivery holds; "" if it may.
func (g *Gate) locked(r *admissionv1.AdmissionRequest) string {
	if system(r.UserInfo.Username) {
		return ""
	}
	id := object.ID{Group: r.Resource.Group, Kind: r.Kind.Kind, Namespace: r.Namespace, Name: r.Name}
	if r.SubResource != "" {
		if id.Kind = scaled[r.Resource.Resource]; id.Kind == "" {
			return ""
		}
	}
	labels, annotations, err := marks(r)
	if err != nil {
		return "the object cannot be read, and the namespace is locked"
	}
	holder, ok := g.Held(id, labels, annotations)
	if !ok || slices.Contains(holder.Users, r.UserInfo.Username) {
		return ""
	}
	return fmt.Sprintf("%s is held by %s: change it in Git, or suspend that first; the namespace is locked (label %s)", id, holder.Delivery, Label)
}

// marks are those of the object as it is stored; of one that is new, its own: nobody else
// writes in the name of a delivery.
func marks(r *admissionv1.AdmissionRequest) (labels, annotations map[string]string, err error) {
	raw := r.OldObject.Raw
	if len(raw) == 0 {
		raw = r.Object.Raw
	}
	o, err := decode(raw)
	if err != nil || o == nil || r.SubResource != "" {
		return nil, nil, err
	}
	u := unstructured.Unstructured{Object: o}
	return u.GetLabels(), u.GetAnnotations(), nil
}

// system reports whether a user is a part of Kubernetes itself, which works on objects of
// all: scales them, collects them, counts their revisions.
func system(user string) bool {
	account, is := strings.CutPrefix(user, "system:serviceaccount:")
	if is {
		return strings.HasPrefix(account, "kube-system:")
	}
	return strings.HasPrefix(user, "system:") && user != "system:anonymous"
}

// judge asks the policies. What an update leaves as wrong as it was is only told: to
// refuse it would keep people from mending the rest.
func (g *Gate) judge(ctx context.Context, r *admissionv1.AdmissionRequest, labels map[string]string) (Answer, error) {
	sets, err := g.Sets(r.Namespace)
	if err != nil {
		return Answer{}, err
	}
	if len(sets) == 0 || r.Operation == admissionv1.Update && system(r.UserInfo.Username) {
		return Answer{}, nil
	}
	next, err := decode(r.Object.Raw)
	if err != nil {
		return Answer{}, err
	}
	before, err := decode(r.OldObject.Raw)
	if err != nil {
		return Answer{}, err
	}
	failed, answer, err := g.ask(ctx, r, sets, labels, next, before)
	if err != nil || len(failed) == 0 || before == nil {
		return answer.refusing(failed), err
	}
	old, _, err := g.ask(ctx, r, sets, labels, before, nil)
	if err != nil {
		return Answer{}, err
	}
	var news []policy.Verdict
	for _, v := range failed {
		if slices.ContainsFunc(old, func(o policy.Verdict) bool { return same(v, o) }) {
			answer.warn("as before: " + v.String())
			continue
		}
		news = append(news, v)
	}
	return answer.refusing(news), nil
}

// same reports whether two verdicts find the same wrong.
func same(a, b policy.Verdict) bool {
	return a.Policy == b.Policy && a.Rule == b.Rule && a.Path == b.Path && a.Message == b.Message && a.Rule != policy.RuleSet
}

// ask returns the verdicts by which an object fails, and an answer with what is only told.
func (g *Gate) ask(ctx context.Context, r *admissionv1.AdmissionRequest, sets []policy.Set, labels map[string]string, next, before map[string]any) ([]policy.Verdict, Answer, error) {
	var live func(object.ID) map[string]any
	if before != nil {
		live = func(object.ID) map[string]any { return before }
	}
	o := object.Object{Unstructured: unstructured.Unstructured{Object: next}}
	c := policy.NewCase([]object.Object{o}, resource(r), g.Complete, live)
	c.Alone, c.Kubernetes = true, g.Kubernetes
	c.Namespaces[r.Namespace] = labels
	c.Delivery.Account = r.UserInfo.Username
	decisions, err := g.Judge.Judge(ctx, sets, c, g.Clock())
	if err != nil {
		return nil, Answer{}, err
	}
	var failed []policy.Verdict
	var answer Answer
	for _, d := range decisions {
		for _, v := range d.Verdicts {
			switch v.Outcome {
			case policy.Fail:
				failed = append(failed, v)
			case policy.Audit:
				answer.warn(v.String())
			}
		}
	}
	return failed, answer, nil
}

// resource knows the one kind that a request is about.
func resource(r *admissionv1.AdmissionRequest) schema.Kinds {
	gvk := gvkOf(r)
	return schema.Table{gvk: {GVK: gvk, Resource: r.Resource.Resource, Namespaced: r.Namespace != ""}}
}

func gvkOf(r *admissionv1.AdmissionRequest) kschema.GroupVersionKind {
	return kschema.GroupVersionKind{Group: r.Kind.Group, Version: r.Kind.Version, Kind: r.Kind.Kind}
}

// decode reads an object of a request; nil for none.
func decode(raw []byte) (map[string]any, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil //nolint:nilnil // there is none
	}
	var o unstructured.Unstructured
	if err := o.UnmarshalJSON(raw); err != nil {
		return nil, fault.New(fault.Invalid, "the object cannot be read: %s", err)
	}
	return o.Object, nil
}

// Bounds of what the API server passes on to who asked.
const (
	maxWarnings = 8
	maxText     = 512
)

// warn adds a warning, as far as there is room.
func (a *Answer) warn(text string) {
	if len(a.Warnings) < maxWarnings {
		a.Warnings = append(a.Warnings, clip(text))
	}
}

// refusing is a with the verdicts that refuse.
func (a *Answer) refusing(failed []policy.Verdict) Answer {
	if f := policy.Refusal(failed); f != nil {
		a.Refused = f.Msg
	}
	return *a
}

func clip(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}
