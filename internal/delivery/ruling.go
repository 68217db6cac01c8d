package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Policies judge what a delivery brings; *judge.Judge is one.
type Policies interface {
	// Judge returns what sets come to for a case at a moment, a decision for each, in
	// their order. What cannot be told is a verdict that fails. Errors are of ctx, and of
	// workers that cannot be had: they say nothing of the case.
	Judge(ctx context.Context, sets []policy.Set, c *policy.Case, now time.Time) ([]policy.Decision, error)
}

// The reasons of alerts about policies.
const (
	// AlertViolation: policies refuse a revision, and nothing is delivered.
	AlertViolation = "PolicyViolation"
	// AlertWarning: a policy finds fault, and only tells; or an exception ends.
	AlertWarning = "PolicyWarning"
)

// Ruling is what policies say of a delivery at present, without a secret value.
type Ruling struct {
	ID, UID  string // of the resource that asks for the delivery
	Revision string // commit
	// Verdicts are those that fail, and those that are only told.
	Verdicts []policy.Verdict
	// Sets are those that judged, by name.
	Sets []string
	// Standing: what fails was live before the policies forbade it. It stays, and is
	// held, until the next change of the delivery, which is refused.
	Standing bool
	// Excused are those that would fail, but for an exception.
	Excused []policy.Verdict
}

// ruling is what policies said of a case. It stands for the same case under the same
// sets: a pass with nothing to do judges nothing.
type ruling struct {
	Ruling

	version string            // of the sets
	digest  [sha256.Size]byte // of the case
	// spaces are the labels of namespaces of the cluster that it went by.
	spaces  map[string]map[string]string
	until   time.Time // when it changes by itself; zero: never
	notices []string
}

// errPolicy is the cause of errors by which policies refuse.
var errPolicy = errors.New("a policy forbids it")

// isViolation reports whether an error is a refusal by policies.
func isViolation(err error) bool { return errors.Is(err, errPolicy) }

// jury judges the objects of a delivery, as they will be sent; nil: no set selects it.
type jury func(ctx context.Context, objects []object.Object, kinds schema.Kinds, made derived) (*ruling, error)

// ruling is what the policies say; nil where none is asked.
func (by stages) ruling(ctx context.Context, objects []object.Object, kinds schema.Kinds, made derived) (*ruling, error) {
	if by.judge == nil {
		return nil, nil //nolint:nilnil // nothing asked is no failure
	}
	return by.judge(ctx, objects, kinds, made)
}

// stands reports whether what policies said of what is desired still counts.
func (e *Engine) stands(spec Spec, st *state) bool {
	r := st.ruling
	if len(spec.Policies.List) == 0 {
		return true
	}
	return r != nil && r.version == spec.Policies.Version && (r.until.IsZero() || e.Clock().Before(r.until)) && e.sameSpaces(r)
}

// sameSpaces reports whether the namespaces have the labels that a ruling went by.
func (e *Engine) sameSpaces(r *ruling) bool {
	for name, labels := range r.spaces {
		if !maps.Equal(e.labels(name), labels) {
			return false
		}
	}
	return true
}

func (e *Engine) labels(namespace string) map[string]string {
	if e.NamespaceLabels == nil {
		return nil
	}
	return e.NamespaceLabels(namespace)
}

// jury returns what has the policies of a spec judge; what was judged before is known.
// Errors are those of [Policies] and of reading live objects.
func (e *Engine) jury(spec Spec, st *state) jury {
	if len(spec.Policies.List) == 0 {
		return nil
	}
	return func(ctx context.Context, objects []object.Object, kinds schema.Kinds, made derived) (*ruling, error) {
		if st.desired != nil && e.stands(spec, st) && e.Unchanged(spec) {
			return st.ruling, nil // what was found of the same revision, or one that changes nothing
		}
		if e.Policies == nil {
			return nil, fault.New(fault.Internal, "policies cannot be judged by here").Because(errPolicy)
		}
		c, err := e.caseOf(ctx, spec, st, objects, kinds, made)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(c)
		if err != nil {
			return nil, fault.New(fault.Internal, "the objects cannot be judged: %s", err)
		}
		digest, now := sha256.Sum256(text), e.Clock()
		for _, r := range []*ruling{st.offence, st.ruling} {
			if r != nil && r.version == spec.Policies.Version && r.digest == digest && (r.until.IsZero() || now.Before(r.until)) {
				return r, nil
			}
		}
		decisions, err := e.Policies.Judge(ctx, spec.Policies.List, c, now)
		if err != nil {
			return nil, err
		}
		r := gather(spec, decisions, st.mask)
		r.digest, r.spaces = digest, e.spacesOf(c)
		return r, nil
	}
}

// caseOf is the case of a pass, with what the cluster knows.
func (e *Engine) caseOf(ctx context.Context, spec Spec, st *state, objects []object.Object, kinds schema.Kinds, made derived) (*policy.Case, error) {
	around := Around{Complete: e.Complete, Labels: e.labels, Kubernetes: e.kubernetes(ctx), Signer: st.signer(spec)}
	around.Sealed = func(id object.ID, value string) bool {
		return made.owners[id] != (object.ID{}) || st.mask.FromSealed(value)
	}
	var failed error
	if asksForLive(spec.Policies.List) {
		client := e.Cluster.As(spec.Account)
		around.Live = func(id object.ID) map[string]any {
			kind, served := e.Cluster.LookupGroupKind(id.GroupKind())
			if !served || failed != nil {
				return nil
			}
			live, err := client.Get(ctx, kind, id)
			switch {
			case err == nil:
				return live.Object
			case fault.KindOf(err) != fault.NotFound:
				failed = err
			}
			return nil
		}
	}
	c := spec.Case(objects, kinds, around)
	return c, failed
}

// asksForLive reports whether a policy asks about the object that is live: each costs a
// request, and most policies do not.
func asksForLive(sets []policy.Set) bool {
	return slices.ContainsFunc(sets, func(s policy.Set) bool {
		return slices.ContainsFunc(s.Documents, func(d policy.Document) bool {
			for _, word := range [][]byte{[]byte("oldObject"), []byte("request.operation")} {
				if bytes.Contains(d.Content, word) {
					return true
				}
			}
			return bytes.Contains(d.Content, []byte("UPDATE")) && !bytes.Contains(d.Content, []byte("CREATE"))
		})
	})
}

// kubernetes is the version of the cluster as policies have it, "1.36"; "" while it
// cannot be told.
func (e *Engine) kubernetes(ctx context.Context) string {
	e.mu.Lock()
	known := e.version
	e.mu.Unlock()
	if known != "" {
		return known
	}
	full, err := e.Cluster.Version(ctx)
	if err != nil {
		return ""
	}
	major, rest, _ := strings.Cut(strings.TrimPrefix(full, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	e.mu.Lock()
	defer e.mu.Unlock()
	e.version = major + "." + minor
	return e.version
}

// signer is who was proven to have signed the revision; "" for nobody.
func (st *state) signer(spec Spec) string {
	for _, p := range st.people(spec, false) {
		if p.Role == audit.RoleSigner && p.Proven {
			return p.Name
		}
	}
	return ""
}

// spacesOf are the labels, in the cluster, of the namespaces of a case.
func (e *Engine) spacesOf(c *policy.Case) map[string]map[string]string {
	spaces := map[string]map[string]string{}
	for i := range c.Subjects {
		if name := c.Subjects[i].ID().Namespace; name != "" {
			spaces[name] = e.labels(name)
		}
	}
	return spaces
}

// gather makes one ruling of the decisions of a spec's sets.
func gather(spec Spec, decisions []policy.Decision, mask *secret.Mask) *ruling {
	r := &ruling{version: spec.Policies.Version, Ruling: Ruling{ID: spec.ID.String(), UID: spec.UID, Revision: spec.Revision.Commit}}
	for i, d := range decisions {
		r.Sets = append(r.Sets, spec.Policies.List[i].Name)
		r.notices = append(r.notices, d.Notices...)
		if !d.Until.IsZero() && (r.until.IsZero() || d.Until.Before(r.until)) {
			r.until = d.Until
		}
		r.Verdicts = append(r.Verdicts, masked(d.Verdicts, mask)...)
		r.Excused = append(r.Excused, masked(d.Excused, mask)...)
	}
	return r
}

// masked are verdicts without secret values.
func masked(verdicts []policy.Verdict, mask *secret.Mask) []policy.Verdict {
	all := slices.Clone(verdicts)
	for i := range all {
		v := &all[i]
		v.Message, v.Path = mask.Text(v.Message), mask.Text(v.Path)
	}
	return all
}

// abide notes what policies say of what a pass desires, and refuses it if one that
// enforces forbids it. What is applied already, as it is desired, was permitted when it
// came: it stays, so that a change of policies is told before it blocks.
func (st *state) abide(r *ruling, desired []plan.Desired) error {
	if r == nil {
		st.ruling, st.offence = nil, nil
		return nil
	}
	refusal := policy.Refusal(r.Verdicts)
	standing := refusal != nil && st.applied(desired)
	if r.Standing != standing { // it was cached as the other
		again := *r
		again.Standing = standing
		r = &again
	}
	if refusal != nil && !standing {
		st.offence = r
		return refusal.Because(errPolicy)
	}
	st.warn(st.ruling, r)
	st.ruling, st.offence = r, nil
	return nil
}

// applied reports whether everything is applied as it is desired.
func (st *state) applied(desired []plan.Desired) bool {
	return !slices.ContainsFunc(desired, func(d plan.Desired) bool {
		return !d.Loose && st.prints[d.ID].Digest != d.Digest
	})
}

// warn has people hear of what is new among what is only told.
func (st *state) warn(before, now *ruling) {
	told := before.warnings()
	for _, text := range now.warnings() {
		if !slices.Contains(told, text) {
			st.alerts = append(st.alerts, Alert{AlertWarning, text})
		}
	}
}

// warnings are what policies only tell: findings of those that warn, findings about what
// is live already, and exceptions that end.
func (r *ruling) warnings() []string {
	if r == nil {
		return nil
	}
	var lines []string
	for _, v := range r.Verdicts {
		switch {
		case v.Outcome == policy.Audit:
			lines = append(lines, v.String())
		case v.Outcome == policy.Fail && r.Standing:
			lines = append(lines, v.String()+standing)
		}
	}
	return append(lines, r.notices...)
}

// standing is what messages add about what is live and would be refused.
const standing = "; it is live and stays, and the next change of this delivery is refused until this is corrected"

// maxWarnings bounds the findings that a report names.
const maxWarnings = 20

// warned are the first warnings, and the number of the rest.
func (st *state) warned() []string {
	lines := st.ruling.warnings()
	if more := len(lines) - maxWarnings; more > 0 {
		lines = append(lines[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more", more))
	}
	return lines
}

// ruled tells what policies say of a delivery at present, if that is new.
func (e *Engine) ruled(spec Spec, st *state, report Report) {
	now := st.ruling
	if report.Violates {
		now = st.offence
	}
	if e.Ruled == nil || now == st.told && st.toldOnce || report.Err != nil && !report.Violates && report.Err.Kind != fault.Waiting {
		return // it is known, or says nothing of policies
	}
	st.told, st.toldOnce = now, true
	tell := Ruling{ID: spec.ID.String(), UID: spec.UID}
	if now != nil {
		tell = now.Ruling
	}
	e.Ruled(spec.ID, tell)
}

// rulings are what policies said, as the log tells it. Where refused is false, what
// fails was only told.
func (r *ruling) rulings(refused bool, desired []plan.Desired) []audit.Verdict {
	if r == nil {
		return nil
	}
	names := make(map[string]string, len(desired))
	for _, d := range desired {
		names[d.ID.String()] = audit.ObjectName(d.ID, d.Kind.GVK.Version)
	}
	list := make([]audit.Verdict, 0, len(r.Verdicts)+len(r.Excused))
	for _, v := range slices.Concat(r.Verdicts, r.Excused) {
		told := audit.Verdict{
			Rule: "policy/" + strings.TrimSuffix(v.Policy+"/"+v.Rule, "/"), Outcome: v.Outcome, Object: v.Object, Message: v.Message, Revision: v.Revision,
		}
		if name, ok := names[v.Object]; ok {
			told.Object = name
		}
		if v.Outcome == policy.Fail && !refused {
			told.Outcome, told.Message = policy.Audit, v.Message+standing
		}
		list = append(list, told)
	}
	return list
}

// Judge returns what the policies of a spec say of what its revision brings now: the way
// and the code of [Engine.Deliver], which is told nothing of it. Nothing has to be
// proven, and nothing is sent but reads. The zero Ruling is that of a spec without
// policies. It shares what is remembered of the delivery, and is for an engine that
// delivers nothing. Errors are those of rendering, admission and [Policies], and hold no value
// that was opened.
func (e *Engine) Judge(ctx context.Context, spec Spec) (Ruling, error) {
	st := e.state(spec.ID)
	defer st.pass()()
	spec.Trust = trust.Demands{}
	made, err := e.compose(ctx, spec, st, trust.Vouch(spec.Revision, trust.Evidence{}, spec.Trust))
	if err != nil || made.ruling == nil {
		return Ruling{}, err
	}
	return made.ruling.Ruling, nil
}
