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
	// inventory: the rules look at the other objects of the case.
	inventory bool

	store storage.Store
	names []string // of the packages, or templates
	// sets are rules that stand next to each other and are asked together.
	sets []span
	// all has a question for each set.
	all questions
	// each has one for each rule; it is made when it is first needed.
	each func() (questions, error)
}

// span is a range of a unit's rules: from the first to before the second.
type span struct{ from, to int }

// questions were compiled together; each binds a variable of its own to a set.
type questions struct {
	list     ast.Body
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

// crowd is how many rules are asked together at most. For each look into any index, OPA
// goes through as many places as the largest set that it has seen has rules.
const crowd = 8

// prepare stores the data, and compiles the questions that ask all rules: sets of pairs
// of a rule's index and what it gives. So OPA's index of rules finds those that could
// concern an object, and no two rules compute the same helper. group tells which rules
// may be asked together.
func (u *unit) prepare(group func(rule int) int) error {
	data, err := newConverter().object(u.data, 0)
	if err != nil {
		return err
	}
	u.store = inmem.NewFromASTObject(data.Value.(ast.Object)) //nolint:forcetypeassert // a map becomes an object
	for i := range u.rules {
		if name := u.rules[i].policy; !slices.Contains(u.names, name) {
			u.names = append(u.names, name)
		}
		last := len(u.sets) - 1
		if i == 0 || i-u.sets[last].from == crowd || group(i) != group(i-1) {
			u.sets = append(u.sets, span{i, i + 1})
			continue
		}
		u.sets[last].to++
	}
	if u.all, err = u.questions(u.sets); err != nil {
		return err
	}
	u.each = sync.OnceValues(func() (questions, error) {
		var alone []span
		for i := range u.rules {
			alone = append(alone, span{i, i + 1})
		}
		return u.questions(alone)
	})
	return nil
}

// together lets all rules be asked together.
func together(int) int { return 0 }

// questions compiles sets of rules, and a question for each.
func (u *unit) questions(sets []span) (questions, error) {
	path := ast.Ref{ast.DefaultRootDocument, ast.StringTerm(own)}
	module := &ast.Module{Package: &ast.Package{Path: path, Location: ast.NewLocation(nil, own, 1, 1)}}
	module.SetRegoVersion(ast.RegoV0) // the mildest checks: each rule has passed those of its own file
	var ask ast.Body
	for k, set := range sets {
		name := "found" + strconv.Itoa(k)
		for i := set.from; i < set.to; i++ {
			r := &u.rules[i]
			head := &ast.Head{
				Name: ast.Var(name), Reference: ast.Ref{ast.VarTerm(name)},
				Key: ast.ArrayTerm(ast.IntNumberTerm(i), r.key.Copy()), Location: r.from[0].Location,
			}
			module.Rules = append(module.Rules, &ast.Rule{Head: head, Body: r.body.Copy(), Location: r.from[0].Location, Module: module})
		}
		ask.Append(ast.Equality.Expr(ast.VarTerm(name), ast.NewTerm(path.Append(ast.StringTerm(name)))))
	}
	compiler, flaws := compile(append(slices.Clip(u.modules), parsed{own, module}))
	if len(flaws) > 0 {
		return questions{}, fault.New(fault.Invalid, "%s", flaws[0].Message)
	}
	q := questions{compiler: compiler, own: compiler.QueryCompiler()}
	var err error
	if q.list, err = q.own.Compile(ask); err == nil && len(q.list) != len(sets) {
		err = fault.New(fault.Internal, "%d questions were compiled to %d", len(sets), len(q.list))
	}
	return q, err
}

// only returns the questions at these places; nil: all.
func (q *questions) only(places []int) ast.Body {
	if places == nil {
		return q.list
	}
	some := make(ast.Body, len(places))
	for i, k := range places {
		some[i] = q.list[k]
	}
	return some
}

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

// ask puts an input before the rules of some sets (nil: of all). Where one of them fails
// as a whole, each is asked by itself, so that the others are heard. The error is
// errStopped or nil.
func (u *unit) ask(env environment, input *ast.Term, sets []int) (reply, error) {
	if env.only == nil {
		var out reply
		problems, err := u.run(env, &u.all, u.all.only(sets), input, &out)
		if err == nil || errors.Is(err, errStopped) {
			out.problems = problems
			return out, err
		}
	}
	return u.askEach(env, input, u.members(sets))
}

// askEach asks rules one by one.
func (u *unit) askEach(env environment, input *ast.Term, rules []int) (reply, error) {
	var out reply
	each, err := u.each()
	if err != nil {
		return reply{problems: []problem{problemOf(0, err)}}, nil
	}
	for _, i := range rules {
		if part := env.only[u]; env.only != nil && (i < part.from || i >= part.to) {
			continue
		}
		problems, err := u.run(env, &each, each.only([]int{i}), input, &out)
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

// members are the rules of some sets; of all for nil.
func (u *unit) members(sets []int) []int {
	var rules []int
	for k, set := range u.sets {
		for i := set.from; i < set.to && (sets == nil || slices.Contains(sets, k)); i++ {
			rules = append(rules, i)
		}
	}
	return rules
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
	// only are the rules to ask, of the units that have any; nil: all.
	only map[*unit]span
}

// run evaluates questions together. Built-in functions that fail are problems; err is
// errStopped, or the error of OPA that ended it.
func (u *unit) run(env environment, q *questions, body ast.Body, input *ast.Term, out *reply) ([]problem, error) {
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
	results, err := topdown.NewQuery(body).WithQueryCompiler(q.own).WithCompiler(q.compiler).
		WithStore(store).WithTransaction(txn).WithInput(input).WithCancel(env.cancel).
		WithBuiltinErrorList(&failed).WithMetrics(metrics.NoOp()).WithTime(time.Unix(0, 0)).Run(env.ctx)
	if err != nil || env.cancel.Cancelled() {
		return nil, stopped(env, err)
	}
	if len(results) != 1 || len(results[0]) != len(body) {
		return nil, fault.New(fault.Internal, "%d questions have %d answers", len(body), len(results))
	}
	for _, answer := range results[0] {
		set, ok := answer.Value.(ast.Set)
		if !ok {
			return nil, fault.New(fault.Internal, "an answer is no set")
		}
		out.take(set)
	}
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
