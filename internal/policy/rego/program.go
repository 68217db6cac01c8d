package rego

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
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
	gate  gate
	limit time.Duration
	only  map[*unit]span // the rules to ask; nil: all
}

var _ policy.Program = (*program)(nil)

// asks are the units that are asked.
func (p *program) asks() []*unit {
	all := slices.Clone(p.units)
	if p.gate.joint != nil {
		all = append(all, p.gate.joint)
	}
	for _, c := range p.gate.constraints {
		if !c.joined() && !slices.Contains(all, c.template.unit) {
			all = append(all, c.template.unit)
		}
	}
	return all
}

// Rules returns what is asked: the policy, and its place.
func (p *program) Rules() []policy.Flaw {
	var all []policy.Flaw
	for _, u := range p.asks() {
		for i := range u.rules {
			r := &u.rules[i]
			all = append(all, policy.Flaw{File: r.file, Line: r.line, Policy: r.title()})
		}
	}
	return all
}

// Only returns a program that asks some of the rules, by their place in what Rules
// returns, and each by itself.
func (p *program) Only(from, to int) policy.Program {
	narrow := *p
	narrow.only = map[*unit]span{}
	for _, u := range p.asks() {
		n := len(u.rules)
		if part := (span{max(from, 0), min(to, n)}); part.from < part.to {
			narrow.only[u] = part
		}
		from, to = from-n, to-n
	}
	return &narrow
}

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
	sets  []int
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
	env.inventory, env.only = r.inventory, r.program.only
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

// subject puts one subject before all units, and the constraints.
func (r *run) subject(env environment, i int, in *inputs, judged map[string]int) error {
	for _, u := range r.program.units {
		input, err := in.of(u.shape)
		if err != nil {
			return err
		}
		for _, name := range u.names {
			judged[name]++
		}
		said, err := r.ask(env, i, u, input, nil)
		if err != nil {
			return err
		}
		r.tell(i, u, said, span{0, len(u.rules)}, plain)
	}
	return r.constraints(env, i, in, judged)
}

// plain is the finding of a rule that is no constraint.
func plain(rule *rule, f policy.Finding) policy.Finding {
	f.Policy, f.Rule, f.Warn = rule.policy, rule.name, rule.warn
	return f
}

// ask puts an input before sets of a unit's rules, and notes what could not be evaluated.
func (r *run) ask(env environment, i int, u *unit, input *ast.Term, sets []int) (reply, error) {
	s := &r.c.Subjects[i]
	said, err := u.ask(env, input, sets)
	if errors.Is(err, errStopped) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.stuck == nil {
			r.stuck = &stuck{u, input, sets, s}
		}
		return said, err
	}
	for _, p := range said.problems {
		r.found[i].flaws = append(r.found[i].flaws, u.flaw(p, s))
	}
	return said, nil
}

// tell notes what some of a unit's rules said of a subject; as completes a finding.
func (r *run) tell(i int, u *unit, said reply, rules span, as func(*rule, policy.Finding) policy.Finding) {
	if len(said.values) == 0 {
		return
	}
	here := &r.found[i]
	excused := u.excused(said)
	for k := rules.from; k < rules.to; k++ {
		rule := &u.rules[k]
		if rule.exception || len(said.values[k]) == 0 {
			continue
		}
		list, err := rule.messages(said.values[k])
		if err != nil {
			here.flaws = append(here.flaws, u.flaw(problem{k, nil, err.Error()}, &r.c.Subjects[i]))
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
