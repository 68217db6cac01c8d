package rego

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// program is what was compiled.
type program struct {
	units []*unit
	limit time.Duration
}

var _ policy.Program = (*program)(nil)

// run is one case before a program.
type run struct {
	program   *program
	c         *policy.Case
	inventory storage.Store
	// found has a place for each subject, so that no two goroutines share one.
	found []heard

	mu     sync.Mutex
	judged map[string]int
	stuck  *stuck // where it was, when it was stopped
	failed error
}

// heard is what the rules say of one subject.
type heard struct {
	findings []policy.Finding
	flaws    []policy.Flaw
}

// stuck is what was being evaluated.
type stuck struct {
	unit  *unit
	input *ast.Term
	of    *policy.Subject
}

// Judge implements policy.Program. It uses as many processors as there are; the result is
// the same with any number.
func (p *program) Judge(ctx context.Context, c *policy.Case) (policy.Findings, error) {
	r := &run{program: p, c: c, found: make([]heard, len(c.Subjects)), judged: map[string]int{}}
	var err error
	if r.inventory, err = p.inventory(c); err != nil {
		return policy.Findings{}, fault.From(err)
	}
	env, end := within(ctx, p.limit)
	r.all(env)
	reason := env.reason()
	end()
	switch {
	case r.failed != nil:
		return policy.Findings{}, fault.From(r.failed)
	case ctx.Err() != nil:
		return policy.Findings{}, fault.New(fault.Internal, "judging was cancelled").Because(ctx.Err())
	case r.stuck != nil:
		return policy.Findings{}, r.culprit(ctx, reason)
	}
	return r.findings(), nil
}

// within returns the environment of a case: it ends with ctx, after a time, and when
// memory runs short.
func within(ctx context.Context, limit time.Duration) (environment, func()) {
	ctx, give := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { give(errSlow) })
	cancel := topdown.NewCancel()
	stop := context.AfterFunc(ctx, cancel.Cancel)
	done := watchMemory(func() { give(errLarge) })
	return environment{ctx: ctx, cancel: cancel}, func() {
		timer.Stop()
		stop()
		done()
		give(nil)
	}
}

// reason is why the environment has ended; nil while it has not.
func (e *environment) reason() error { return context.Cause(e.ctx) }

var (
	errSlow  = errors.New("time")
	errLarge = errors.New("memory")
)

// all judges the subjects, several at once.
func (r *run) all(env environment) {
	env.inventory = r.inventory
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), max(1, len(r.c.Subjects))) {
		group.Go(func() {
			convert, judged := newConverter(), map[string]int{}
			delivery, err := deliveryTerm(convert, r.c.Delivery)
			for i := int(next.Add(1)) - 1; err == nil && i < len(r.c.Subjects); i = int(next.Add(1)) - 1 {
				in := &inputs{convert: convert, c: r.c, subject: &r.c.Subjects[i], delivery: delivery}
				err = r.subject(env, i, in, judged)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			for name, n := range judged {
				r.judged[name] += n
			}
			if err != nil && !errors.Is(err, errStopped) && r.failed == nil {
				r.failed = err
			}
		})
	}
	group.Wait()
}

// subject puts one subject before all units.
func (r *run) subject(env environment, i int, in *inputs, judged map[string]int) error {
	for _, u := range r.program.units {
		if u.template != "" {
			if err := r.constraints(env, i, in, u, judged); err != nil {
				return err
			}
			continue
		}
		input, err := in.of(u.shape)
		if err != nil {
			return err
		}
		for _, name := range u.policies() {
			judged[name]++
		}
		if err := r.ask(env, i, u, input, plain); err != nil {
			return err
		}
	}
	return nil
}

// policies are the packages of a unit.
func (u *unit) policies() []string {
	seen := map[string]bool{}
	var names []string
	for _, rule := range u.rules {
		if !seen[rule.policy] {
			seen[rule.policy] = true
			names = append(names, rule.policy)
		}
	}
	return names
}

// plain is the finding of a rule that is no constraint.
func plain(rule rule, f policy.Finding) policy.Finding {
	f.Policy, f.Rule, f.Warn = rule.policy, rule.name, rule.warn
	return f
}

// ask puts an input before a unit, and notes what it says; as completes a finding.
func (r *run) ask(env environment, i int, u *unit, input *ast.Term, as func(rule, policy.Finding) policy.Finding) error {
	s := &r.c.Subjects[i]
	said, err := u.ask(env, input)
	if errors.Is(err, errStopped) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.stuck == nil {
			r.stuck = &stuck{u, input, s}
		}
		return err
	}
	here := &r.found[i]
	for _, p := range said.problems {
		here.flaws = append(here.flaws, u.flaw(p, s))
	}
	excused := u.excused(said)
	for k, rule := range u.rules {
		if rule.exception || len(said.values[k]) == 0 {
			continue
		}
		list, err := rule.messages(said.values[k])
		if err != nil {
			here.flaws = append(here.flaws, u.flaw(problem{k, nil, err.Error()}, s))
			continue
		}
		if excused[rule.policy+"/"+bare(rule.name)] {
			continue
		}
		for _, m := range list {
			f := as(rule, policy.Finding{Subject: i, Message: m.text, Severity: m.severity, Reference: rule.reference, File: rule.file, Line: rule.line})
			if f.Severity == "" {
				f.Severity = rule.severity
			}
			here.findings = append(here.findings, f)
		}
	}
	return nil
}

// flaw tells of a rule that could not be evaluated on a subject.
func (u *unit) flaw(p problem, s *policy.Subject) policy.Flaw {
	f := policy.Flaw{Message: fmt.Sprintf("it cannot be evaluated on %s: %s", nameOf(s), p.text)}
	if p.rule >= 0 {
		rule := u.rules[p.rule]
		f.File, f.Line, f.Policy = rule.file, rule.line, rule.title()
	}
	if p.line != nil && p.line.File != "" && p.line.File != own {
		f.File, f.Line = p.line.File, p.line.Row
	}
	return f
}

// findings joins what was said of all subjects. What is said of a workload and again of
// its Pod counts once, and so does a rule that fails on many objects in the same way.
func (r *run) findings() policy.Findings {
	type same struct {
		maker int
		f     policy.Finding
	}
	out := policy.Findings{Judged: maps.Clone(r.judged)}
	seen := map[same]bool{}
	var flaws flawList
	for i, here := range r.found {
		maker := i
		if of := r.c.Subjects[i].Of; of != nil {
			maker = *of
		}
		for _, f := range here.findings {
			key := same{maker, policy.Finding{Policy: f.Policy, Rule: f.Rule, Message: f.Message, Warn: f.Warn}}
			if !seen[key] {
				seen[key] = true
				out.List = append(out.List, f)
			}
		}
		for _, f := range here.flaws {
			flaws.add(f)
		}
	}
	out.Flaws = flaws.list()
	return out
}

// flawList counts flaws at the same place: the first is told, and how many more.
type flawList struct {
	order []policy.Flaw
	more  map[[3]any]int
}

func (l *flawList) add(f policy.Flaw) {
	key := [3]any{f.File, f.Line, f.Policy}
	if l.more == nil {
		l.more = map[[3]any]int{}
	}
	if l.more[key]++; l.more[key] == 1 {
		l.order = append(l.order, f)
	}
}

func (l *flawList) list() []policy.Flaw {
	for i := range l.order {
		f := &l.order[i]
		if n := l.more[[3]any{f.File, f.Line, f.Policy}]; n > 1 {
			f.Message += fmt.Sprintf("; and %d more like this", n-1)
		}
	}
	return l.order
}
