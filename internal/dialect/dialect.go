// Package dialect holds what the dialects (Flux, Argo CD) share: the parts that
// their controllers are handed, the trigger by which events reach a controller's
// queue, how a pass ends, and who may deliver a resource that another controller
// serves too. A dialect translates custom resources to deliveries and
// reports to status; it decides nothing about objects.
package dialect

import (
	"log/slog"
	"time"

	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Env is what the controllers of every dialect are made from.
type Env struct {
	// Client reads custom resources from the manager's cache and writes them.
	Client client.Client
	// Reader reads Secrets and whatever must not be cached.
	Reader client.Reader
	Events record.EventRecorder
	Engine *delivery.Engine
	Hub    *source.Hub
	Clock  func() time.Time
	Log    *slog.Logger

	// Permissive writes with Holdfast's own identity where an object names no
	// account; it is shown on every object that it affects.
	Permissive bool
	// DefaultServiceAccount is the account, in the namespace of the object, of
	// Flux objects that name none; empty: they are refused unless Permissive.
	DefaultServiceAccount string
	// ArgoNamespace is where Applications and AppProjects live ("argocd").
	ArgoNamespace string
	// AllowFileURLs permits file:// repositories; for demonstrations and tests.
	AllowFileURLs bool
	// Concurrency bounds the passes of one kind that run side by side.
	Concurrency int

	// Observe has everything be looked at, and nothing be written, but for what was
	// taken over; see [Env.Observing].
	Observe bool
	// Observed is told the report of every pass over a resource that is only
	// observed, and an empty one of a resource that is not any more; nil: nobody is.
	Observed func(delivery.ID, delivery.Report)
	// Trust returns what a delivery must prove; nil: nothing is demanded of any.
	// An error refuses the delivery: the policies are not known.
	Trust func(trust.Subject) (trust.Demands, error)
	// Policies returns the sets that judge what a delivery brings; nil: there are none. An
	// error refuses the delivery: they are not known.
	Policies func(trust.Subject) (policy.Sets, error)
	// Decryption finds the keys for sealed files; nil: there are none.
	Decryption *Decryption
	// Peers notices other controllers at work on what is Holdfast's; nil: none is.
	Peers *Peers
}

// StatusManager owns what Holdfast writes on custom resources. It is not the name
// that the peers use, so that a peer that still writes is told apart.
const StatusManager = "holdfast-status"

// now is the time by the clock, and by that of the machine where there is none.
func (e *Env) now() time.Time {
	if e.Clock == nil {
		return time.Now()
	}
	return e.Clock()
}
