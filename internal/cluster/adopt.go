package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// beforeApply is the manager to whom the API server ascribes what was there
// before the first server-side apply, where nobody was noted.
const beforeApply = "before-first-apply"

// Peers returns the field managers whose objects are taken over unless a delivery
// says otherwise: those who hold objects to manifests as we do, and kubectl's
// commands that take whole manifests. Others (kubectl's scale, set and rollout,
// autoscalers, controllers) keep what they own. A star stands for any ending.
func Peers() []string {
	return []string{
		"kubectl", "kubectl-client-side-apply", "kubectl-create", "kubectl-edit", "kubectl-replace",
		"argocd-controller", "argocd-application-controller",
		"kustomize-controller", "helm-controller", "gotk-*", "helm",
	}
}

// Peered reports whether r shows fields of peers, or marks of a client-side apply,
// which [Client.Adopt] would make manager's.
func (r Record) Peered(manager string, peers []string) bool {
	return r.LastApplied || slices.ContainsFunc(r.Entries, func(e Entry) bool {
		return !e.Part && !e.Status && folds(e.Manager, e.Apply, manager, peers)
	})
}

// folds reports whether an entry of managedFields becomes part of manager's own.
func folds(name string, apply bool, manager string, peers []string) bool {
	switch name {
	case manager:
		return !apply
	case beforeApply:
		return true
	}
	return slices.ContainsFunc(peers, func(p string) bool {
		prefix, star := strings.CutSuffix(p, "*")
		return p == name || star && strings.HasPrefix(name, prefix)
	})
}

// Adopt makes the fields that peers own, see [Peers], fields that manager has
// applied, so that its next apply removes those that are not declared any more, and
// removes the marks of client-side apply. Of the object itself it changes nothing.
// It sends a GET, and a patch if there is something to do. An object that does not
// exist is no error. Errors as [Client.Apply]; [ErrChanged] if somebody else wrote
// in between.
//
// It does what client-go's csaupgrade does, for many managers and for applies too.
func (k *Client) Adopt(ctx context.Context, kind schema.Kind, id object.ID, manager string, peers []string) error {
	r := k.as(k.c.plain.Get()).AbsPath(urlPath(kind, id.Namespace, id.Name)...).SetHeader("Accept", acceptMetaJSON)
	o, err := k.whole(ctx, r, request{"get", k.who, kind, id})
	if fault.KindOf(err) == fault.NotFound && !errors.Is(err, ErrNotServed) {
		return nil
	}
	if err != nil {
		return err
	}
	var content struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	raw, err := o.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(raw, &content)
	}
	var patch []byte
	if err == nil {
		patch, err = upgrade(&content.Metadata, kind.GVK.GroupVersion().String(), manager, peers)
	}
	if err != nil {
		return fault.New(fault.Rejected, "the answer of the API server cannot be read").On(id.String()).Because(err)
	}
	if patch == nil {
		return nil
	}
	r = k.as(k.c.plain.Patch(types.JSONPatchType)).AbsPath(urlPath(kind, id.Namespace, id.Name)...).Body(patch).
		Param("fieldManager", manager).SetHeader("Accept", acceptMetaJSON)
	_, err = k.do(ctx, r, request{"patch", k.who, kind, id})
	return err
}

// upgrade returns the JSON patch of an adoption; nil if there is nothing to do.
func upgrade(m *metav1.ObjectMeta, version, manager string, peers []string) ([]byte, error) {
	if len(m.ManagedFields) == 0 {
		return nil, nil // the first apply makes them, and then the annotation says what was sent
	}
	entries, changed, err := fold(m, version, manager, peers)
	if err != nil {
		return nil, err
	}
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	// Replaced, not tested: so the answer to a concurrent write is a conflict.
	patch := []op{{"replace", "/metadata/resourceVersion", m.ResourceVersion}}
	if changed {
		patch = append(patch, op{"replace", "/metadata/managedFields", entries})
	}
	if _, ok := m.Annotations[object.LastApplied]; ok {
		patch = append(patch, op{"remove", "/metadata/annotations/" + strings.ReplaceAll(object.LastApplied, "/", "~1"), nil})
	}
	if len(patch) == 1 {
		return nil, nil
	}
	return json.Marshal(patch)
}

// fold returns m's managedFields with the entries of peers made part of manager's,
// and whether that is another list. Entries in another version of the API than
// manager's go without their fields but metadata: paths may differ there.
func fold(m *metav1.ObjectMeta, version, manager string, peers []string) ([]metav1.ManagedFieldsEntry, bool, error) {
	ours := metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: version, FieldsType: "FieldsV1",
	}
	isOurs := func(e metav1.ManagedFieldsEntry) bool { return applied(e, manager) }
	if i := slices.IndexFunc(m.ManagedFields, isOurs); i >= 0 {
		ours.APIVersion = m.ManagedFields[i].APIVersion
	}
	var rest []metav1.ManagedFieldsEntry
	sum, folded := object.Owned{}, false
	for _, e := range m.ManagedFields {
		own := isOurs(e)
		apply := e.Operation == metav1.ManagedFieldsOperationApply
		if e.Subresource != "" || e.FieldsV1 == nil || !own && !folds(e.Manager, apply, manager, peers) {
			rest = append(rest, e)
			continue
		}
		fields, err := object.ParseOwned(e.FieldsV1.GetRawBytes())
		if err != nil {
			return nil, false, err
		}
		if ours.Time == nil || e.Time != nil && ours.Time.Before(e.Time) {
			ours.Time = e.Time
		}
		sum, folded = sum.Union(manifest(m, e, fields, ours.APIVersion)), folded || !own
	}
	if !folded {
		return m.ManagedFields, false, nil
	}
	raw, err := json.Marshal(sum)
	if err != nil {
		return nil, false, err
	}
	ours.FieldsV1 = metav1.NewFieldsV1(string(raw))
	return append([]metav1.ManagedFieldsEntry{ours}, rest...), true, nil
}

// restarted is the annotation by which kubectl restarts pods; to remove it, or all
// of the annotations that it is among, is to restart them once more.
var (
	annotated = []string{"f:spec", "f:template", "f:metadata", "f:annotations"}
	restarted = append(slices.Clone(annotated), "f:kubectl.kubernetes.io/restartedAt")
	whole     = append(slices.Clone(annotated), ".")
)

// manifest returns the part of an entry's fields that a manifest may have held,
// and that an apply may remove. What was there before anybody was noted counts as
// far as a client-side apply says that it sent it.
func manifest(m *metav1.ObjectMeta, e metav1.ManagedFieldsEntry, fields object.Owned, version string) object.Owned {
	if e.Manager == beforeApply {
		var sent map[string]any
		if json.Unmarshal([]byte(m.Annotations[object.LastApplied]), &sent) != nil {
			return nil
		}
		fields = fields.Within(sent)
	}
	if e.APIVersion != version {
		fields = object.Owned{"f:metadata": fields["f:metadata"]}
		if fields["f:metadata"] == nil {
			return nil
		}
	}
	if fields.Has(restarted) {
		fields = fields.Without(restarted...).Without(whole...)
	}
	return fields.Without("f:status").
		Without("f:metadata", "f:annotations", "f:"+object.LastApplied)
}

// Foresee removes from dry, the result of a dry run of manager's apply over live,
// what the apply will remove once peers' fields are adopted. What a client-side apply
// owns and did not send are defaults: removed, they come back, so they stay. Those
// that other writes came to own are not told apart from what was written.
func Foresee(live, dry *unstructured.Unstructured, manager string, peers []string) {
	m := &metav1.ObjectMeta{Annotations: live.GetAnnotations()}
	m.ManagedFields = sent(live.GetManagedFields(), m.Annotations[object.LastApplied])
	entries, changed, err := fold(m, live.GetAPIVersion(), manager, peers)
	if err != nil || !changed {
		return
	}
	had, others := object.OwnedIn(entries[:1]), object.OwnedIn(entries[1:])
	notOurs := func(e metav1.ManagedFieldsEntry) bool { return !applied(e, manager) }
	keeps := object.OwnedIn(slices.DeleteFunc(dry.GetManagedFields(), notOurs))
	for _, leaf := range had.Leaves() {
		if !keeps.Has(leaf) && !others.Has(leaf) {
			leaf.Delete(dry.Object)
		}
	}
}

// sent narrows the entries of client-side applies to what the last one sent, which is
// all that is left of the earlier ones.
func sent(entries []metav1.ManagedFieldsEntry, lastApplied string) []metav1.ManagedFieldsEntry {
	var content map[string]any
	if json.Unmarshal([]byte(lastApplied), &content) != nil {
		return entries
	}
	narrowed := slices.Clone(entries)
	for i, e := range narrowed {
		clientSide := e.Manager == "kubectl-client-side-apply" || e.Manager == "argocd-controller"
		if !clientSide || e.Operation != metav1.ManagedFieldsOperationUpdate || e.FieldsV1 == nil {
			continue
		}
		fields, err := object.ParseOwned(e.FieldsV1.GetRawBytes())
		if err != nil {
			continue // fold says so
		}
		if raw, err := json.Marshal(fields.Within(content)); err == nil {
			narrowed[i].FieldsV1 = metav1.NewFieldsV1(string(raw))
		}
	}
	return narrowed
}

// applied reports whether e is manager's entry of what it applied.
func applied(e metav1.ManagedFieldsEntry, manager string) bool {
	return e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == ""
}
