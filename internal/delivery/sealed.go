package delivery

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// stockManager is the field manager of the Sealed Secrets controller: the name of its
// program. What it wrote is taken over, but nothing else of that common name.
const stockManager = "controller"

// statusManager is the field manager of the status of SealedSecrets.
const statusManager = "holdfast-sealed"

// secretOf is the Secret that a SealedSecret is for.
func secretOf(id object.ID) object.ID {
	return object.ID{Kind: "Secret", Namespace: id.Namespace, Name: id.Name}
}

// derived are the Secrets that were made of SealedSecrets.
type derived struct {
	owners    map[object.ID]object.ID // the SealedSecret of each
	elsewhere string                  // who opens them instead; then there are none
}

// unseal adds to placed objects the Secrets that SealedSecrets among them are for. What
// cannot be opened is an error, of the source and its keys. Nothing is opened that the
// rules, or the account's rights, do not permit to be delivered: a template is its
// writer's, and could answer questions about a value by failing or not.
func (by stages) unseal(ctx context.Context, objects []object.Object, rules policy.Rules) ([]object.Object, derived, error) {
	d := derived{owners: map[object.ID]object.ID{}}
	if by.unsealer == nil {
		return objects, d, nil
	}
	d.elsewhere = by.unsealer.Elsewhere()
	turn := turns(ctx)
	for i := range objects {
		id := objects[i].ID()
		if !id.IsSealedSecret() || d.elsewhere != "" {
			continue
		}
		if err := by.permits(ctx, secretOf(id), rules); err != nil {
			return nil, d, fault.From(err).At(objects[i].Origin.File, objects[i].Origin.Line)
		}
		opened, err := by.unsealer.Unseal(&objects[i].Unstructured, turn)
		if err != nil {
			f := fault.From(err)
			return nil, d, &flaw{f.On(id.String()).At(objects[i].Origin.File, objects[i].Origin.Line).Because(&unopened{id, f.Cause})}
		}
		made := object.Object{Unstructured: *opened, Origin: objects[i].Origin}
		d.owners[made.ID()] = id
		objects = append(objects, made)
	}
	return objects, d, nil
}

// maxTurns is how many operations with private keys one pass may take: half a minute of
// them. What was opened is remembered, and takes none.
const maxTurns = 5000

// turns bounds the operations with private keys of a pass.
func turns(ctx context.Context) func() error {
	left := maxTurns
	return func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if left--; left < 0 {
			return fault.New(fault.Limit, "the SealedSecrets of the delivery take more than %d operations with sealing keys", maxTurns).
				WithHint("spread them over several deliveries, or remove sealing keys that nothing needs")
		}
		return nil
	}
}

// unopened is the cause of an error by which a SealedSecret was not opened.
type unopened struct {
	id    object.ID
	cause error
}

// Error implements error; what went wrong is in the error that it is the cause of.
func (u *unopened) Error() string { return "not opened" }

// Unwrap returns what lies behind it.
func (u *unopened) Unwrap() error { return u.cause }

// permits fails if a Secret that is to be made may not be delivered.
func (by stages) permits(ctx context.Context, id object.ID, rules policy.Rules) error {
	if err := rules.Permits(id, true); err != nil {
		return err
	}
	if by.mayDeliver == nil {
		return nil
	}
	return by.mayDeliver(ctx, id)
}

// mayDeliver asks the API server whether an account may write Secrets, once for each
// namespace where that answers it. Errors: Rejected on the Secret, and those of
// [cluster.Client.May]. Holdfast's own account is not asked about.
func (e *Engine) mayDeliver(who cluster.Account) func(context.Context, object.ID) error {
	if who == (cluster.Account{}) {
		return nil
	}
	all := map[string]bool{} // by namespace
	return func(ctx context.Context, id object.ID) error {
		kind, ok := e.Cluster.LookupGroupKind(id.GroupKind())
		if !ok {
			return fault.New(fault.Unreachable, "the cluster does not say how it serves Secrets")
		}
		allowed, known := all[id.Namespace]
		var err error
		if !known {
			if allowed, err = e.Cluster.As(who).May(ctx, "patch", kind, object.ID{Kind: id.Kind, Namespace: id.Namespace}); err != nil {
				return err
			}
			all[id.Namespace] = allowed
		}
		if !allowed { // there may be rights on this one
			if allowed, err = e.Cluster.As(who).May(ctx, "patch", kind, id); err != nil {
				return err
			}
		}
		if !allowed {
			return fault.New(fault.Rejected, "it is not opened, because %s may not patch it", who.User).On(id.String()).
				WithHint("grant the account patch and create on secrets in namespace %s, or leave the SealedSecret to whose that is", id.Namespace)
		}
		return nil
	}
}

// mark notes on desired objects what they were made from: they go with it.
func (d derived) mark(desired []plan.Desired) {
	at := map[object.ID]*plan.Desired{}
	for i := range desired {
		if id := desired[i].ID; id.IsSealedSecret() {
			at[id] = &desired[i]
			if d.elsewhere != "" {
				desired[i].Warnings = append(desired[i].Warnings, "spec.encryptedData: opened by "+d.elsewhere+", not by Holdfast")
			}
		}
	}
	for i := range desired {
		own := &desired[i]
		if owner := at[d.owners[own.ID]]; owner != nil {
			own.Owner, own.Peers = owner.ID, []string{stockManager}
			own.Wave, own.Treatment = owner.Wave, owner.Treatment
		}
	}
}

// sealing identifies what opens the SealedSecrets among desired objects; "" if there are
// none.
func (e *Engine) sealing(desired []plan.Desired) string {
	for _, d := range desired {
		if d.ID.IsSealedSecret() {
			return e.unsealedBy()
		}
	}
	return ""
}

func (e *Engine) unsealedBy() string {
	if e.Unsealer == nil {
		return "nobody"
	}
	return "keys " + e.Unsealer.ID() + ", unless " + e.Unsealer.Elsewhere()
}

// leave takes Secrets out of an inventory that others make of desired SealedSecrets:
// they are theirs to keep, not ours to prune.
func leave(desired []plan.Desired, inventory []plan.Entry) []plan.Entry {
	theirs := map[object.ID]bool{}
	for _, d := range desired {
		if d.ID.IsSealedSecret() {
			theirs[secretOf(d.ID)] = true
		}
	}
	if len(theirs) == 0 {
		return inventory
	}
	for _, d := range desired {
		delete(theirs, d.ID)
	}
	kept := make([]plan.Entry, 0, len(inventory))
	for _, entry := range inventory {
		if !theirs[entry.ID] {
			kept = append(kept, entry)
		}
	}
	return kept
}

// bodyOf is the body of a desired object, with the reference to its owner if the watch
// shows that.
func bodyOf(c *cluster.Cluster, d plan.Desired) ([]byte, error) {
	if d.Owner == (object.ID{}) {
		return d.Body.Reveal(), nil
	}
	kind, _ := c.LookupGroupKind(d.Owner.GroupKind())
	record, _ := c.Look(kind, d.Owner)
	return apply.Owned(d, kind.GVK.GroupVersion(), record.UID)
}

// keptSealed reports whether the marks of a SealedSecret keep it, and so the Secret of it.
func (e *Engine) keptSealed(secret object.ID, retract bool) bool {
	id := object.SealedSecret(secret.Namespace, secret.Name)
	kind, ok := e.Cluster.LookupGroupKind(id.GroupKind())
	if !ok {
		return false
	}
	record, ok := e.Cluster.Look(kind, id)
	return ok && (record.KeptInPrune && !retract || record.KeptInDelete && retract)
}

// tellSealed writes the status of SealedSecrets whose Secret is as desired, where this
// pass sent either or the status says otherwise. It is Holdfast that opens them, and so
// its own account that says so. What fails is a warning on the object.
func (e *Engine) tellSealed(ctx context.Context, spec Spec, res apply.Result) {
	at := map[object.ID]*apply.ObjectResult{}
	for i := range res.Objects {
		at[res.Objects[i].Action.ID] = &res.Objects[i]
	}
	for _, o := range res.Objects {
		d := o.Action.Desired
		if d == nil || at[d.Owner] == nil || !stands(o.Outcome) || !stands(at[d.Owner].Outcome) {
			continue
		}
		owner := at[d.Owner]
		if o.Outcome == apply.Unchanged && owner.Outcome == apply.Unchanged && e.saysSynced(spec, owner.Action) {
			continue
		}
		if err := e.setSynced(ctx, owner.Action, map[string]any{"status": "True"}); err != nil {
			warned := *owner.Action.Desired
			warned.Warnings = append(slices.Clip(warned.Warnings), "status: not written: "+fault.From(err).Msg)
			owner.Action.Desired = &warned
		}
	}
}

// stands reports whether an object is as desired after a pass.
func stands(o apply.Outcome) bool {
	return o == apply.Created || o == apply.Configured || o == apply.Reverted || o == apply.Unchanged
}

// saysSynced reports whether the status says that the Secret is there, as far as that is
// watched.
func (e *Engine) saysSynced(spec Spec, a plan.Action) bool {
	verdict := e.healthOf(spec, a.Kind, a.ID)
	return verdict == nil || verdict.Status == health.Healthy
}

// tellUnopened writes into the status of a SealedSecret that the delivery holds that its
// new state could not be opened, if err says so and the status does not.
func (e *Engine) tellUnopened(ctx context.Context, spec Spec, st *state, err error) {
	u, ok := errors.AsType[*unopened](err)
	if !ok || !slices.ContainsFunc(spec.Inventory, func(held Entry) bool { return held.ID == u.id }) {
		return
	}
	kind, ok := e.Cluster.LookupGroupKind(u.id.GroupKind())
	if verdict := e.healthOf(spec, kind, u.id); !ok || verdict != nil && verdict.Status == health.Degraded {
		return
	}
	message := st.mask.Text(fault.From(err).Msg)
	// The delivery is refused either way, and says why.
	_ = e.setSynced(ctx, plan.Action{ID: u.id, Kind: kind}, map[string]any{"status": "False", "reason": "UnsealError", "message": message})
}

// setSynced writes the status that the Sealed Secrets controller writes when it has made
// the Secret, or could not (github.com/bitnami/sealed-secrets, pkg/controller).
func (e *Engine) setSynced(ctx context.Context, a plan.Action, condition map[string]any) error {
	record, ok := e.Cluster.Look(a.Kind, a.ID)
	if !ok {
		return nil // its end is an event
	}
	now := e.Clock().UTC().Format(time.RFC3339)
	condition["type"], condition["lastUpdateTime"], condition["lastTransitionTime"] = "Synced", now, now
	return e.Cluster.As(cluster.Account{}).SetStatus(ctx, a.Kind, a.ID, map[string]any{
		"observedGeneration": record.Generation, "conditions": []any{condition},
	}, statusManager)
}

// pass begins a pass: what it opens is masked until it ends.
func (st *state) pass() (end func()) {
	st.mask = &secret.Mask{}
	return func() { st.mask = nil }
}
