// Package rego judges by policies that are written in Rego, through OPA's own compiler and
// evaluator: rules on admission requests, rules on objects in the manner of conftest, and
// Gatekeeper's ConstraintTemplates with their constraints.
//
// Which rules are asked, and what they are given as input, is told in docs/design/rego.md.
// The languages and formats are those of OPA (https://www.openpolicyagent.org/docs),
// conftest (https://www.conftest.dev) and Gatekeeper
// (https://open-policy-agent.github.io/gatekeeper/website/docs).
package rego

import (
	"context"
	"time"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// timeLimit is how long a case may take, all rules together: less than a worker lives
// without an answer, so that the message can name the rule.
const timeLimit = 20 * time.Second

// Engine judges by policies in Rego. The zero value is ready.
type Engine struct {
	// Limit is how long a case may take; 0: 20 s.
	Limit time.Duration
}

var _ policy.Engine = Engine{}

// Name implements policy.Engine.
func (Engine) Name() string { return "Rego" }

// Compile implements policy.Engine. It claims files that end in .rego, data.json, data.yaml
// and .manifest beside them, and files in YAML or JSON with an object of Gatekeeper's. Its
// program is nil where there is no rule to ask.
func (e Engine) Compile(ctx context.Context, all []policy.Document) (policy.Program, []bool, []policy.Flaw, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, nil, err
	}
	s := sort(all)
	units, flaws := s.plain()
	gate, found := s.gatekeeper(all)
	flaws = append(flaws, found...)
	if len(units)+len(gate.constraints) == 0 {
		return nil, s.claimed, flaws, nil
	}
	limit := e.Limit
	if limit <= 0 {
		limit = timeLimit
	}
	return &program{units: units, gate: gate, limit: limit}, s.claimed, flaws, nil
}
