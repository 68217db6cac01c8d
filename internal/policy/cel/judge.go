package cel

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	registration "k8s.io/api/admissionregistration/v1"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// Program is policies that are ready to judge.
type Program struct {
	rules  []*rule
	params params
}

var _ policy.Program = (*Program)(nil)

// block is how many subjects are judged in a row.
const block = 64

// Judge returns what the API server would refuse, or warn of, if it were asked to store
// each subject of the case: Pods of workloads too, as created. An error of an expression
// refuses, or warns where failurePolicy is Ignore, and is never silent. The only error
// is that of ctx. It uses all processors that the process may.
func (p *Program) Judge(ctx context.Context, c *policy.Case) (policy.Findings, error) {
	params, requests := p.params.with(c), newRequester(c)
	parts := make([]*judging, (len(c.Subjects)+block-1)/block)
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(parts)) {
		group.Go(func() {
			for i := int(next.Add(1) - 1); i < len(parts) && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				parts[i] = p.judge(ctx, c, i*block, params, requests)
			}
		})
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return policy.Findings{}, err
	}
	all := newJudging(params)
	for _, part := range parts {
		all.found.List = append(all.found.List, part.found.List...)
		for name, n := range part.found.Judged {
			all.found.Judged[name] += n
		}
		for b, n := range part.missing {
			all.missing[b] += n
		}
	}
	all.tellMissing(p.rules)
	return all.found, nil
}

// judge judges a block of subjects.
func (p *Program) judge(ctx context.Context, c *policy.Case, from int, params params, requests *requester) *judging {
	j := newJudging(params)
	for i := from; i < min(from+block, len(c.Subjects)); i++ {
		j.subject = i
		in := requests.request(&c.Subjects[i])
		if in == nil {
			continue
		}
		for _, r := range p.rules {
			j.rule(ctx, r, in)
		}
	}
	return j
}

// judging is a part of a case under way.
type judging struct {
	found   policy.Findings
	params  params
	subject int
	// missing counts the objects that a binding let pass without its parameters.
	missing map[*binding]int
}

func newJudging(p params) *judging {
	return &judging{found: policy.Findings{Judged: map[string]int{}}, params: p, missing: map[*binding]int{}}
}

// rule judges one request by one policy, as the dispatcher in
// k8s.io/apiserver/pkg/admission/plugin/policy/validating does.
func (j *judging) rule(ctx context.Context, r *rule, in *request) {
	matches, err := r.match.matches(in)
	if err != nil {
		j.misfit(r, nil, "failed to configure policy: "+err.Error())
		return
	}
	if !matches {
		return
	}
	j.found.Judged[r.name]++
	var alike []decision // what bindings without parameters share
	for _, b := range r.bindings {
		if b.match != nil {
			if matches, err = b.match.matches(in); err != nil {
				j.misfit(r, b, "failed to configure binding: "+err.Error())
				continue
			} else if !matches {
				continue
			}
		}
		found, err := j.params.collect(r, b, in.attributes.GetNamespace())
		if err != nil {
			j.misfit(r, b, "failed to configure binding: "+err.Error())
			continue
		}
		if len(found) == 0 {
			j.missing[b]++
		}
		for _, param := range found {
			decisions := alike
			if param != nil || alike == nil {
				decisions = r.evaluate(ctx, in, param)
			}
			if param == nil {
				alike = append([]decision{}, decisions...)
			}
			j.tell(r, b, decisions)
		}
	}
}

// misfit tells what is wrong with a policy or a binding for a subject: it is refused
// whatever the binding's actions are, but for failurePolicy Ignore.
func (j *judging) misfit(r *rule, b *binding, message string) {
	f := policy.Finding{Policy: r.name, Subject: j.subject, Message: message, File: r.file, Line: r.line("metadata", "name")}
	if b != nil {
		f.Rule, f.File, f.Line = b.name, b.file, b.line("metadata", "name")
	}
	if r.ignore {
		f.Warn, f.Message = true, message+ignored
	}
	j.add(f)
}

// ignored ends the message of an error that refuses nothing.
const ignored = " (passed, because failurePolicy is Ignore)"

// tell adds what came of a policy with one parameter.
func (j *judging) tell(r *rule, b *binding, decisions []decision) {
	refuses := slices.Contains(b.spec.ValidationActions, registration.Deny)
	for _, d := range decisions {
		f := policy.Finding{Policy: r.name, Rule: b.name, Subject: j.subject, Message: d.message, Warn: !refuses, File: r.file, Line: r.line(d.at...)}
		switch {
		case d.failed && r.ignore:
			f.Warn, f.Message = true, d.message+ignored
		case d.always:
			f.Warn = false
		}
		j.add(f)
	}
}

// add adds a finding, once: several parameters may say the same.
func (j *judging) add(f policy.Finding) {
	for i := len(j.found.List) - 1; i >= 0 && j.found.List[i].Subject == f.Subject; i-- {
		if j.found.List[i] == f {
			return
		}
	}
	j.found.List = append(j.found.List, f)
}

// tellMissing warns of bindings that let objects pass because their parameters are not
// there, which they permit: here it may be that only nobody looked.
func (j *judging) tellMissing(rules []*rule) {
	for _, r := range rules {
		for _, b := range r.bindings {
			if n := j.missing[b]; n > 0 {
				j.found.List = append(j.found.List, policy.Finding{
					Policy: r.name, Rule: b.name, Subject: -1, Warn: true, File: b.file, Line: b.line("spec", "paramRef"),
					Message: fmt.Sprintf("%d objects pass without being judged: no parameter of kind %s was found for them beside the policy or in the delivery, and parameterNotFoundAction is Allow",
						n, r.spec.ParamKind.Kind),
				})
			}
		}
	}
}
