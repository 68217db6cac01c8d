package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

func TestDecide(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	c := NewCase([]object.Object{parsed(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {spec: {}}}}")}, schema.Table{}, nil, nil)
	found := Findings{List: []Finding{{Policy: "images", Rule: "no-latest", Subject: 1, Message: "the tag is latest"}}}
	const id = "Deployment.apps/shop/web"
	excuse := func(e Exception, days int) []Exception {
		e.Owner, e.Reason, e.Expires = "ann", "being replaced", now.AddDate(0, 0, days)
		return []Exception{e}
	}
	tests := []struct {
		reason   string
		set      Set
		found    Findings
		flaws    []Flaw
		want     string // outcome: message of each verdict
		notice   string
		excused  string
		untilDay int // from now; 0: never
	}{
		{reason: "what fails is told of the maker of the Pod", found: found, want: "fail " + id + ": the tag is latest"},
		{reason: "a set that warns", set: Set{Warn: true}, found: found, want: "audit " + id + ": the tag is latest"},
		{reason: "a policy that warns", found: Findings{List: []Finding{{Subject: 0, Message: "m", Warn: true}}}, want: "audit " + id + ": m"},
		{reason: "the delivery as a whole", found: Findings{List: []Finding{{Subject: -1, Message: "m"}}}, want: "fail : m"},
		{reason: "a subject that does not exist is the whole", found: Findings{List: []Finding{{Subject: 99, Message: "m"}}}, want: "fail : m"},
		{reason: "nothing is wrong", want: "pass : "},
		{reason: "a broken set never passes", set: Set{Broken: "no source"}, want: "fail : it cannot be judged: no source"},
		{reason: "nor does a policy with a flaw", flaws: []Flaw{{File: "a.rego", Line: 7, Message: "it does not compile", Hint: "see there"}}, want: "fail : a.rego:7: it does not compile (see there)"},
		{reason: "nor one that failed on an object", found: Findings{Flaws: []Flaw{{Policy: "p", Message: "it broke"}}}, want: "fail : p: it broke"},
		{reason: "a broken set that warns", set: Set{Warn: true, Broken: "x"}, want: "audit : it cannot be judged: x"},
		{
			reason: "an exception", set: Set{Exceptions: excuse(Exception{Policy: "images", Namespace: "shop"}, 30)}, found: found,
			want: "pass : ", excused: "excused " + id + ": the tag is latest; excused until 2027-03-31 by ann: being replaced", untilDay: 23,
		},
		{reason: "an exception for others", set: Set{Exceptions: excuse(Exception{Policy: "images", Namespace: "bank"}, 30)}, found: found, want: "fail " + id + ": the tag is latest", untilDay: 23},
		{reason: "an exception ends within a week", set: Set{Exceptions: excuse(Exception{Rule: "no-*"}, 6)}, found: found, want: "pass : ", notice: "ends on 2027-03-07", excused: "excused " + id + ": the tag is latest; excused until 2027-03-07 by ann: being replaced", untilDay: 6},
		{reason: "an exception past its day", set: Set{Exceptions: excuse(Exception{Rule: "no-*"}, -1)}, found: found, want: "fail " + id + ": the tag is latest", notice: "ended on 2027-02-28 and counts no more"},
		{reason: "no exception excuses a flaw", set: Set{Exceptions: excuse(Exception{Policy: "*"}, 30)}, flaws: []Flaw{{Policy: "p", Message: "x"}}, want: "fail : p: x", untilDay: 23},
	}
	for _, tt := range tests {
		d := tt.set.Decide(c, tt.found, tt.flaws, now)
		if diff := cmp.Diff(tt.want, told(d.Verdicts)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
		}
		if diff := cmp.Diff(tt.excused, told(d.Excused)); diff != "" {
			t.Errorf("%s: excused (-want +got):\n%s", tt.reason, diff)
		}
		if notices := strings.Join(d.Notices, "\n"); !strings.Contains(notices, tt.notice) || (notices == "") != (tt.notice == "") {
			t.Errorf("%s: notices %q, want %q", tt.reason, notices, tt.notice)
		}
		until := time.Time{}
		if tt.untilDay != 0 {
			until = now.AddDate(0, 0, tt.untilDay)
		}
		if !d.Until.Equal(until) {
			t.Errorf("%s: until %s, want %s", tt.reason, d.Until, until)
		}
	}
}

// told are verdicts, a line for each.
func told(verdicts []Verdict) string {
	var lines []string
	for _, v := range verdicts {
		lines = append(lines, v.Outcome+" "+v.Object+": "+v.Message)
	}
	return strings.Join(lines, "\n")
}

// An exception needs no pattern but those that it has, and all of these.
func TestExceptions(t *testing.T) {
	id := object.ID{Kind: "Pod", Namespace: "shop", Name: "web-1"}
	f := Finding{Policy: "images", Rule: "no-latest"}
	for _, tt := range []struct {
		e    Exception
		want bool
	}{
		{Exception{}, true},
		{Exception{Policy: "images", Rule: "no-latest", Kind: "Pod", Namespace: "shop", Name: "web-1"}, true},
		{Exception{Name: "web-*"}, true},
		{Exception{Name: "web-[2-9]"}, false},
		{Exception{Policy: "images", Kind: "Deployment"}, false},
		{Exception{Rule: "[broken"}, false},
	} {
		if got := tt.e.excuses(f, id); got != tt.want {
			t.Errorf("%+v: %t", tt.e, got)
		}
	}
}
