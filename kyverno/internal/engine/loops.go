package engine

import (
	"slices"
	"strings"

	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	engineapi "github.com/kyverno/kyverno/pkg/engine/api"
)

// loops are the foreach of a policy. Kyverno skips an element whose preconditions cannot be
// evaluated, and a list that cannot be, as long as another was gone through: both in
// silence. Here that is told.
type loops struct {
	rule     string   // the first that has one; "" for none
	lists    []string // may name a field that is not there
	defaults []string // may fail in any way
}

// add takes in the loops of a rule.
func (l *loops) add(r *kyvernov1.Rule) {
	if len(r.Validation.ForEachValidation) == 0 {
		return
	}
	if l.rule == "" {
		l.rule = r.Name
	}
	l.context(r.Context)
	l.nested(r.Validation.ForEachValidation)
}

func (l *loops) nested(all []kyvernov1.ForEachValidation) {
	for i := range all {
		l.lists = append(l.lists, strings.TrimSpace(all[i].List))
		l.context(all[i].Context)
		l.nested(all[i].GetForEachValidation())
	}
}

func (l *loops) context(entries []kyvernov1.ContextEntry) {
	for _, e := range entries {
		if e.Variable != nil && e.Variable.Default != nil {
			l.defaults = append(l.defaults, strings.TrimSpace(e.Variable.JMESPath))
		}
	}
}

// expected says whether a question may fail without a word. For target, which only rules
// have that change something, Kyverno looks wherever it finds @.
func (l *loops) expected(query string, err error) bool {
	query = strings.TrimSpace(query)
	return query == "target" || slices.Contains(l.defaults, query) ||
		slices.Contains(l.lists, query) && strings.Contains(err.Error(), "Unknown key") // as Kyverno looks for it
}

// skipped is what a policy asked in vain, although no rule of it failed: why an element was
// skipped. "" for nothing.
func (a *asked) skipped(d *derived, rules []engineapi.RuleResponse) string {
	told := slices.ContainsFunc(rules, func(r engineapi.RuleResponse) bool {
		return r.Status() == engineapi.RuleStatusError || r.Status() == engineapi.RuleStatusFail
	})
	if d.loops.rule == "" || told || a.json.vain == nil {
		return ""
	}
	return "a part of foreach was skipped, as Kyverno does, because it could not be evaluated: " + a.json.vain.Error()
}
