// Package judge has policies judge what deliveries bring, in workers: what they read was
// written by tenants, and so were the policies perhaps. The same function answers in CI
// and in the cluster.
package judge

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// Kind is the kind of the job, as messages call it.
const Kind = "judging by policies"

// Pool runs jobs in workers; *worker.Pool is one.
type Pool interface {
	Do(ctx context.Context, kind string, payload []byte, files worker.Files) ([]byte, error)
}

// Judge judges cases by sets of policies.
type Judge struct {
	pool Pool
	// kyverno runs Kyverno's engine, which is a program of its own; nil: it is missing.
	kyverno Pool
	missing string
}

// New returns a Judge. kyverno is nil where Kyverno's engine is not installed; missing then
// says what to do, to those who have such policies.
func New(pool, kyverno Pool, missing string) *Judge { return &Judge{pool, kyverno, missing} }

// task is what a worker is asked.
type task struct {
	Documents []policy.Document `json:"documents"`
	Builtins  []policy.Builtin  `json:"builtins,omitempty"`
	Case      json.RawMessage   `json:"case,omitempty"` // a policy.Case, written once for all sets
	// Part asks only a part of the rules, where they can be divided. nil: all.
	Part *part `json:"part,omitempty"`
}

// part is the rules from one to before another.
type part struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// answer is what it says.
type answer struct {
	// Claimed and Kyverno have an entry for each document: whether an engine judges by
	// it, and whether Kyverno's would.
	Claimed  []bool          `json:"claimed"`
	Kyverno  []bool          `json:"kyverno,omitempty"`
	Flaws    []policy.Flaw   `json:"flaws,omitempty"`
	Findings policy.Findings `json:"findings"`
	// Rules are all rules that can be asked by themselves, where a part was asked.
	Rules []policy.Flaw `json:"rules,omitempty"`
}

// Judge returns what the sets come to for a case at a moment, a decision for each, in
// their order. What cannot be told is a verdict that fails; errors are those of ctx, and
// of workers that cannot be had.
func (j *Judge) Judge(ctx context.Context, sets []policy.Set, c *policy.Case, now time.Time) ([]policy.Decision, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fault.New(fault.Internal, "a case cannot be written as JSON: %s", err)
	}
	all := make([]policy.Decision, len(sets))
	g, ctx := errgroup.WithContext(ctx) // the pools have so many at work as they have workers
	for i, s := range sets {
		g.Go(func() error {
			found, flaws, err := j.set(ctx, s, text)
			if err == nil {
				all[i] = s.Decide(c, found, flaws, now)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

// set asks the engines about one set.
func (j *Judge) set(ctx context.Context, s policy.Set, c json.RawMessage) (policy.Findings, []policy.Flaw, error) {
	if s.Broken != "" {
		return policy.Findings{}, nil, nil
	}
	t := task{Documents: s.Documents, Builtins: s.Builtins, Case: c}
	got, err := ask(ctx, j.pool, t)
	if err != nil {
		return tell(ctx, j.blame(ctx, t, err))
	}
	// All files, and not only its own: a policy may read a ConfigMap that stands beside it.
	theirs := slices.Index(got.Kyverno, true)
	if theirs >= 0 && theirs < len(s.Documents) {
		more, err := j.byKyverno(ctx, s.Documents, theirs, c)
		if err != nil {
			return tell(ctx, err)
		}
		got.merge(more)
	}
	if theirs < 0 && len(s.Builtins) == 0 && !slices.Contains(got.Claimed, true) && len(got.Flaws) == 0 {
		got.Flaws = append(got.Flaws, policy.Flaw{Message: "it holds no policy that is known here", Hint: "see to its path"})
	}
	return got.Findings, got.Flaws, nil
}

// tell turns what a worker could not do into a flaw; but not the end of ctx, and not what
// passes by itself.
func tell(ctx context.Context, err error) (policy.Findings, []policy.Flaw, error) {
	f := fault.From(err)
	if ctx.Err() != nil || f.Kind == fault.Internal || f.Kind == fault.Unreachable {
		return policy.Findings{}, nil, err
	}
	return policy.Findings{}, []policy.Flaw{{File: f.File, Line: f.Line, Message: f.Msg, Hint: f.Hint}}, nil
}

// blaming is how long it is looked for the rule that ended a worker.
const blaming = 30 * time.Second

// blame finds the rule that ended a worker before it could tell which: one step that takes
// all memory at once. It asks again, half of the rules each time, in workers that may end
// in the same way. The error is the one given, with the place if it was found.
func (j *Judge) blame(ctx context.Context, t task, err error) error {
	f := fault.From(err)
	if f.Kind != fault.Limit || f.File != "" || errors.Is(err, worker.ErrDeadline) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, blaming)
	defer cancel()
	t.Part = &part{}
	all, failed := ask(ctx, j.pool, t)
	if failed != nil || len(all.Rules) == 0 {
		return err
	}
	ends := func(from, to int) bool {
		t.Part = &part{from, to}
		_, failed := ask(ctx, j.pool, t)
		return failed != nil && ctx.Err() == nil && fault.From(failed).Kind == fault.Limit
	}
	from, to := 0, len(all.Rules)
	for to-from > 1 {
		if middle := (from + to) / 2; ends(from, middle) {
			to = middle
		} else {
			from = middle
		}
	}
	if !ends(from, to) {
		return err // it takes several of them
	}
	rule := all.Rules[from]
	return fault.New(fault.Limit, "rule %s: %s", rule.Policy, f.Msg).At(rule.File, rule.Line).WithHint("%s", f.Hint)
}

func (j *Judge) byKyverno(ctx context.Context, documents []policy.Document, first int, c json.RawMessage) (answer, error) {
	if j.kyverno != nil {
		return ask(ctx, j.kyverno, task{Documents: documents, Case: c})
	}
	return answer{Flaws: []policy.Flaw{{
		File: documents[first].File, Message: "a policy of Kyverno's cannot be judged: its engine is not installed", Hint: j.missing,
	}}}, nil
}

func (a *answer) merge(b answer) {
	a.Flaws = append(a.Flaws, b.Flaws...)
	a.Findings.List = append(a.Findings.List, b.Findings.List...)
	a.Findings.Flaws = append(a.Findings.Flaws, b.Findings.Flaws...)
	for name, n := range b.Findings.Judged {
		if a.Findings.Judged == nil {
			a.Findings.Judged = map[string]int{}
		}
		a.Findings.Judged[name] += n
	}
}

func ask(ctx context.Context, pool Pool, t task) (answer, error) {
	payload, err := json.Marshal(t)
	if err != nil {
		return answer{}, fault.New(fault.Internal, "a task cannot be written as JSON: %s", err)
	}
	reply, err := pool.Do(ctx, Kind, payload, worker.NoFiles{})
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(reply, &a); err != nil {
		return a, fault.New(fault.Internal, "what a worker says of policies cannot be read: %s", err)
	}
	return a, nil
}
