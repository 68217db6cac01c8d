package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/object"
)

// Set is the policies that one PolicySet brings to a delivery.
type Set struct {
	Name string
	// Warn: what fails is told, and delivered.
	Warn bool
	// Revision is the commit or digest of what the policies were read from.
	Revision   string
	Documents  []Document
	Builtins   []Builtin
	Exceptions []Exception
	// Broken says why nobody can judge by it; "" if one can. A broken set that enforces
	// refuses what it selects.
	Broken string
}

// Exception excuses what would fail, until a day.
type Exception struct {
	// Policy, Rule, Kind, Namespace and Name are globs; "" for any.
	Policy, Rule, Kind, Namespace, Name string
	Owner, Reason                       string
	Expires                             time.Time
}

// Soon is how long before its end an exception is told of.
const Soon = 7 * 24 * time.Hour

func (e Exception) excuses(f Finding, id object.ID) bool {
	for pattern, value := range map[*string]string{&e.Policy: f.Policy, &e.Rule: f.Rule, &e.Kind: id.Kind, &e.Namespace: id.Namespace, &e.Name: id.Name} {
		if *pattern != "" && !Glob(*pattern, value) {
			return false
		}
	}
	return true
}

// String tells an exception in a line.
func (e Exception) String() string {
	about := strings.Trim(e.Policy+"/"+e.Rule, "/")
	if about == "" {
		about = "every rule"
	}
	return fmt.Sprintf("the exception from %s (%s, owner %s)", about, e.Reason, e.Owner)
}

// Decision is what a set comes to for one delivery at a moment.
type Decision struct {
	Verdicts []Verdict
	// Notices are for people: exceptions that end soon, or have ended.
	Notices []string
	// Excused is what exceptions excuse: the messages say who does so, why and until when.
	Excused []Verdict
	// Until is when the decision changes by itself; zero: never.
	Until time.Time
}

// RuleSet is how verdicts name the rule that a set can be judged by at all.
const RuleSet = "policies/set"

// Decide turns what was found in a case into verdicts at a moment. A set that is broken,
// or has a flaw, fails as a whole.
func (s Set) Decide(c *Case, found Findings, flaws []Flaw, now time.Time) Decision {
	d := Decision{}
	if s.Broken != "" {
		d.Verdicts = append(d.Verdicts, s.verdict(Verdict{Rule: RuleSet, Message: "it cannot be judged: " + s.Broken}, false))
	}
	for _, f := range slices.Concat(flaws, found.Flaws) {
		d.Verdicts = append(d.Verdicts, s.verdict(Verdict{Rule: RuleSet, Source: f.File, SourceLine: f.Line, Message: f.String()}, false))
	}
	for _, f := range found.List {
		id, origin := c.about(f.Subject)
		v := Verdict{
			Rule: strings.Trim(f.Policy+"/"+f.Rule, "/"), Message: f.Message, Path: f.Path, Severity: f.Severity, Reference: f.Reference,
			Source: f.File, SourceLine: f.Line, File: origin.File, Line: origin.Line,
		}
		if id != (object.ID{}) {
			v.Object = id.String()
		}
		if e, ok := s.exception(f, id, now); ok {
			v.Policy, v.Revision, v.Outcome = s.Name, s.Revision, Excused
			v.Message += fmt.Sprintf("; excused until %s by %s: %s", e.Expires.Format(time.DateOnly), e.Owner, e.Reason)
			d.Excused = append(d.Excused, v)
			d.until(e.Expires)
			continue
		}
		d.Verdicts = append(d.Verdicts, s.verdict(v, f.Warn))
	}
	s.remind(now, &d)
	if len(d.Verdicts) == 0 {
		d.Verdicts = []Verdict{{Policy: s.Name, Revision: s.Revision, Outcome: Pass}}
	}
	return d
}

// verdict completes a verdict that something fails.
func (s Set) verdict(v Verdict, warn bool) Verdict {
	v.Policy, v.Revision, v.Outcome = s.Name, s.Revision, Fail
	if s.Warn || warn {
		v.Outcome = Audit
	}
	return v
}

// about names what a finding is about: the maker, where it is a Pod of a template.
func (c *Case) about(subject int) (object.ID, object.Origin) {
	if subject < 0 || subject >= len(c.Subjects) {
		return object.ID{}, object.Origin{}
	}
	s := &c.Subjects[subject]
	if s.Of != nil && *s.Of >= 0 && *s.Of < len(c.Subjects) {
		s = &c.Subjects[*s.Of]
	}
	return s.ID(), s.Origin
}

// exception returns the first that excuses a finding at a moment.
func (s Set) exception(f Finding, id object.ID, now time.Time) (Exception, bool) {
	for _, e := range s.Exceptions {
		if now.Before(e.Expires) && e.excuses(f, id) {
			return e, true
		}
	}
	return Exception{}, false
}

// remind tells of exceptions that end within a week, or have ended.
func (s Set) remind(now time.Time, d *Decision) {
	for _, e := range s.Exceptions {
		switch {
		case !now.Before(e.Expires):
			d.Notices = append(d.Notices, fmt.Sprintf("policy set %s: %s ended on %s and counts no more", s.Name, e, e.Expires.Format(time.DateOnly)))
		case !now.Before(e.Expires.Add(-Soon)):
			d.Notices = append(d.Notices, fmt.Sprintf("policy set %s: %s ends on %s", s.Name, e, e.Expires.Format(time.DateOnly)))
			d.until(e.Expires)
		default:
			d.until(e.Expires.Add(-Soon))
		}
	}
}

func (d *Decision) until(t time.Time) {
	if d.Until.IsZero() || t.Before(d.Until) {
		d.Until = t
	}
}

// String tells a flaw in a line, with its place.
func (f Flaw) String() string {
	text := f.Message
	if f.Policy != "" {
		text = f.Policy + ": " + text
	}
	switch {
	case f.File != "" && f.Line > 0:
		text = fmt.Sprintf("%s:%d: %s", f.File, f.Line, text)
	case f.File != "":
		text = f.File + ": " + text
	}
	if f.Hint != "" {
		text += " (" + f.Hint + ")"
	}
	return text
}
