package commit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// maxEvidence is how many commits are told.
const maxEvidence = 100

// conclude adds what was found to the evidence, and refuses if something is not
// proven. If a commit and its tag were judged, one of them suffices.
func (j *judge) conclude(told []trust.Commit, e *trust.Evidence) error {
	tagged := slices.ContainsFunc(told, func(c trust.Commit) bool { return c.Tag && c.Signer != nil })
	var missing []trust.Commit
	for _, c := range told {
		if c.Signer == nil && !tagged {
			missing = append(missing, c)
		}
	}
	e.Commits = tell(e.Commits, told, missing)
	if len(missing) == 0 {
		return nil
	}
	worst := missing[0]
	if len(missing) == 2 && missing[1].Tag && missing[0].Problem == errUnsigned.Error() {
		worst = missing[1]
	}
	return j.refusal(worst, len(missing)-1)
}

// tell adds commits to the evidence, as many as fit, and the first one that is missing
// in any case.
func tell(evidence, told, missing []trust.Commit) []trust.Commit {
	room := max(0, maxEvidence-len(evidence))
	short := told[:min(len(told), room)]
	evidence = append(evidence, short...)
	if len(missing) > 0 && len(evidence) > 0 && !slices.ContainsFunc(short, func(c trust.Commit) bool { return c.ID == missing[0].ID }) {
		evidence[len(evidence)-1] = missing[0]
	}
	return evidence
}

func (j *judge) refusal(c trust.Commit, more int) error {
	what := "commit"
	if c.Tag {
		what = "tag"
	}
	var names []string
	for _, a := range j.authorities {
		names = append(names, a.Name)
	}
	also := ""
	if more > 0 && !c.Tag {
		also = fmt.Sprintf("; and so for %d more", more)
	}
	hint := "push a commit on top, signed by an authority of the policy: " + strings.Join(names, ", ")
	if j.demand.Range || c.Tag { // one on top does not help; what is not delivered yet may be replaced
		hint = "have it signed anew by an authority of the policy: " + strings.Join(names, ", ")
	}
	if j.demand.Range && j.demand.From[j.URL] == "" {
		hint += fmt.Sprintf("; or name the first commit to trust in the TrustPolicy's spec.commits.from for %s", j.URL)
	}
	return fault.New(fault.Refused, "policy %q: %s %s by %s is not proven: %s%s", j.policy, what, c.ID, c.Author, c.Problem, also).WithHint("%s", hint)
}
