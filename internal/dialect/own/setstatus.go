package own

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/installed"
)

// maxFailing bounds the deliveries that a status names, and maxFinding what it says of one.
const (
	maxFailing = 20
	maxFinding = 500
)

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
	s.told = &r
	p.recount()
}

// count fills in how many deliveries a set is for, and what it says of them. p.mu is held.
func (p *PolicySets) count(c *currentSet, status *api.PolicySetStatus) {
	var refused, warned int64
	status.Selected, status.Refused, status.Warned, status.Failing = 0, nil, nil, nil
	for key, s := range p.askers(c) {
		status.Selected++
		if s.told == nil || !slices.Contains(s.told.Sets, c.now.Name) {
			continue
		}
		status.Refused, status.Warned = &refused, &warned
		failing := failingOf(key, c.now.Name, s.told)
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
// to look again; 0: when somebody asks.
func (p *PolicySets) tell(ctx context.Context, name string) time.Duration {
	again, err := writeStatus(ctx, p.roster, name, func(c *currentSet, status *api.PolicySetStatus) {
		status.ObservedGeneration, status.Revision = c.object.GetGeneration(), c.now.Revision
		p.count(c, status)
		p.conditions(&status.Conditions, c)
	})
	if err == nil {
		return again
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
