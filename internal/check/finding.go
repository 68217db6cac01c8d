package check

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/secret/leak"
)

// The kinds of rules.
const (
	KindSecret  = "secret"  // a secret in plaintext
	KindRender  = "render"  // a delivery cannot be rendered, or would be refused before it is
	KindSchema  = "schema"  // the API server would not take an object
	KindPolicy  = "policy"  // a policy fails
	KindProject = "project" // an AppProject does not permit an object
	KindTrust   = "trust"   // a TrustPolicy fails
)

// The severities.
const (
	Error   = "error"   // it would be refused
	Warning = "warning" // it would be told, and delivered; or it could not be judged
)

// Finding is what is wrong in one place, whatever kind of rule says so.
type Finding struct { //nolint:recvcheck // a value, but for those who make one
	Kind     string `json:"kind"`     // one of the kinds above
	Severity string `json:"severity"` // error or warning
	Rule     string `json:"rule"`
	Message  string `json:"message"`
	// File, Line and Column are where to change something; Line is 0 where only the file
	// is known, Column where it says nothing.
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	// Object is what it is about, and Path the field.
	Object string `json:"object,omitempty"`
	Path   string `json:"path,omitempty"`
	// Deliveries are those that it was found in.
	Deliveries []string `json:"deliveries,omitempty"`
	// Policy is the set or policy that says so, and Source and SourceLine where that is
	// written. Level is how bad the policy says it is, and Reference explains the rule.
	Policy     string `json:"policy,omitempty"`
	Source     string `json:"source,omitempty"`
	SourceLine int    `json:"sourceLine,omitempty"`
	Level      string `json:"level,omitempty"`
	Reference  string `json:"reference,omitempty"`
	// Fingerprint is the same in every commit, wherever the lines go.
	Fingerprint string `json:"fingerprint"`
	// Commit is the first one that holds it, in a search of the history.
	Commit string `json:"commit,omitempty"`
	// Inline: its line says "gitleaks:allow".
	Inline bool `json:"inline,omitempty"`

	subject string // the object without its namespace: for the fingerprint
}

// Judged is a delivery that was looked at.
type Judged struct {
	Name    string `json:"name"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Path    string `json:"path"`
	Objects int    `json:"objects"`
}

// Report is what came of a check.
type Report struct { //nolint:recvcheck // a value, but for those who make one
	Findings []Finding `json:"findings"`
	// Allowed counts what a list excuses, or with [Options.HonorInline] a line itself;
	// Excused what exceptions of policy sets do.
	Allowed int `json:"allowed"`
	Excused int `json:"excused,omitempty"`
	// Notices are for people: entries of a list that end, and what was not looked at.
	Notices []string `json:"notices,omitempty"`
	// Files that were searched; in a history each content of one.
	Files int `json:"files"`
	// Commits that were searched.
	Commits int `json:"commits,omitempty"`
	// Deliveries that were rendered and judged, and how many objects they have.
	Deliveries []Judged `json:"deliveries,omitempty"`
	Objects    int      `json:"objects,omitempty"`
	// Base is the commit that the changes are told from, and Changes what would be
	// delivered otherwise than there; see [Options.Base].
	Base    string   `json:"base,omitempty"`
	Changes []Change `json:"changes,omitempty"`
	// Undecided says what could not be told, for no fault of the repository.
	Undecided []string `json:"undecided,omitempty"`

	// kept is false if something was read that does not stand in the key of a cache.
	uncachable bool
}

// Failed reports whether something is wrong that would be refused.
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Error })
}

// Count returns how many findings have a severity.
func (r Report) Count(severity string) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == severity {
			n++
		}
	}
	return n
}

// noticef tells people something, once.
func (r *Report) noticef(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.Notices, text) {
		r.Notices = append(r.Notices, text)
	}
}

// ofSecret is a finding of the search for secrets.
func ofSecret(f leak.Finding, commit string) Finding {
	return Finding{
		Kind: KindSecret, Severity: Error, Rule: f.Rule, Message: f.Description, File: f.File, Line: f.Line, Column: f.Column,
		Fingerprint: f.Fingerprint, Inline: f.Inline, Commit: commit,
	}
}

// sign gives a finding its fingerprint: of what it is about, and not of lines and
// namespaces.
func (f *Finding) sign() {
	if f.Fingerprint != "" {
		return
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{f.Kind, f.Policy, f.Rule, f.File, f.subject, f.Path, f.Message}, "\x00")))
	f.Fingerprint = hex.EncodeToString(sum[:16])
}

// settle signs and sorts findings, and joins those that are one: a base that several
// deliveries build on is wrong once.
func settle(all []Finding) []Finding {
	for i := range all {
		all[i].sign()
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Object, b.Object),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message), slices.Compare(a.Deliveries, b.Deliveries))
	})
	known := map[string]int{}
	out := make([]Finding, 0, len(all))
	for _, f := range all {
		key := fmt.Sprintf("%s %s:%d:%d %s", f.Fingerprint, f.File, f.Line, f.Column, f.Commit)
		i, ok := known[key]
		if !ok || f.Kind == KindSecret {
			known[key] = len(out)
			out = append(out, f)
			continue
		}
		for _, name := range f.Deliveries {
			if !slices.Contains(out[i].Deliveries, name) {
				out[i].Deliveries = append(out[i].Deliveries, name)
			}
		}
		if f.Severity == Error {
			out[i].Severity = Error
		}
	}
	return out
}
