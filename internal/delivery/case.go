package delivery

import (
	"maps"
	"net/mail"
	"slices"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Around is what a case takes from where it is judged. The zero value is CI without a
// cluster.
type Around struct {
	// Complete fills in what the API server would; nil: nothing is.
	Complete func(map[string]any)
	// Live returns the object that one will replace; nil: nobody looks.
	Live func(object.ID) map[string]any
	// Sealed tells whether a value of a Secret came of something sealed; nil: none did.
	Sealed func(id object.ID, value string) bool
	// Labels are those of a namespace of the cluster; nil: nobody knows.
	Labels func(namespace string) map[string]string
	// Kubernetes is the version of the cluster, "1.36"; Signer who was proven to have
	// signed the commit. Both may be empty.
	Kubernetes, Signer string
}

// Case puts objects, as they will be sent, before policies. It is the same in the cluster
// and in CI. The namespace that the delivery makes itself is one of them.
func (s Spec) Case(objects []object.Object, kinds schema.Kinds, around Around) *policy.Case {
	if s.CreateNamespace && s.Namespace != "" && !slices.ContainsFunc(objects, func(o object.Object) bool {
		return o.ID() == object.ID{Kind: "Namespace", Name: s.Namespace}
	}) {
		objects = append(slices.Clip(objects), *s.newNamespace())
	}
	c := policy.NewCase(objects, kinds, around.Complete, around.Live)
	if around.Sealed != nil {
		c.MarkSealed(objects, around.Sealed)
	}
	c.Kubernetes = around.Kubernetes
	c.Delivery = s.context()
	c.Delivery.Revision, c.Delivery.Author, c.Delivery.Signer = s.Revision.Commit, address(s.Revision.Author), around.Signer
	for i := range c.Subjects {
		if id := c.Subjects[i].ID(); around.Labels != nil && id.Namespace != "" {
			c.Namespaces[id.Namespace] = joined(around.Labels(id.Namespace), c.Namespaces[id.Namespace])
		}
	}
	maps.DeleteFunc(c.Namespaces, func(_ string, labels map[string]string) bool { return labels == nil })
	return c
}

// context is who brings the case, but for the revision.
func (s Spec) context() policy.Delivery {
	return policy.Delivery{
		Kind: s.ID.Kind, Namespace: s.ID.Namespace, Name: s.ID.Name, Labels: s.Labels, Project: s.Rules.Project,
		Repository: s.Revision.URL, Path: s.Render.Path, Account: s.Account.User,
	}
}

// joined are the labels that a namespace will have: those that are delivered go first.
func joined(live, delivered map[string]string) map[string]string {
	if live == nil {
		return delivered
	}
	all := maps.Clone(live)
	maps.Copy(all, delivered)
	return all
}

// address is that of "Name <address>"; the text itself if it is not written so.
func address(author string) string {
	if a, err := mail.ParseAddress(author); err == nil {
		return a.Address
	}
	return author
}
