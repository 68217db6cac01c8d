package cluster

import (
	"context"
	"encoding/json"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

var reviews = schema.Kind{
	GVK:      authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"),
	Resource: "selfsubjectaccessreviews",
}

// May reports whether the account may do something with an object of a kind, or,
// without a name in id, with all of them in its namespace, as the API server decides.
// Errors: Rejected (it may not ask), Unauthorized, Unreachable.
func (k *Client) May(ctx context.Context, verb string, kind schema.Kind, id object.ID) (bool, error) {
	question, err := json.Marshal(&authorizationv1.SelfSubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: reviews.GVK.GroupVersion().String(), Kind: reviews.GVK.Kind},
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: id.Namespace, Name: id.Name, Verb: verb, Group: kind.GVK.Group, Resource: kind.Resource,
		}},
	})
	if err != nil {
		return false, fault.New(fault.Internal, "a question about rights cannot be written").Because(err)
	}
	q := request{"create", k.who, reviews, object.ID{}}
	r := k.as(k.c.plain.Post()).AbsPath(urlPath(reviews, "", "")...).
		SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(question)
	res, err := k.send(ctx, r)
	if err != nil {
		return false, explain(err, q)
	}
	raw, err := res.Raw()
	if err != nil {
		return false, explain(err, q)
	}
	var answer authorizationv1.SelfSubjectAccessReview
	if err := json.Unmarshal(raw, &answer); err != nil {
		return false, fault.New(fault.Rejected, "the answer of the API server cannot be read").Because(err)
	}
	return answer.Status.Allowed, nil
}
