// Package cluster is a connection to one Kubernetes cluster: which kinds it
// serves, what its objects look like from outside (records kept by watches), and
// requests sent as a tenant's account.
package cluster

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
)

// Hash is a 128-bit digest of part of an object's metadata.
type Hash [16]byte

// Entry is one entry of an object's managedFields, but for those of the status
// subresource, which are left out.
type Entry struct {
	Manager string
	Apply   bool // operation Apply; otherwise Update
	Status  bool // written by Options.StatusManager: status where there is no subresource for it
	Part    bool // written through a subresource, such as scale
	Scale   bool // written through the subresource scale, which holds the number of replicas alone
	Hash    Hash // of fields, subresource, API version and time
}

// Record is what is kept of a live object: enough to tell whether somebody
// changed what we applied, and how it fares. The object itself is not kept.
type Record struct {
	UID             types.UID
	ResourceVersion string
	Generation      int64 // 0 for kinds that have none
	Entries         []Entry
	Owner           string // the delivery that its marks name, see Options.Owner; empty if none
	KeptInPrune     bool   // its marks say it must outlive its place in the source, see Options.Kept
	KeptInDelete    bool   // its marks say it must outlive its delivery
	LastApplied     bool   // it carries the annotation of a client-side apply
	Deleting        bool
	Judged          bool // the kind has health and the whole object was seen
	Health          health.Verdict
}

// Event says that the record of an object has changed. Gone is set when the
// object no longer exists.
type Event struct {
	ID     object.ID
	Record Record
	Gone   bool
}

// Account is who a request is sent as.
type Account struct {
	// User is the impersonated user, e.g. "system:serviceaccount:apps:deployer".
	// Empty: Holdfast's own identity, which only permissive mode uses for writes.
	User string
}

// ServiceAccount returns the account of a service account.
func ServiceAccount(namespace, name string) Account {
	return Account{User: "system:serviceaccount:" + namespace + ":" + name}
}
