package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gvk "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

func status(code int32, reason metav1.StatusReason, message string, details *metav1.StatusDetails) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Code: code, Reason: reason, Message: message, Details: details}}
}

func TestExplain(t *testing.T) {
	deployment := request{
		verb: "patch", who: ServiceAccount("apps", "deployer"),
		kind: schema.Kind{GVK: gvk.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, Resource: "deployments", Namespaced: true},
		id:   object.ID{Group: "apps", Kind: "Deployment", Namespace: "apps", Name: "web"},
	}
	secret := request{
		verb: "patch",
		kind: schema.Kind{GVK: gvk.GroupVersionKind{Version: "v1", Kind: "Secret"}, Resource: "secrets", Namespaced: true},
		id:   object.ID{Kind: "Secret", Namespace: "apps", Name: "db"},
	}
	role := request{
		verb: "patch", who: ServiceAccount("apps", "deployer"),
		kind: schema.Kind{GVK: gvk.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}, Resource: "clusterroles"},
		id:   object.ID{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "web"},
	}
	causes := func(kind string, c ...metav1.StatusCause) *metav1.StatusDetails {
		return &metav1.StatusDetails{Name: "web", Kind: kind, Causes: c}
	}
	tests := []struct {
		name, reason string
		err          error
		q            request
		kind         fault.Kind
		want         string
		is           error
	}{
		{
			"right missing", "it says who lacks which right where, and how to grant it",
			status(403, metav1.StatusReasonForbidden, `deployments.apps "web" is forbidden: User "system:serviceaccount:apps:deployer" cannot patch resource "deployments" in API group "apps" in the namespace "apps"`, causes("deployments")),
			deployment, fault.Rejected,
			"Deployment.apps/apps/web: system:serviceaccount:apps:deployer cannot patch deployments.apps in namespace apps (grant it create and patch on deployments.apps in a Role that a RoleBinding gives it)", nil,
		},
		{
			"right missing in the cluster", "no Role grants what belongs to no namespace",
			status(403, metav1.StatusReasonForbidden, `clusterroles.rbac.authorization.k8s.io "web" is forbidden: User "system:serviceaccount:apps:deployer" cannot patch resource "clusterroles" in API group "rbac.authorization.k8s.io" at the cluster scope`, causes("clusterroles")),
			role, fault.Rejected,
			"ClusterRole.rbac.authorization.k8s.io/web: system:serviceaccount:apps:deployer cannot patch clusterroles.rbac.authorization.k8s.io (grant it create and patch on clusterroles.rbac.authorization.k8s.io in a ClusterRole that a ClusterRoleBinding gives it)", nil,
		},
		{
			"impersonation", "then it is Holdfast that lacks a right",
			status(403, metav1.StatusReasonForbidden, `serviceaccounts "deployer" is forbidden: User "holdfast" cannot impersonate resource "serviceaccounts"`, nil),
			deployment, fault.Rejected,
			"Deployment.apps/apps/web: Holdfast may not act as system:serviceaccount:apps:deployer (grant Holdfast's own account the verb impersonate on serviceaccounts)", nil,
		},
		{
			"quota", "admission says more than RBAC does",
			status(403, metav1.StatusReasonForbidden, `deployments.apps "web" is forbidden: exceeded quota: q`, causes("deployments")),
			deployment, fault.Rejected, `Deployment.apps/apps/web: forbidden: deployments.apps "web" is forbidden: exceeded quota: q`, nil,
		},
		{
			"namespace on its way out", "that ends by itself",
			status(403, metav1.StatusReasonForbidden, "unable to create", causes("deployments", metav1.StatusCause{Type: "NamespaceTerminating"})),
			deployment, fault.Waiting, "Deployment.apps/apps/web: namespace apps is being deleted", nil,
		},
		{
			"definition on its way out", "the kind is as good as gone",
			status(403, metav1.StatusReasonForbidden, `deployments.apps "web" is forbidden: create not allowed while custom resource definition is terminating`, nil),
			deployment, fault.NotFound, "Deployment.apps/apps/web: the definition of apps/v1, Kind=Deployment is being deleted", ErrNotServed,
		},
		{
			"namespace missing", "the hint says what to do",
			status(404, metav1.StatusReasonNotFound, `namespaces "apps" not found`, &metav1.StatusDetails{Name: "apps", Kind: "namespaces"}),
			deployment, fault.NotFound, "Deployment.apps/apps/web: namespace apps does not exist (deliver it too, or have it created)", nil,
		},
		{
			"kind missing", "a bare 404 says that there is no such URL",
			apierrors.NewGenericServerResponse(404, "PATCH", gvk.GroupResource{}, "", "404 page not found", 0, true),
			deployment, fault.NotFound, "Deployment.apps/apps/web: the cluster does not serve apps/v1, Kind=Deployment (is its CustomResourceDefinition installed?)", ErrNotServed,
		},
		{
			"immutable", "the caller may replace the object",
			status(422, metav1.StatusReasonInvalid, "long", causes("Deployment", metav1.StatusCause{Type: "FieldValueInvalid", Field: "spec.selector", Message: "Invalid value: {}: field is immutable"})),
			deployment, fault.Rejected,
			"Deployment.apps/apps/web: the API server does not accept it: spec.selector: Invalid value: {}: field is immutable (such a field is set once: delete the object, or have the delivery replace it by force)", ErrImmutable,
		},
		{
			"invalid", "field by field",
			status(422, metav1.StatusReasonInvalid, "long", causes("Deployment",
				metav1.StatusCause{Field: "spec.replicas", Message: "Invalid value: -1"}, metav1.StatusCause{Field: "spec.template", Message: "Required value"})),
			deployment, fault.Rejected, "Deployment.apps/apps/web: the API server does not accept it: spec.replicas: Invalid value: -1; spec.template: Required value", nil,
		},
		{
			"invalid Secret", "values of a Secret are never quoted",
			status(422, metav1.StatusReasonInvalid, `data[password]: Invalid value: "hunter2"`, causes("Secret",
				metav1.StatusCause{Type: "FieldValueInvalid", Field: "data[password]", Message: `Invalid value: "hunter2"`})),
			secret, fault.Rejected, "Secret/apps/db: the API server does not accept it: data[password]: FieldValueInvalid", nil,
		},
		{
			"unreadable Secret", "nor is a message that may quote them",
			status(400, metav1.StatusReasonBadRequest, `cannot read "hunter2"`, nil),
			secret, fault.Rejected, "Secret/apps/db: the API server does not accept it: BadRequest (status 400; what it says is left out, for it may quote the Secret)", nil,
		},
		{
			"Secret that is not base64", "a common mistake has words of its own",
			status(500, "", `illegal base64 data in "hunter2"`, nil),
			secret, fault.Rejected, "Secret/apps/db: the API server does not accept it: a value under data is not base64", nil,
		},
		{
			"storage", "that passes",
			status(500, "", "etcdserver: leader changed", nil),
			deployment, fault.Unreachable, "Deployment.apps/apps/web: the API server failed: etcdserver: leader changed", nil,
		},
		{
			"webhook and Secret", "an admission webhook may quote them too",
			status(403, metav1.StatusReasonForbidden, `admission webhook denied: "hunter2"`, nil),
			secret, fault.Rejected, "Secret/apps/db: forbidden: Forbidden (status 403; what it says is left out, for it may quote the Secret)", nil,
		},
		{
			"not in the schema", "the API server calls it internal, but trying again is pointless",
			status(500, "", "failed to create typed patch object (apps/web; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema", nil),
			deployment, fault.Rejected, "Deployment.apps/apps/web: the API server does not accept it: failed to create typed patch object (apps/web; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema", nil,
		},
		{
			"owned by others", "who owns what",
			status(409, metav1.StatusReasonConflict, "long", causes("", metav1.StatusCause{Type: metav1.CauseTypeFieldManagerConflict, Field: ".spec.replicas", Message: `conflict with "kubectl" using apps/v1`})),
			deployment, fault.Conflict, `Deployment.apps/apps/web: others own fields of it: .spec.replicas ("kubectl" using apps/v1)`, nil,
		},
		{
			"changed", "a precondition failed", status(409, metav1.StatusReasonConflict, "Precondition failed", nil),
			deployment, fault.Conflict, "Deployment.apps/apps/web: it changed since it was looked at", ErrChanged,
		},
		{
			"internal", "that may pass", status(500, metav1.StatusReasonInternalError, "failed calling webhook", nil),
			deployment, fault.Unreachable, "Deployment.apps/apps/web: the API server failed: failed calling webhook", nil,
		},
		{"credentials", "ours, not the tenant's", status(401, "", "Unauthorized", nil), deployment, fault.Unauthorized, "Deployment.apps/apps/web: the API server does not accept Holdfast's credentials", nil},
		{
			"no connection", "the URL is left out, with whatever user name and password it has",
			&url.Error{Op: "Patch", URL: "https://admin:hunter2@host/api", Err: io.ErrUnexpectedEOF},
			deployment, fault.Unreachable, "Deployment.apps/apps/web: the API server cannot be reached: unexpected EOF", io.ErrUnexpectedEOF,
		},
		{"timeout", "it is told from a refusal", context.DeadlineExceeded, deployment, fault.Unreachable, "Deployment.apps/apps/web: the API server did not answer in time", context.DeadlineExceeded},
		{
			"watch", "the rule that Holdfast itself lacks", status(403, metav1.StatusReasonForbidden, "deployments.apps is forbidden", nil),
			request{verb: "watch", kind: deployment.kind},
			fault.Rejected,
			"Holdfast may not watch deployments.apps (grant Holdfast's own account get, list and watch on deployments.apps in a ClusterRole)", nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := explain(tt.err, tt.q)
			if got := fault.KindOf(err); got != tt.kind {
				t.Errorf("%s: kind %s, want %s", tt.reason, got, tt.kind)
			}
			if err.Error() != tt.want {
				t.Errorf("%s:\ngot  %s\nwant %s", tt.reason, err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%s: it is not %v", tt.reason, tt.is)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a secret is quoted")
			}
		})
	}
	if explain(nil, deployment) != nil {
		t.Error("no error was explained as one")
	}
}

func TestRetryAfter(t *testing.T) {
	err := explain(status(429, metav1.StatusReasonTooManyRequests, "busy", &metav1.StatusDetails{RetryAfterSeconds: 2}), request{})
	if got := RetryAfter(fmt.Errorf("wrapped: %w", err)); got != 2*time.Second || fault.KindOf(err) != fault.Unreachable {
		t.Errorf("got %s, %v", got, err)
	}
	if got := RetryAfter(io.EOF); got != 0 {
		t.Errorf("got %s for an error that asks for nothing", got)
	}
}

func TestCheck(t *testing.T) {
	kind := schema.Kind{GVK: gvk.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, Resource: "configmaps", Namespaced: true}
	tests := []struct {
		name, reason string
		id           object.ID
		ok           bool
	}{
		{"plain", "", object.ID{Namespace: "ns", Name: "web"}, true},
		{"no name", "the URL would be that of all objects", object.ID{Namespace: "ns"}, false},
		{"climbs", "the URL would be another object's", object.ID{Namespace: "ns", Name: "../secrets/x"}, false},
		{"climbs by namespace", "the same", object.ID{Namespace: "..", Name: "x"}, false},
		{"escaped", "the same, for a server that unescapes twice", object.ID{Namespace: "ns", Name: "a%2fb"}, false},
		{"no namespace", "the kind has one", object.ID{Name: "x"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := request{verb: "patch", kind: kind, id: tt.id}.check()
			if (err == nil) != tt.ok || err != nil && fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s: got %v", tt.reason, err)
			}
		})
	}
}
