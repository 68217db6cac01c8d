package judge

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// here runs jobs in this process; the way through a real worker is the engines' tests'.
type here struct {
	handle worker.Handler
	jobs   int
	err    error
}

func (h *here) Do(_ context.Context, kind string, payload []byte, files worker.Files) ([]byte, error) {
	h.jobs++
	if h.err != nil {
		return nil, h.err
	}
	return h.handle(payload, files)
}

// words is an engine whose language is one word: it finds fault with all objects of
// that kind.
type words struct{ compiled int }

func (*words) Name() string { return "words" }

func (w *words) Compile(_ context.Context, all []policy.Document) (policy.Program, []bool, []policy.Flaw, error) {
	w.compiled++
	var kinds program
	var flaws []policy.Flaw
	claimed := make([]bool, len(all))
	for i, d := range all {
		if word, ok := strings.CutSuffix(d.File, ".word"); ok {
			claimed[i] = true
			if word == "broken" {
				flaws = append(flaws, policy.Flaw{File: d.File, Message: "it is broken"})
			} else {
				kinds = append(kinds, string(d.Content))
			}
		}
	}
	return kinds, claimed, flaws, nil
}

type program []string

func (p program) Judge(_ context.Context, c *policy.Case) (policy.Findings, error) {
	found := policy.Findings{Judged: map[string]int{}}
	for _, kind := range p {
		for i, s := range c.Subjects {
			found.Judged[kind]++
			if s.Object["kind"] == kind {
				found.List = append(found.List, policy.Finding{Policy: kind, Subject: i, Message: "no " + kind})
			}
		}
	}
	return found, nil
}

func TestJudge(t *testing.T) {
	engine := &words{}
	isKyverno := func(d policy.Document) bool { return d.File == "kyverno.yaml" }
	bench := NewBench([]policy.Engine{engine}, func(all []policy.Builtin) (policy.Program, []policy.Flaw) {
		return program{all[0].Name}, nil
	}, isKyverno)
	ours := &here{handle: bench.Handler}
	theirs := &here{handle: func([]byte, worker.Files) ([]byte, error) {
		return json.Marshal(answer{Findings: policy.Findings{List: []policy.Finding{{Policy: "kyverno", Message: "no"}}}})
	}}
	c := &policy.Case{Subjects: []policy.Subject{{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "a"}}}}}
	doc := func(file, content string) policy.Document {
		return policy.Document{File: file, Content: []byte(content)}
	}
	tests := []struct {
		reason  string
		set     policy.Set
		kyverno Pool
		want    string
	}{
		{"what fails", policy.Set{Documents: []policy.Document{doc("a.word", "Pod")}}, nil, "fail no Pod"},
		{"what holds", policy.Set{Documents: []policy.Document{doc("a.word", "Job")}}, nil, "pass "},
		{"a policy with a flaw", policy.Set{Documents: []policy.Document{doc("broken.word", "x"), doc("a.word", "Job")}}, nil, "fail broken.word: it is broken"},
		{"built in", policy.Set{Builtins: []policy.Builtin{{Name: "Pod"}}}, nil, "fail no Pod"},
		{"a set without a policy", policy.Set{Documents: []policy.Document{doc("README.yaml", "x")}}, nil, "fail it holds no policy that is known here (see to its path)"},
		{"a set without anything", policy.Set{}, nil, "fail it holds no policy that is known here (see to its path)"},
		{"Kyverno's, without its engine", policy.Set{Documents: []policy.Document{doc("kyverno.yaml", "x")}}, nil, "fail kyverno.yaml: a policy of Kyverno's cannot be judged: its engine is not installed (install it)"},
		{"Kyverno's, with it", policy.Set{Documents: []policy.Document{doc("kyverno.yaml", "x")}}, theirs, "fail no"},
		{"broken before it comes here", policy.Set{Broken: "no source"}, nil, "fail it cannot be judged: no source"},
	}
	for _, tt := range tests {
		got, err := New(ours, tt.kyverno, "install it").Judge(t.Context(), []policy.Set{tt.set}, c, time.Now())
		if err != nil || len(got) != 1 || len(got[0].Verdicts) != 1 {
			t.Errorf("%s: %+v %v", tt.reason, got, err)
			continue
		}
		if v := got[0].Verdicts[0]; v.Outcome+" "+v.Message != tt.want {
			t.Errorf("%s: %q, want %q", tt.reason, v.Outcome+" "+v.Message, tt.want)
		}
	}
}

// What a worker cannot do refuses; what is nobody's fault is tried again.
func TestWorkersThatFail(t *testing.T) {
	tests := []struct {
		reason string
		err    error
		passes bool // an error of Judge's, that is
	}{
		{"a policy that takes too long", fault.New(fault.Limit, "judging took longer than 30s"), false},
		{"a policy that cannot be evaluated", fault.New(fault.Invalid, "x"), false},
		{"a worker that is broken", fault.New(fault.Internal, "x"), true},
	}
	for _, tt := range tests {
		got, err := New(&here{err: tt.err}, nil, "").Judge(t.Context(), []policy.Set{{Name: "s"}}, &policy.Case{}, time.Now())
		if tt.passes != (err != nil) {
			t.Errorf("%s: %+v %v", tt.reason, got, err)
		}
		if !tt.passes && got[0].Verdicts[0].Outcome != policy.Fail {
			t.Errorf("%s: %+v", tt.reason, got)
		}
	}
}

// A set is compiled once for as long as it is remembered.
func TestBenchRemembers(t *testing.T) {
	engine := &words{}
	j := New(&here{handle: NewBench([]policy.Engine{engine}, nil, nil).Handler}, nil, "")
	ask := func(word string) {
		t.Helper()
		set := policy.Set{Documents: []policy.Document{{File: "a.word", Content: []byte(word)}}}
		if _, err := j.Judge(t.Context(), []policy.Set{set}, &policy.Case{}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		ask("Pod")
	}
	if engine.compiled != 1 {
		t.Errorf("compiled %d times", engine.compiled)
	}
	for i := range kept {
		ask(strings.Repeat("x", i+1))
	}
	ask("Pod")
	if want := 1 + kept + 1; engine.compiled != want {
		t.Errorf("compiled %d times, want %d: the oldest is forgotten", engine.compiled, want)
	}
}

// typed tells whether a whole number came to it as one.
type typed struct{}

func (typed) Name() string { return "typed" }

func (typed) Compile(_ context.Context, all []policy.Document) (policy.Program, []bool, []policy.Flaw, error) {
	return typed{}, make([]bool, len(all)), nil, nil
}

func (typed) Judge(_ context.Context, c *policy.Case) (policy.Findings, error) {
	if _, ok := c.Subjects[0].Object["n"].(int64); ok {
		return policy.Findings{}, nil
	}
	return policy.Findings{List: []policy.Finding{{Message: "n is no whole number any more"}}}, nil
}

// Whole numbers stay what they are on their way to a worker: policies tell 1 from 1.0.
func TestNumbers(t *testing.T) {
	bench := NewBench([]policy.Engine{typed{}}, nil, nil)
	c := &policy.Case{Subjects: []policy.Subject{{Object: map[string]any{"n": int64(3)}}}}
	found, _, err := New(&here{handle: bench.Handler}, nil, "").set(t.Context(), policy.Set{}, mustJSON(t, c))
	if err != nil || len(found.List) != 0 {
		t.Errorf("%+v %v", found, err)
	}
}

func mustJSON(t *testing.T, v any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// many is a program of rules, some of which end the worker when they are asked.
type many struct {
	from, to int
	deadly   []int
}

func (many) Name() string { return "many" }

func (m many) Compile(_ context.Context, all []policy.Document) (policy.Program, []bool, []policy.Flaw, error) {
	return m, make([]bool, len(all)), nil, nil
}

func (m many) Rules() []policy.Flaw {
	var rules []policy.Flaw
	for i := range m.to {
		rules = append(rules, policy.Flaw{File: "p.rego", Line: i + 1, Policy: "p/deny"})
	}
	return rules
}

func (m many) Only(from, to int) policy.Program { return many{from, to, m.deadly} }

func (m many) Judge(context.Context, *policy.Case) (policy.Findings, error) {
	for _, i := range m.deadly {
		if i >= m.from && i < m.to {
			return policy.Findings{}, fault.New(fault.Limit, "judging needed more than 160 MiB of memory")
		}
	}
	return policy.Findings{}, nil
}

// A rule that ends workers is found in as many jobs as halving takes.
func TestBlame(t *testing.T) {
	const rules = 100
	tests := []struct {
		reason string
		deadly []int
		want   string
	}{
		{"the first", []int{0}, "p.rego:1: rule p/deny: judging needed more than 160 MiB of memory"},
		{"the last", []int{rules - 1}, "p.rego:100: rule p/deny: judging needed more than 160 MiB of memory"},
		{"the first of two", []int{40, 60}, "p.rego:41: rule p/deny: judging needed more than 160 MiB of memory"},
		{"none of those that can be asked by themselves", []int{-1}, "judging needed more than 160 MiB of memory"},
	}
	for _, tt := range tests {
		pool := &here{handle: NewBench([]policy.Engine{many{min(tt.deadly[0], 0), rules, tt.deadly}}, nil, nil).Handler}
		got, err := New(pool, nil, "").Judge(t.Context(), []policy.Set{{Name: "s"}}, &policy.Case{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if v := got[0].Verdicts[0]; v.Outcome != policy.Fail || !strings.HasSuffix(v.Message, tt.want) || strings.Contains(v.Message, ".rego") != strings.Contains(tt.want, ".rego") {
			t.Errorf("%s: %+v", tt.reason, v)
		}
		if most := 10; pool.jobs > most {
			t.Errorf("%s: it took %d jobs", tt.reason, pool.jobs)
		}
	}
}
