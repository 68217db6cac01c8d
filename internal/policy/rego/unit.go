package rego

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// unit is rules that belong to the same modules and are given the same input.
type unit struct {
	modules []parsed
	data    map[string]any
	shape   shape
	rules   []rule
	// template and constraints are set for what Gatekeeper calls so.
	template    string
	constraints []constraint
	// inventory: the rules look at the other objects of the case.
	inventory bool

	store storage.Store
	whole query // asks all rules at once
	// each asks one rule; it is made when it is first needed.
	each func() ([]query, error)
}

// query is a question that was compiled.
type query struct {
	body     ast.Body
	compiler *ast.Compiler
	own      ast.QueryCompiler
}

// except adds the rules that excuse others of the unit's packages.
func (u *unit) except(rules []rule) {
	here := map[string]bool{}
	for _, r := range u.rules {
		here[r.policy] = true
	}
	for _, r := range rules {
		if r.exception && here[r.policy] {
			u.rules = append(u.rules, r)
		}
	}
}

// own is the package in which questions stand. No program can write its name.
const own = "holdfast@"

// prepare stores the data, and compiles the question that asks all rules: a set of pairs
// of a rule's index and what it gives. So OPA's index of rules finds those that could
// concern an object, among all of them, in one step.
func (u *unit) prepare() error {
	data, err := newConverter().object(u.data, 0)
	if err != nil {
		return err
	}
	u.store = inmem.NewFromASTObject(data.Value.(ast.Object)) //nolint:forcetypeassert // a map becomes an object
	all, err := u.questions(func(int) string { return "all" })
	if err != nil {
		return err
	}
	u.whole = all[0]
	u.each = sync.OnceValues(func() ([]query, error) {
		return u.questions(func(i int) string { return "one" + strconv.Itoa(i) })
	})
	return nil
}

// questions compiles the rules into sets of these names, and a query for each set.
func (u *unit) questions(name func(int) string) ([]query, error) {
	path := ast.Ref{ast.DefaultRootDocument, ast.StringTerm(own)}
	module := &ast.Module{Package: &ast.Package{Path: path, Location: ast.NewLocation(nil, own, 1, 1)}}
	module.SetRegoVersion(ast.RegoV0) // the mildest checks: each rule has passed those of its own file
	var names []string
	for i, r := range u.rules {
		set := name(i)
		if len(names) == 0 || names[len(names)-1] != set {
			names = append(names, set)
		}
		head := &ast.Head{
			Name: ast.Var(set), Reference: ast.Ref{ast.VarTerm(set)},
			Key: ast.ArrayTerm(ast.IntNumberTerm(i), r.key.Copy()), Location: r.from[0].Location,
		}
		module.Rules = append(module.Rules, &ast.Rule{Head: head, Body: r.body.Copy(), Location: r.from[0].Location, Module: module})
	}
	compiler, flaws := compile(append(slices.Clip(u.modules), parsed{own, module}))
	if len(flaws) > 0 {
		return nil, fault.New(fault.Invalid, "%s", flaws[0].Message)
	}
	queries := make([]query, len(names))
	for i, set := range names {
		q := query{compiler: compiler, own: compiler.QueryCompiler()}
		var err error
		if q.body, err = q.own.Compile(ast.NewBody(ast.Equality.Expr(ast.VarTerm(foundName), ast.NewTerm(path.Append(ast.StringTerm(set)))))); err != nil {
			return nil, err
		}
		queries[i] = q
	}
	return queries, nil
}

// foundName is bound to the set that is asked for.
const foundName = "found"

// reply is what the rules of a unit say to one input, by their index.
type reply struct {
	values   map[int][]ast.Value
	problems []problem
}

// problem is a rule that could not be evaluated.
type problem struct {
	rule int // -1 if it is not known
	line *ast.Location
	text string
}

// errStopped: the evaluation was ended from outside.
var errStopped = errors.New("stopped")

// ask puts an input before the rules. Where one of them fails as a whole, each is asked
// by itself, so that the others are heard. The error is errStopped or nil.
func (u *unit) ask(env environment, input *ast.Term) (reply, error) {
	var out reply
	problems, err := u.run(env, u.whole, input, &out)
	if err == nil || errors.Is(err, errStopped) {
		out.problems = problems
		return out, err
	}
	each, err := u.each()
	if err != nil {
		return reply{problems: []problem{problemOf(0, err)}}, nil
	}
	for i, q := range each {
		problems, err := u.run(env, q, input, &out)
		if errors.Is(err, errStopped) {
			return out, err
		}
		for _, p := range problems {
			p.rule = i
			out.problems = append(out.problems, p)
		}
		if err != nil {
			out.problems = append(out.problems, problemOf(i, err))
		}
	}
	return out, nil
}

// take notes what a question gave: pairs of a rule's index and a value.
func (r *reply) take(set ast.Set) {
	if set.Len() > 0 && r.values == nil {
		r.values = map[int][]ast.Value{}
	}
	set.Foreach(func(t *ast.Term) {
		pair, ok := t.Value.(*ast.Array)
		if !ok || pair.Len() != 2 {
			return
		}
		if n, ok := pair.Elem(0).Value.(ast.Number); ok {
			i, _ := n.Int()
			r.values[i] = append(r.values[i], pair.Elem(1).Value)
		}
	})
}

// environment is what a query needs besides its input.
type environment struct {
	ctx    context.Context
	cancel topdown.Cancel
	// inventory is data for the rules that look at other objects; nil if none does.
	inventory storage.Store
}

// run evaluates a question. Built-in functions that fail are problems; err is errStopped,
// or the error of OPA that ended it.
func (u *unit) run(env environment, q query, input *ast.Term, out *reply) ([]problem, error) {
	store := u.store
	if u.inventory {
		store = env.inventory
	}
	txn, err := store.NewTransaction(env.ctx)
	if err != nil {
		return nil, stopped(env, err)
	}
	defer store.Abort(env.ctx, txn)
	var failed []topdown.Error
	results, err := topdown.NewQuery(q.body).WithQueryCompiler(q.own).WithCompiler(q.compiler).
		WithStore(store).WithTransaction(txn).WithInput(input).WithCancel(env.cancel).
		WithBuiltinErrorList(&failed).WithMetrics(metrics.NoOp()).WithTime(time.Unix(0, 0)).Run(env.ctx)
	if err != nil || env.cancel.Cancelled() {
		return nil, stopped(env, err)
	}
	if len(results) != 1 {
		return nil, fault.New(fault.Internal, "the question has %d answers", len(results))
	}
	answer := results[0][ast.Var(foundName)]
	if answer == nil {
		return nil, fault.New(fault.Internal, "the question has no answer")
	}
	set, ok := answer.Value.(ast.Set)
	if !ok {
		return nil, fault.New(fault.Internal, "the answer is no set")
	}
	out.take(set)
	var problems []problem
	for i := range failed {
		problems = append(problems, problemOf(-1, &failed[i]))
	}
	return problems, nil
}

// stopped returns errStopped for an evaluation that was ended from outside.
func stopped(env environment, err error) error {
	if env.cancel.Cancelled() || env.ctx.Err() != nil || topdown.IsCancel(err) {
		return errStopped
	}
	return err
}

func problemOf(i int, err error) problem {
	if e, ok := errors.AsType[*topdown.Error](err); ok {
		return problem{i, e.Location, oneLine(e.Message)}
	}
	return problem{i, nil, oneLine(err.Error())}
}

// title is how messages call a rule.
func (r *rule) title() string { return fmt.Sprintf("%s/%s", r.policy, r.name) }
