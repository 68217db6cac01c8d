package operate

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Rollback says where to go back to.
type Rollback struct {
	// ID is that of an entry of the history; negative: the one before the last.
	ID     int64
	Prune  bool
	DryRun bool
	User   string
}

// History returns the deliveries that an Application remembers, the oldest first. It
// fails with Unsupported for Flux's kinds, whose history is Git's.
func History(u *unstructured.Unstructured) ([]api.RevisionHistory, error) {
	if u.GetKind() != Application.Kind {
		return nil, fault.New(fault.Unsupported, "a %s has no history to go back to: it delivers what is in Git", u.GetKind()).
			On(Name(u)).WithHint("revert the commit in Git ('git revert'), then 'holdfast sync %s'", short(u))
	}
	app, err := decode(u)
	if err != nil {
		return nil, err
	}
	return app.Status.History, nil
}

// Ask writes the operation of a rollback into an Application: a sync without hooks
// of what a history entry holds. It returns the entry. Errors are those of [History],
// NotFound for an entry that does not exist, and Refused while the Application syncs
// itself, is suspended, being deleted, or at another operation.
func (r Rollback) Ask(u *unstructured.Unstructured) (api.RevisionHistory, error) {
	list, err := History(u)
	if err != nil {
		return api.RevisionHistory{}, err
	}
	if err := ready(u); err != nil {
		return api.RevisionHistory{}, err
	}
	app, err := decode(u)
	if err != nil {
		return api.RevisionHistory{}, err
	}
	if automated(app) {
		return api.RevisionHistory{}, fault.New(fault.Refused, "it is synced by itself, which would undo a rollback at once").
			On(Name(u)).WithHint("revert the commit in Git, or remove spec.syncPolicy.automated first")
	}
	entry, err := r.pick(u, list)
	if err != nil {
		return entry, err
	}
	return entry, start(u, &api.Operation{
		Sync: &api.SyncOperation{
			Revision: entry.Revision, Revisions: entry.Revisions, Source: entry.Source, Sources: entry.Sources,
			Prune: r.Prune, DryRun: r.DryRun, SyncStrategy: &api.SyncStrategy{Apply: &api.SyncStrategyApply{}},
		},
		InitiatedBy: api.OperationInitiator{Username: r.User},
	})
}

func (r Rollback) pick(u *unstructured.Unstructured, list []api.RevisionHistory) (api.RevisionHistory, error) {
	if r.ID < 0 {
		if len(list) < 2 {
			return api.RevisionHistory{}, fault.New(fault.NotFound, "it has delivered nothing before what it delivers now").On(Name(u))
		}
		return list[len(list)-2], nil
	}
	var ids []string
	for _, entry := range list {
		if entry.ID == r.ID {
			return entry, nil
		}
		ids = append(ids, fmt.Sprint(entry.ID))
	}
	return api.RevisionHistory{}, fault.New(fault.NotFound, "there is no entry %d in its history", r.ID).
		On(Name(u)).WithHint("it has the entries [%s]", strings.Join(ids, ", "))
}
