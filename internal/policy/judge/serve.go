package judge

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"runtime/debug"

	kjson "sigs.k8s.io/json"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/worker"
)

const (
	// kept is how many compiled sets a worker remembers.
	kept = 16
	// gcPercent is how much garbage judging may make between two runs of the collector,
	// as far as the limit of memory permits: most of what policies allocate is garbage at
	// once. Workers that are idle collect more often. A program that chose at least
	// enough keeps its choice.
	gcPercent, enough = 200, 100
)

// divisible is a program whose rules can be asked some at a time.
type divisible interface {
	policy.Program
	// Rules tells policy, file and line of each.
	Rules() []policy.Flaw
	// Only returns a program that asks those from a place in Rules to before another.
	Only(from, to int) policy.Program
}

// collectLess has the collector run less often, until the function that it returns is called.
func collectLess() func() {
	before := debug.SetGCPercent(gcPercent)
	if before >= enough || before < 0 {
		debug.SetGCPercent(before)
	}
	return func() { debug.SetGCPercent(before) }
}

// Bench is the worker's side: engines, and what they compiled.
type Bench struct {
	engines []policy.Engine
	// builtin compiles what is switched on by name; nil: nothing is known.
	builtin func([]policy.Builtin) (policy.Program, []policy.Flaw)
	// kyverno tells documents that are Kyverno's; nil: nobody asks.
	kyverno func(policy.Document) bool

	made  map[[sha256.Size]byte]*compiled
	order [][sha256.Size]byte
}

type compiled struct {
	programs []policy.Program
	claimed  []bool
	kyverno  []bool
	flaws    []policy.Flaw
}

// NewBench returns what judges in a worker.
func NewBench(engines []policy.Engine, builtin func([]policy.Builtin) (policy.Program, []policy.Flaw), kyverno func(policy.Document) bool) *Bench {
	return &Bench{engines: engines, builtin: builtin, kyverno: kyverno, made: map[[sha256.Size]byte]*compiled{}}
}

// Handler is the handler of jobs of [Kind]. A worker has one job at a time.
func (b *Bench) Handler(payload []byte, _ worker.Files) ([]byte, error) {
	var t task
	if err := json.Unmarshal(payload, &t); err != nil {
		return nil, fault.New(fault.Internal, "the task cannot be read: %s", err)
	}
	defer collectLess()()
	ctx := context.Background() // the pool ends a worker that takes too long
	set, err := b.compile(ctx, t)
	if err != nil {
		return nil, err
	}
	var c policy.Case
	if err := kjson.UnmarshalCaseSensitivePreserveInts(t.Case, &c); err != nil {
		return nil, fault.New(fault.Internal, "the case cannot be read: %s", err)
	}
	a := answer{Claimed: set.claimed, Kyverno: set.kyverno, Flaws: set.flaws}
	programs := set.programs
	if t.Part != nil {
		programs, a.Rules = narrow(programs, *t.Part)
	}
	for _, p := range programs {
		found, err := p.Judge(ctx, &c)
		if err != nil {
			return nil, err
		}
		a.merge(answer{Findings: found})
	}
	return json.Marshal(a)
}

// narrow returns programs that ask a part of the rules, and what all rules are.
func narrow(programs []policy.Program, of part) ([]policy.Program, []policy.Flaw) {
	var some []policy.Program
	var rules []policy.Flaw
	for _, p := range programs {
		d, ok := p.(divisible)
		if !ok {
			continue
		}
		own := d.Rules()
		from, to := max(of.From-len(rules), 0), min(of.To-len(rules), len(own))
		if from < to {
			some = append(some, d.Only(from, to))
		}
		rules = append(rules, own...)
	}
	return some, rules
}

// compile returns the programs of a set, made before if it is one that was seen.
func (b *Bench) compile(ctx context.Context, t task) (*compiled, error) {
	key, err := json.Marshal(task{Documents: t.Documents, Builtins: t.Builtins})
	if err != nil {
		return nil, fault.From(err)
	}
	digest := sha256.Sum256(key)
	if set, ok := b.made[digest]; ok {
		return set, nil
	}
	set := &compiled{claimed: make([]bool, len(t.Documents)), kyverno: make([]bool, len(t.Documents))}
	for _, e := range b.engines {
		program, claimed, flaws, err := e.Compile(ctx, t.Documents)
		if err != nil {
			return nil, err
		}
		for i := range claimed {
			set.claimed[i] = set.claimed[i] || claimed[i]
		}
		set.flaws = append(set.flaws, flaws...)
		if program != nil {
			set.programs = append(set.programs, program)
		}
	}
	if b.builtin != nil && len(t.Builtins) > 0 {
		program, flaws := b.builtin(t.Builtins)
		set.flaws = append(set.flaws, flaws...)
		if program != nil {
			set.programs = append(set.programs, program)
		}
	}
	for i, d := range t.Documents {
		set.kyverno[i] = b.kyverno != nil && b.kyverno(d)
	}
	if len(b.order) == kept {
		delete(b.made, b.order[0])
		b.order = b.order[1:]
	}
	b.made[digest], b.order = set, append(b.order, digest)
	return set, nil
}
