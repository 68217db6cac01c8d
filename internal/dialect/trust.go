package dialect

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Demand fills in what a delivery must prove, and which policies judge it. u is
// the custom resource; project is its AppProject, "" where there is none; repository
// is the URL as the delivery names it. Errors are *fault.Error: the policies are not
// known, and the delivery is refused.
func (e *Env) Demand(spec *delivery.Spec, u metav1.Object, project, repository string) error {
	subject := trust.Subject{
		Kind: spec.ID.Kind, Namespace: spec.ID.Namespace, Name: spec.ID.Name,
		Project: project, Labels: u.GetLabels(), Repository: repository,
	}
	spec.Labels = subject.Labels
	var err error
	if e.Trust != nil {
		if spec.Trust, err = e.Trust(subject); err != nil {
			return err
		}
	}
	if e.Policies != nil {
		spec.Policies, err = e.Policies(subject)
	}
	return err
}

// Alert tells what came up in a pass and is to be told once.
func (e *Env) Alert(u runtime.Object, alerts []delivery.Alert) {
	for _, a := range alerts {
		e.Events.Event(u, corev1.EventTypeWarning, a.Reason, a.Message)
	}
}

// Pauses notices when a resource is suspended and resumed, for the audit log. The zero
// value has seen nothing; what is suspended at first sight is told, for it may have
// been while nobody looked.
type Pauses struct {
	suspended bool
}

// See notes how a resource stands. Only the pass over it may call it.
func (p *Pauses) See(e *Env, u *unstructured.Unstructured, suspended bool) {
	if p.suspended == suspended {
		return
	}
	p.suspended = suspended
	action := audit.Resume
	if suspended {
		action = audit.Suspend
	}
	id := delivery.ID{Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
	e.Engine.Record(audit.Entry{Action: action, Delivery: id.String(), UID: string(u.GetUID()), Who: LastWriter(u)})
}

// LastWriter is who wrote a resource last, but for its status, as its managed fields
// claim; none if they do not tell.
func LastWriter(u metav1.Object) []audit.Person {
	var last metav1.Time
	name := ""
	entries := u.GetManagedFields()
	for i := range entries {
		m := &entries[i]
		if m.Subresource == "" && m.Manager != StatusManager && m.Time != nil && last.Before(m.Time) {
			name, last = m.Manager, *m.Time
		}
	}
	if name == "" {
		return nil
	}
	return []audit.Person{{Role: audit.RoleEditor, Name: name}}
}

// Asked is who asked for a pass by writing the resource: [LastWriter] in that role.
func Asked(u *unstructured.Unstructured) []audit.Person {
	who := LastWriter(u)
	for i := range who {
		who[i].Role = audit.RoleRequester
	}
	return who
}

// Approver is who gave the word that prunes waited for, by writing the resource:
// [LastWriter] in that role.
func Approver(u metav1.Object) []audit.Person {
	who := LastWriter(u)
	for i := range who {
		who[i].Role = audit.RoleApprover
	}
	return who
}

// Requester is who asked for a pass, as they say themselves; none for nobody.
func Requester(name string) []audit.Person {
	if name == "" {
		return nil
	}
	return []audit.Person{{Role: audit.RoleRequester, Name: name}}
}
