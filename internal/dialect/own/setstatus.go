package own

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/installed"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// maxFailing bounds the deliveries that a status names, and maxFinding what it says of one.
const (
	maxFailing = 20
	maxFinding = 500
)

// note remembers that a delivery has asked. p.mu is held.
func (p *PolicySets) note(s trust.Subject) {
	key := name(s.Kind, s.Namespace, s.Name)
	known := p.subjects[key]
	if known == nil {
		known = &ruledSubject{}
		p.subjects[key] = known
	} else if reflect.DeepEqual(known.Subject, s) {
		return
	}
	s.Labels = maps.Clone(s.Labels)
	known.Subject = s
	p.recount()
}

// Ruled tells what policies say of a delivery at present.
func (p *PolicySets) Ruled(id delivery.ID, r delivery.Ruling) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.subjects[id.String()]
	if s == nil {
		return
	}
	r.Verdicts = slices.DeleteFunc(slices.Clone(r.Verdicts), func(v policy.Verdict) bool { return v.Outcome == policy.Pass })
	const most = 100 // of a delivery; the status names the first
	r.Verdicts, r.Excused = r.Verdicts[:min(len(r.Verdicts), most)], nil
	s.ruling = &r
	p.recount()
}

// recount has the status of all sets be looked at, together. p.mu is held.
func (p *PolicySets) recount() {
	for name := range p.sets {
		p.queue.AddAfter(name, 100*time.Millisecond)
	}
}

// sweep forgets deliveries that are gone, now and then.
func (p *PolicySets) sweep() {
	p.mu.Lock()
	if p.now().Sub(p.swept) < recount {
		p.mu.Unlock()
		return
	}
	p.swept = p.now()
	asked := slices.Collect(maps.Keys(p.subjects))
	p.mu.Unlock()
	for _, key := range asked {
		if p.options.Alive(key) {
			continue
		}
		p.mu.Lock()
		delete(p.subjects, key)
		p.mu.Unlock()
	}
}

// count fills in how many deliveries a set is for, and what it says of them. p.mu is held.
func (p *PolicySets) count(c *currentSet, status *api.PolicySetStatus) {
	var refused, warned int64
	judged := false
	status.Selected, status.Refused, status.Warned, status.Failing = 0, nil, nil, nil
	for _, key := range slices.Sorted(maps.Keys(p.subjects)) {
		s := p.subjects[key]
		if !c.Selects(s.Subject) {
			continue
		}
		status.Selected++
		if s.ruling == nil || !slices.Contains(s.ruling.Sets, c.now.Name) {
			continue
		}
		judged = true
		failing := failingOf(key, c.now.Name, s.ruling)
		switch failing.Outcome {
		case "":
			continue
		case api.OutcomePolicyWarned:
			warned++
		default:
			refused++
		}
		if len(status.Failing) < maxFailing {
			status.Failing = append(status.Failing, failing)
		}
	}
	if judged {
		status.Refused, status.Warned = &refused, &warned
	}
}

// failingOf says what a set finds of a delivery, the worst first; no outcome for nothing.
func failingOf(key, set string, r *delivery.Ruling) api.FailingDelivery {
	out := api.FailingDelivery{Delivery: key}
	for _, v := range r.Verdicts {
		if v.Policy != set {
			continue
		}
		outcome := api.OutcomePolicyWarned
		switch {
		case v.Outcome == policy.Fail && r.Standing:
			outcome = api.OutcomeWouldRefuse
		case v.Outcome == policy.Fail:
			outcome = api.OutcomeRefused
		}
		if out.Outcome == "" || out.Outcome == api.OutcomePolicyWarned && outcome != api.OutcomePolicyWarned {
			text := v.String()
			out.Outcome, out.Message = outcome, strings.ToValidUTF8(text[:min(len(text), maxFinding)], "")
		}
	}
	return out
}

// tell writes the status of a set, if it says something else than before. It returns when
// to look again.
func (p *PolicySets) tell(ctx context.Context, name string) time.Duration {
	p.mu.Lock()
	c := p.sets[name]
	if c == nil {
		p.mu.Unlock()
		return recount
	}
	if soon := together - p.now().Sub(p.wrote[name]); soon > 0 {
		p.mu.Unlock()
		return soon
	}
	u := c.object
	before := &api.PolicySet{}
	status, there := u.Object["status"]
	if there {
		// What cannot be read is replaced.
		_ = runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"status": status}, before)
	}
	after := before.DeepCopy()
	after.Status.ObservedGeneration, after.Status.Revision = u.GetGeneration(), c.now.Revision
	p.count(c, &after.Status)
	p.conditions(&after.Status.Conditions, c)
	p.mu.Unlock()
	if p.env.Client == nil || there && reflect.DeepEqual(before.Status, after.Status) {
		return recount
	}
	p.mu.Lock()
	p.wrote[name] = p.now()
	p.mu.Unlock()
	err := patchStatus(ctx, p.env.Client, api.PolicySetKind, name, &before.Status, &after.Status, before.Status.ObservedGeneration == 0)
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsForbidden(err) && p.env.Observe: // who only observes has no right to write
		return recount
	}
	p.env.Log.Warn("the status of a PolicySet cannot be written", "policyset", name, "error", err.Error())
	return 5 * time.Second
}

// conditions say how a set stands. p.mu is held.
func (p *PolicySets) conditions(list *[]metav1.Condition, c *currentSet) {
	set := func(kind string, status metav1.ConditionStatus, reason, message string) {
		apimeta.SetStatusCondition(list, metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message[:min(len(message), maxMessage)],
			ObservedGeneration: c.object.GetGeneration(), LastTransitionTime: metav1.NewTime(p.now()).Rfc3339Copy(),
		})
	}
	status, reason, message := c.stands()
	set(api.ConditionReady, status, reason, message)
	flag := func(kind string, on bool, reason, message string) {
		if !on {
			apimeta.RemoveStatusCondition(list, kind)
			return
		}
		set(kind, metav1.ConditionTrue, reason, message)
	}
	flag(api.ConditionBroken, status == metav1.ConditionFalse, reason, message)
	flag(api.ConditionAbsent, len(c.absent) > 0, ReasonNotServed, absence(c.absent))
	stale := c.stale()
	flag(api.ConditionStale, len(stale) > 0, ReasonSource, listed(stale))
	ending := policy.Set{Name: c.now.Name, Exceptions: c.now.Exceptions}.Decide(&policy.Case{}, policy.Findings{}, nil, p.now()).Notices
	flag(api.ConditionExpiring, len(ending) > 0, ReasonExpiring, listed(ending))
}

// The reasons of conditions about policies that lie in the cluster.
const (
	ReasonNothing   = "NoPolicies"
	ReasonNotServed = "NotServed"
)

// absence says what of spec.cluster a cluster does not serve.
func absence(names []string) string {
	var lines []string
	for _, name := range names {
		var kinds []string
		for _, gk := range installed.Kinds(name) {
			kinds = append(kinds, gk.String())
		}
		lines = append(lines, fmt.Sprintf("%s: the cluster serves none of %s; what is put there is judged by as soon as it does", name, strings.Join(kinds, ", ")))
	}
	return strings.Join(lines, "; ")
}

// stands says how a set stands.
func (c *currentSet) stands() (status metav1.ConditionStatus, reason, message string) {
	effect := "what it selects is refused"
	if c.now.Warn {
		effect = "it only warns"
	}
	switch {
	case c.Set.Broken != "":
		return metav1.ConditionFalse, c.Reason, fmt.Sprintf("%s, until this is corrected: %s", effect, c.Set.Broken)
	case c.now.Broken != "":
		return metav1.ConditionFalse, ReasonSource, fmt.Sprintf("%s, until this is corrected: %s", effect, c.now.Broken)
	case c.waiting != "":
		return metav1.ConditionUnknown, ReasonSources, c.waiting + " is being read; what the set selects waits"
	case c.idle:
		return metav1.ConditionTrue, ReasonNothing, "the cluster holds no policy that could judge what it selects; nothing is refused"
	case c.flaw != "" && c.probed == c.version:
		return metav1.ConditionFalse, ReasonPolicies, fmt.Sprintf("%s, until this is corrected: %s", effect, c.flaw)
	case c.now.Warn:
		return metav1.ConditionTrue, c.Reason, "what breaks a policy is delivered, and told"
	}
	return metav1.ConditionTrue, c.Reason, "what breaks a policy is refused"
}

// stale says which sources cannot be had, and what is judged by instead.
func (c *currentSet) stale() []string {
	var lines []string
	for _, r := range c.read {
		if r.err != nil && r.has() {
			lines = append(lines, fmt.Sprintf("%s cannot be had since %s, and is judged by at %s: %s",
				r.of, r.since.UTC().Format(time.RFC3339), r.commit, r.err))
		}
	}
	return lines
}
