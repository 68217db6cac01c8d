package apply

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// alone is the annotation by which a Secret is to outlive the SealedSecret that it is
// made from, as the Sealed Secrets controller has it.
const alone = "sealedsecrets.bitnami.com/skip-set-owner-references"

// Owned returns the body of a desired object with the controller reference to its owner,
// of which the version and UID are given, as the API server stores it. An owner without
// a UID is not there: there is no reference to it; nor is there one where the object
// asks for none. Errors are Internal.
func Owned(d plan.Desired, owner schema.GroupVersion, uid types.UID) ([]byte, error) {
	body := d.Body.Reveal()
	if uid == "" {
		return body, nil
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(body); err != nil {
		return nil, fault.New(fault.Internal, "the desired object cannot be read").On(d.ID.String()).Because(err)
	}
	if o.GetAnnotations()[alone] == "true" {
		return body, nil
	}
	yes := true
	o.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: owner.String(), Kind: d.Owner.Kind, Name: d.Owner.Name, UID: uid, Controller: &yes, BlockOwnerDeletion: &yes,
	}})
	return json.Marshal(o.Object)
}

// desired is the body of an action's object, with the reference to its owner: as it is
// by now, which is after it was sent. Errors are Waiting where the owner is not there.
func (e *executor) desired(a plan.Action) ([]byte, error) {
	owner := a.Desired.Owner
	if owner == (object.ID{}) {
		return a.Desired.Body.Reveal(), nil
	}
	kind := e.kinds[owner]
	now, ok := e.client.Look(kind, owner)
	if !ok || now.Deleting || now.UID == "" {
		return nil, fault.New(fault.Waiting, "waits for %s, from which it is made, to be there", owner).On(a.ID.String())
	}
	return Owned(*a.Desired, kind.GVK.GroupVersion(), now.UID)
}
