package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Causes of errors, for errors.Is.
var (
	// ErrImmutable says that the change needs the object to be replaced.
	ErrImmutable = errors.New("a field cannot be changed")
	// ErrChanged says that a precondition of a delete, or an optimistic lock of
	// the API server, failed: the object is not what it was when it was looked at.
	ErrChanged = errors.New("the object changed since")
	// ErrNotServed says that the API server does not serve the kind, or not yet.
	ErrNotServed = errors.New("the kind is not served")
	// ErrNoNamespace says that the object's namespace does not exist.
	ErrNoNamespace = errors.New("the namespace does not exist")
)

// maxMessage bounds what is taken over from an answer of the API server.
const maxMessage = 2048

// request is what errors say about the request that failed.
type request struct {
	verb string
	who  Account
	kind schema.Kind
	id   object.ID
}

// resource renders the resource as RBAC names it.
func (q request) resource() string {
	if q.kind.GVK.Group == "" {
		return q.kind.Resource
	}
	return q.kind.Resource + "." + q.kind.GVK.Group
}

func (q request) account() string {
	if q.who.User == "" {
		return "Holdfast's own account"
	}
	return q.who.User
}

// scope renders " in namespace x", or nothing.
func (q request) scope() string {
	if q.id.Namespace == "" {
		return ""
	}
	return " in namespace " + q.id.Namespace
}

// secret reports whether an answer may quote a secret value.
func (q request) secret() bool { return q.kind.GVK.Group == "" && q.kind.GVK.Kind == "Secret" }

// check refuses names that would change the path of the URL they become part of.
func (q request) check() error {
	if q.kind.Resource == "" {
		return notServed(q)
	}
	if q.id.Name == "" {
		return fault.New(fault.Invalid, "the object has no name").On(q.id.String())
	}
	if q.kind.Namespaced != (q.id.Namespace != "") {
		return fault.New(fault.Invalid, "%s is namespaced: %t, the object's namespace is %q",
			q.kind.GVK.Kind, q.kind.Namespaced, q.id.Namespace).On(q.id.String())
	}
	for _, s := range []string{q.id.Namespace, q.id.Name} {
		if bad := content.IsPathSegmentName(s); len(bad) > 0 {
			return fault.New(fault.Invalid, "%q cannot be a name: it %s", s, strings.Join(bad, ", ")).On(q.id.String())
		}
	}
	return nil
}

func notServed(q request) *fault.Error {
	f := fault.New(fault.NotFound, "the cluster does not serve %s", q.kind.GVK).Because(ErrNotServed)
	if q.id.Name != "" {
		f = f.On(q.id.String())
	}
	return f.WithHint("is its CustomResourceDefinition installed?")
}

// busy is the cause of errors after which the API server asked for a pause.
type busy struct{ after time.Duration }

func (b busy) Error() string { return "asked to come back in " + b.after.String() }

// RetryAfter returns how long the API server asked to wait before the next try;
// 0 if it did not.
func RetryAfter(err error) time.Duration {
	if b, ok := errors.AsType[busy](err); ok {
		return b.after
	}
	return 0
}

// explain makes a fault of what a request came to; nil stays nil.
func explain(err error, q request) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		f = q.status(status.Status())
	} else {
		f = q.network(err)
	}
	if q.id.Name != "" {
		f = f.On(q.id.String())
	}
	return f
}

// network explains requests that got no answer.
func (q request) network(err error) *fault.Error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err // the URL says nothing that the reader needs
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Unreachable, "the API server did not answer in time").Because(err)
	case errors.Is(err, context.Canceled):
		return fault.New(fault.Unreachable, "interrupted").Because(err)
	case errors.As(err, &dns):
		return fault.New(fault.Unreachable, "the API server's name %q cannot be resolved", dns.Name).Because(err)
	}
	return fault.New(fault.Unreachable, "the API server cannot be reached: %s", clip(err.Error())).Because(err)
}

// status explains an answer.
func (q request) status(s metav1.Status) *fault.Error {
	switch s.Code {
	case http.StatusUnauthorized:
		return fault.New(fault.Unauthorized, "the API server does not accept Holdfast's credentials")
	case http.StatusForbidden:
		return q.forbidden(s)
	case http.StatusNotFound:
		return q.notFound(s)
	case http.StatusConflict:
		return q.conflict(s)
	case http.StatusMethodNotAllowed:
		return fault.New(fault.Unsupported, "the API server does not allow to %s %s", q.verb, q.resource())
	case http.StatusUnsupportedMediaType:
		return fault.New(fault.Unsupported, "the API that serves %s knows no server-side apply", q.resource())
	case http.StatusTooManyRequests:
		return fault.New(fault.Unreachable, "the API server is busy").Because(busy{after(s)})
	}
	if s.Code >= http.StatusInternalServerError && !unreadable(s) {
		f := fault.New(fault.Unreachable, "the API server failed: %s", q.text(s))
		return f.Because(busy{after(s)})
	}
	return q.rejected(s)
}

func after(s metav1.Status) time.Duration {
	if s.Details == nil {
		return 0
	}
	return time.Duration(s.Details.RetryAfterSeconds) * time.Second
}

// unreadable reports errors that the API server gives no reason for: it answers
// so when it cannot read an object, and when its own storage fails.
func unreadable(s metav1.Status) bool {
	if s.Reason != "" && s.Reason != metav1.StatusReasonUnknown {
		return false
	}
	for _, words := range []string{"etcd", "rpc error", "timeout", "timed out", "deadline", "connection"} {
		if strings.Contains(s.Message, words) {
			return false
		}
	}
	return true
}

// forbidden explains a right that is missing, and admission that says no.
func (q request) forbidden(s metav1.Status) *fault.Error {
	if hasCause(s, "NamespaceTerminating") {
		return fault.New(fault.Waiting, "namespace %s is being deleted", q.id.Namespace)
	}
	switch {
	// The API has no cause for it, so wording is all there is to go by.
	case strings.Contains(s.Message, "not allowed while custom resource definition is terminating"):
		return fault.New(fault.NotFound, "the definition of %s is being deleted", q.kind.GVK).Because(ErrNotServed)
	case strings.Contains(s.Message, "cannot impersonate"):
		return fault.New(fault.Rejected, "Holdfast may not act as %s", q.account()).
			WithHint("grant Holdfast's own account the verb impersonate on serviceaccounts")
	case q.verb == "watch", q.verb == "discover":
		return fault.New(fault.Rejected, "Holdfast may not watch %s", q.resource()).
			WithHint("grant Holdfast's own account get, list and watch on %s in a ClusterRole", q.resource())
	case strings.Contains(s.Message, "cannot "+q.verb+" resource"), strings.Contains(s.Message, "cannot create resource"):
		return fault.New(fault.Rejected, "%s cannot %s %s%s", q.account(), q.verb, q.resource(), q.scope()).
			WithHint("grant it %s on %s in a %s gives it", q.needs(), q.resource(), q.role())
	}
	return fault.New(fault.Rejected, "forbidden: %s", q.text(s))
}

// role names what grants a right, and what gives it to an account.
func (q request) role() string {
	if q.id.Namespace == "" {
		return "ClusterRole that a ClusterRoleBinding"
	}
	return "Role that a RoleBinding"
}

// needs names the verbs that a request needs: an apply creates what is absent.
func (q request) needs() string {
	if q.verb == "patch" {
		return "create and patch"
	}
	return q.verb
}

func (q request) notFound(s metav1.Status) *fault.Error {
	if s.Details == nil || s.Details.Name == "" || hasCause(s, metav1.CauseTypeUnexpectedServerResponse) {
		return notServed(q)
	}
	if s.Details.Kind == "namespaces" && q.id.Namespace == s.Details.Name {
		return fault.New(fault.NotFound, "namespace %s does not exist", q.id.Namespace).
			WithHint("deliver it too, or have it created").Because(ErrNoNamespace)
	}
	return fault.New(fault.NotFound, "not found")
}

func (q request) conflict(s metav1.Status) *fault.Error {
	if !hasCause(s, metav1.CauseTypeFieldManagerConflict) {
		return fault.New(fault.Conflict, "it changed since it was looked at").Because(ErrChanged)
	}
	var claims []string
	for _, c := range s.Details.Causes {
		claims = append(claims, c.Field+" ("+strings.TrimPrefix(c.Message, "conflict with ")+")")
	}
	return fault.New(fault.Conflict, "others own fields of it: %s", clip(strings.Join(claims, ", ")))
}

// rejected explains an object that the API server does not accept.
func (q request) rejected(s metav1.Status) *fault.Error {
	if s.Code == http.StatusRequestEntityTooLarge {
		return fault.New(fault.Limit, "the API server finds it too large")
	}
	f := fault.New(fault.Rejected, "the API server does not accept it: %s", q.text(s))
	if immutable(s) {
		return f.Because(ErrImmutable).WithHint("such a field is set once: delete the object, or have the delivery replace it by force")
	}
	return f
}

// immutable reports whether a field that is set once was to be changed. The API
// has no type for it, so wording is all there is to go by.
func immutable(s metav1.Status) bool {
	if s.Details == nil || s.Code != http.StatusUnprocessableEntity {
		return false
	}
	for _, c := range s.Details.Causes {
		for _, words := range []string{"immutable", "may not change", "may not be changed", "cannot change", "updates to ", "may not be updated"} {
			if strings.Contains(c.Message, words) {
				return true
			}
		}
	}
	return false
}

// text renders an answer for people: field by field where it has fields. Of a
// Secret it names the fields and quotes nothing.
func (q request) text(s metav1.Status) string {
	var parts []string
	if s.Details != nil {
		for _, c := range s.Details.Causes {
			if c.Type == metav1.CauseTypeUnexpectedServerResponse || c.Field == "" {
				continue
			}
			message := c.Message
			if q.secret() {
				message = string(c.Type)
			}
			parts = append(parts, c.Field+": "+message)
		}
	}
	switch {
	case len(parts) > 0:
		return clip(strings.Join(parts, "; "))
	case q.secret() && strings.Contains(s.Message, "illegal base64"):
		return "a value under data is not base64"
	case q.secret():
		return fmt.Sprintf("%s (status %d; what it says is left out, for it may quote the Secret)", reason(s), s.Code)
	}
	return clip(s.Message)
}

func reason(s metav1.Status) string {
	if s.Reason == "" {
		return "no reason given"
	}
	return string(s.Reason)
}

func hasCause(s metav1.Status, t metav1.CauseType) bool {
	if s.Details == nil {
		return false
	}
	for _, c := range s.Details.Causes {
		if c.Type == t {
			return true
		}
	}
	return false
}

func clip(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	if len(s) > maxMessage {
		return strings.ToValidUTF8(s[:maxMessage], "") + " …"
	}
	return s
}
