package engine

import (
	"maps"

	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	kyvernov2 "github.com/kyverno/kyverno/api/kyverno/v2"
	engineapi "github.com/kyverno/kyverno/pkg/engine/api"
	enginecontext "github.com/kyverno/kyverno/pkg/engine/context"
	apiutils "github.com/kyverno/kyverno/pkg/utils/api"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// asked is what Kyverno's engine is asked: a subject before one policy. Kyverno's own
// context of a policy would do, but takes as long to make as many a rule to judge.
type asked struct {
	s       *subject
	policy  kyvernov1.PolicyInterface
	object  unstructured.Unstructured
	old     unstructured.Unstructured
	element unstructured.Unstructured
	verb    kyvernov1.AdmissionOperation
	user    kyvernov2.RequestInfo
	json    *frugal
}

var _ engineapi.PolicyContext = (*asked)(nil)

// ask puts a subject before a policy; live asks about the object that is live, as if it
// were created now.
func (j *judging) ask(s *subject, d *derived, live bool) (*asked, error) {
	a := &asked{s: s, policy: d.policy, object: s.object, old: s.old, verb: s.verb, user: j.user}
	if live {
		a.object, a.old, a.verb = s.old, unstructured.Unstructured{}, kyvernov1.Create
	}
	request := maps.Clone(s.request())
	request["object"] = a.object.Object
	if a.old.Object != nil {
		request["oldObject"] = a.old.Object
	}
	e := j.program.engine
	variables := enginecontext.NewContextFromRaw(e.jp, map[string]any{"request": request})
	if err := variables.AddOperation(string(a.verb)); err != nil {
		return nil, err
	}
	seen := s.images
	if seen == nil || live {
		seen = &images{engine: e, object: a.object}
	}
	if !live {
		s.images = seen
	}
	if err := variables.AddDeferredLoader(imageLoader{seen, variables}); err != nil {
		return nil, err
	}
	if who := j.user.AdmissionUserInfo.Username; who != "" {
		if err := variables.AddUserInfo(j.user); err != nil {
			return nil, err
		}
		if err := variables.AddServiceAccount(who); err != nil {
			return nil, err
		}
	}
	a.json = newFrugal(variables, seen, d)
	return a, nil
}

// request is what variables know of the admission, beside the objects.
func (s *subject) request() map[string]any {
	if s.admission == nil {
		kind := map[string]any{"group": s.gvk.Group, "version": s.gvk.Version, "kind": s.gvk.Kind}
		resource := map[string]any{"group": s.gvr.Group, "version": s.gvr.Version, "resource": s.gvr.Resource}
		s.admission = map[string]any{
			"name": s.object.GetName(), "namespace": s.object.GetNamespace(), "dryRun": false,
			"kind": kind, "requestKind": kind, "resource": resource, "requestResource": resource,
		}
	}
	return s.admission
}

// The rest implements Kyverno's interface.

// Policy implements [engineapi.PolicyContext].
func (a *asked) Policy() kyvernov1.PolicyInterface { return a.policy }

// NewResource implements [engineapi.PolicyContext].
func (a *asked) NewResource() unstructured.Unstructured { return a.object }

// OldResource implements [engineapi.PolicyContext].
func (a *asked) OldResource() unstructured.Unstructured { return a.old }

// SetResources implements [engineapi.PolicyContext].
func (a *asked) SetResources(old, object unstructured.Unstructured) error {
	a.old, a.object = old, object
	if err := a.json.AddResource(object.Object); err != nil {
		return err
	}
	return a.json.AddOldResource(old.Object)
}

// SetOperation implements [engineapi.PolicyContext].
func (a *asked) SetOperation(verb kyvernov1.AdmissionOperation) error {
	a.verb = verb
	return a.json.AddOperation(string(verb))
}

// AdmissionInfo implements [engineapi.PolicyContext].
func (a *asked) AdmissionInfo() kyvernov2.RequestInfo { return a.user }

// Operation implements [engineapi.PolicyContext].
func (a *asked) Operation() kyvernov1.AdmissionOperation { return a.verb }

// NamespaceLabels implements [engineapi.PolicyContext].
func (a *asked) NamespaceLabels() map[string]string { return a.s.labels }

// RequestResource implements [engineapi.PolicyContext].
func (a *asked) RequestResource() metav1.GroupVersionResource {
	return metav1.GroupVersionResource(a.s.gvr)
}

// ResourceKind implements [engineapi.PolicyContext].
func (a *asked) ResourceKind() (schema.GroupVersionKind, string) { return a.s.gvk, "" }

// AdmissionOperation implements [engineapi.PolicyContext]: the settings of a Kyverno that
// runs in a cluster, which leave users out, are not there.
func (a *asked) AdmissionOperation() bool { return false }

// Element implements [engineapi.PolicyContext].
func (a *asked) Element() unstructured.Unstructured { return a.element }

// SetElement implements [engineapi.PolicyContext].
func (a *asked) SetElement(element unstructured.Unstructured) { a.element = element }

// JSONContext implements [engineapi.PolicyContext].
func (a *asked) JSONContext() enginecontext.Interface { return a.json }

// Copy implements [engineapi.PolicyContext]: variables are shared.
func (a *asked) Copy() engineapi.PolicyContext {
	b := *a
	return &b
}

// frugal is what rules read and write, without the copies that nobody needs: Kyverno's
// engine copies all of it, the object with it, when it begins a policy and when it begins
// a rule, to go back to that afterwards. Here every policy begins with variables of its
// own, which nobody reads afterwards.
type frugal struct {
	enginecontext.Interface

	images *images
	loops  *loops
	vain   error // of the first question that had no answer and should have had one
	spare  int   // how many of the outermost copies are left out
	depth  int
}

// newFrugal spares the copy for the policy and, where it has one rule, the one for that.
func newFrugal(variables enginecontext.Interface, seen *images, d *derived) *frugal {
	f := &frugal{Interface: variables, images: seen, loops: &d.loops, spare: 1}
	if len(d.rules) == 1 {
		f.spare = 2
	}
	return f
}

// Query implements [enginecontext.Interface].
func (f *frugal) Query(query string) (any, error) {
	answer, err := f.Interface.Query(query)
	if err != nil && f.vain == nil && !f.loops.expected(query, err) {
		f.vain = err
	}
	return answer, err
}

// ImageInfo implements [enginecontext.Interface].
func (f *frugal) ImageInfo() map[string]map[string]apiutils.ImageInfo {
	if err := f.images.read(); err != nil || f.images.infos == nil {
		return map[string]map[string]apiutils.ImageInfo{}
	}
	return f.images.infos
}

// Checkpoint implements [enginecontext.Interface].
func (f *frugal) Checkpoint() {
	f.depth++
	if f.depth > f.spare {
		f.Interface.Checkpoint()
	}
}

// Restore implements [enginecontext.Interface].
func (f *frugal) Restore() {
	if f.depth > f.spare {
		f.Interface.Restore()
	}
	f.depth--
}

// Reset implements [enginecontext.Interface].
func (f *frugal) Reset() {
	if f.depth > f.spare {
		f.Interface.Reset()
	}
}
