package rego

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// TestBadInput: a policy that does harm ends as a verdict that fails, in a worker with its
// limits, and the next set is judged as if nothing had been.
func TestBadInput(t *testing.T) {
	const place, limit = "policy.rego:", "rule main/deny" // which limit it meets hangs on the machine
	tests := []struct{ reason, text, want, at string }{
		{"it does not compile", "package main\n\ndeny contains x if input.kind == \"Pod\"\n", "var x is unsafe", place + "3"},
		{"it is no Rego", "package main\n\ndeny contains if {\n", "it is not Rego", place},
		{"it recurses without end", "package main\n\nf(x) := f(x + 1)\n\ndeny contains \"x\" if f(1) == 2\n", "recursive", place + "3"},
		{"it reads the network", "package main\n\ndeny contains \"x\" if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"}).status_code == 200\n", "http.send is not allowed", place + "3"},
		{"a schema from the network", "package main\n\ndeny contains \"x\" if not json.match_schema(input, {\"$ref\": \"http://127.0.0.1:1/s.json\"})[0]\n", "cannot be evaluated", place + "3"},
		{"it matches nothing", "package main\n\nallow if input.kind == \"Pod\"\n", "no rule that is asked", place + "1"},
		{"it loops", "package main\n\ndeny contains \"x\" if {\n\tn := numbers.range(1, 3000)\n\tn[a] + n[b] + n[c] == 0\n}\n", limit, place + "3"},
		{"a list that is too long", "package main\n\nok := 1\n\ndeny contains \"x\" if count(numbers.range(1, 1000000000)) == 7\n", limit, place + "5"},
		{"a set that is too large", "package main\n\ndeny contains \"x\" if count({[a, b] | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000)}) == 7\n", limit, place + "3"},
		{"a text that doubles", "package main\n\ndeny contains count(s) if {\n\ta := concat(\"\", [\"x\" | some _ in numbers.range(1, 1000)])\n\tb := replace(a, \"x\", a)\n\ts := replace(b, \"x\", b)\n}\n", limit, place + "3"}, // one step ends the worker
		{"a text that is huge at once", "package main\n\ndeny contains count(s) if {\n\ta := concat(\"\", [\"x\" | some _ in numbers.range(1, 40000)])\n\ts := replace(a, \"x\", a)\n}\n", limit, place + "3"},                     // one step ends the worker
		{"messages without end", "package main\n\ndeny contains sprintf(\"%d\", [n]) if some n in numbers.range(1, 100000000)\n", limit, place + "3"},
	}
	if os.Getenv("HOLDFAST_LONG") == "" {
		tests = tests[:8-raceFactor/6] // the race detector takes the memory that is measured
	}
	pool := worker.NewPool(worker.Options{Size: 1, Deadline: 20 * time.Second, MemoryLimit: memoryFactor * 160 << 20})
	defer pool.Close()
	j := judge.New(hurry{pool}, nil, "")
	c := newCase(t, readObjects(t, []byte("{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {containers: [{name: web, image: web}]}}\n")), nil)
	verdict := func(text string) policy.Verdict {
		set := policy.Set{Name: "set", Documents: []policy.Document{{File: "policy.rego", Content: []byte(text)}}}
		decisions, err := j.Judge(t.Context(), []policy.Set{set}, c, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		return decisions[0].Verdicts[0]
	}
	for _, tt := range tests {
		start := time.Now()
		v := verdict(tt.text)
		t.Logf("%s: %s after %s", tt.reason, v.Message, time.Since(start).Round(time.Millisecond))
		if v.Outcome != policy.Fail || v.Rule != "policies/set" || !strings.Contains(v.Message, tt.want) || !strings.Contains(v.Message, tt.at) {
			t.Errorf("%s: %+v", tt.reason, v)
		}
		if v := verdict("package main\n\ndeny contains \"fine\" if input.kind == \"Pod\"\n"); v.Message != "fine" {
			t.Fatalf("after %s: %+v", tt.reason, v)
		}
	}
}

// TestBlame: where one step takes all memory at once, the worker ends and cannot tell which;
// the rule is found among others, and so is a template's.
func TestBlame(t *testing.T) {
	n := 5000 + 600*(memoryFactor-1) // so long, squared, is the text that is written twenty times over
	step := fmt.Sprintf(`a := concat("", ["x" | numbers.range(1, %d)[_]]); b := replace(a, "x", a); count(sprintf("%s", [%sb])) == 7`,
		n, strings.Repeat("%s", 20), strings.Repeat("b, ", 19))
	documents := []policy.Document{
		{File: "lib.rego", Content: []byte("package lib.a\n\nheavy if {\n\t" + step + "\n}\n")},
		{File: "fine.rego", Content: []byte("package fine\n\ndeny contains \"fine\" if input.kind == \"Pod\"\n")},
		{File: "bad.rego", Content: []byte("package bad\n\nimport data.lib.a\n\ndeny contains \"x\" if input.kind == \"Job\"\n\ndeny contains \"x\" if a.heavy\n")},
		{File: "last.rego", Content: []byte("package last\n\nwarn contains \"last\" if input.kind == \"Pod\"\n")},
	}
	templates := manyTemplates(3)
	templates[1].Content = []byte(strings.ReplaceAll(string(templates[1].Content), "msg := ", step+"; msg := "))
	templates[1].Content = []byte(strings.ReplaceAll(string(templates[1].Content), "bad1/", "web"))
	tests := []struct {
		reason    string
		documents []policy.Document
		want      string
	}{
		{"a rule whose helper stands elsewhere", documents, "bad.rego:7: rule bad/deny: judging"},
		{"a template", templates, "t1.yaml:11: rule Rule1/violation: judging"},
	}
	pool := worker.NewPool(worker.Options{Size: 1, Deadline: 60 * time.Second, MemoryLimit: memoryFactor * 160 << 20})
	defer pool.Close()
	c := newCase(t, readObjects(t, []byte("{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {containers: [{name: web, image: web}]}}\n")), nil)
	for _, tt := range tests {
		set := policy.Set{Name: "set", Documents: tt.documents}
		decisions, err := judge.New(pool, nil, "").Judge(t.Context(), []policy.Set{set}, c, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if v := decisions[0].Verdicts[0]; v.Outcome != policy.Fail || !strings.Contains(v.Message, tt.want) || !strings.Contains(v.Message, "memory") {
			t.Errorf("%s: %+v", tt.reason, v)
		}
	}
}

// TestCancelled: a case ends with its context.
func TestCancelled(t *testing.T) {
	documents := []policy.Document{{File: "p.rego", Content: []byte("package main\n\ndeny contains \"x\" if {\n\tn := numbers.range(1, 3000)\n\tn[a] + n[b] + n[c] == 0\n}\n")}}
	program, _, flaws, err := Engine{Limit: 100 * time.Millisecond}.Compile(t.Context(), documents)
	if err != nil || len(flaws) > 0 {
		t.Fatal(flaws, err)
	}
	c := newCase(t, readObjects(t, []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: b}}\n")), nil)
	if _, err := program.Judge(t.Context(), c); err == nil || !strings.Contains(err.Error(), "p.rego:3: rule main/deny takes too long on ConfigMap/b/a") {
		t.Errorf("a rule without end: %v", err)
	}
}
