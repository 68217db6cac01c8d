package delivery_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
)

// forbids is a jury of one rule: no ConfigMap may hold a word. It reads the word from the
// documents of a set, and the same from the live object where that is asked for.
type forbids struct {
	asked int
	cases []*policy.Case
	err   error
}

// Judge implements delivery.Policies.
func (f *forbids) Judge(_ context.Context, sets []policy.Set, c *policy.Case, now time.Time) ([]policy.Decision, error) {
	f.asked++
	f.cases = append(f.cases, c)
	if f.err != nil {
		return nil, f.err
	}
	all := make([]policy.Decision, len(sets))
	for i, s := range sets {
		var found policy.Findings
		for n := range c.Subjects {
			data, _ := c.Subjects[n].Object["data"].(map[string]any)
			if text := fmt.Sprint(data["key"]); len(s.Documents) > 0 && strings.Contains(text, string(s.Documents[0].Content)) {
				found.List = append(found.List, policy.Finding{
					Policy: "words", Rule: "forbidden", Subject: n, Message: "it says " + text, File: s.Documents[0].File,
				})
			}
		}
		all[i] = s.Decide(c, found, nil, now)
	}
	return all, nil
}

// judged is a world whose deliveries are judged by policies.
type judged struct {
	*trusted

	jury    *forbids
	rulings []delivery.Ruling
	labels  map[string]string
	now     time.Time
}

func newJudged(t *testing.T) *judged {
	t.Helper()
	w := &judged{trusted: newTrusted(t), jury: &forbids{}, now: time.Now()}
	w.engine = delivery.New(delivery.Options{
		Renderer: func(delivery.ID) render.Renderer { return w.render }, Cluster: w.cluster, Memory: memory{},
		Digest: func(b []byte) [32]byte { return sha256.Sum256(append([]byte("key"), b...)) },
		Clock:  func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler), Alive: func(string) bool { return true },
		Audit: w.log, Policies: w.jury,
		Ruled:           func(_ delivery.ID, r delivery.Ruling) { w.rulings = append(w.rulings, r) },
		NamespaceLabels: func(string) map[string]string { return w.labels },
	})
	w.listen()
	return w
}

// set has a word be forbidden.
func (w *judged) set(word string, more ...func(*policy.Set)) {
	s := policy.Set{Name: "house", Revision: "r1", Documents: []policy.Document{{File: "words.rego", Content: []byte(word)}}}
	for _, f := range more {
		f(&s)
	}
	w.spec.Policies = policy.NewSets(s)
}

func warns(s *policy.Set) { s.Warn = true }

func reasons(alerts []delivery.Alert) []string {
	var all []string
	for _, a := range alerts {
		all = append(all, a.Reason)
	}
	return all
}

func TestPoliciesRefuseTheWhole(t *testing.T) {
	w := newJudged(t)
	w.set("never")
	w.push("1111111111111111111111111111111111111111", config("good", "fine"), config("bad", "never this"))
	r := w.pass()
	if r.Err == nil || !r.Violates || r.Err.Kind != fault.Refused {
		t.Fatalf("a forbidden object refuses the sync: %v", r.Err)
	}
	for _, part := range []string{"house", "words/forbidden", "ConfigMap/" + w.ns + "/bad", "it says never this", file} {
		if !strings.Contains(r.Err.Error(), part) {
			t.Errorf("the refusal does not name %q: %s", part, r.Err)
		}
	}
	w.absent("good", "what is refused is refused as a whole")
	same(t, "it is told once, as an event", []string{delivery.AlertViolation}, reasons(r.Alerts))
	same(t, "the log has the refusal", []audit.Action{audit.Refuse}, actions(w.log))
	same(t, "with its verdict", []audit.Verdict{{
		Rule: "policy/house/words/forbidden", Outcome: policy.Fail, Object: "ConfigMap/" + w.ns + "/bad", Message: "it says never this", Revision: "r1",
	}}, w.log.entries[0].Verdicts)
	again := w.pass()
	same(t, "an unchanged pass asks nobody, and tells nobody", []int{1, 0}, []int{w.jury.asked, len(again.Alerts)})

	w.push("2222222222222222222222222222222222222222", config("good", "fine"), config("bad", "well"))
	w.until("to be delivered when it is corrected", applied)
	same(t, "who is told of rulings hears of both", 2, len(w.rulings))
	asked := w.jury.asked
	w.pass()
	w.pass()
	same(t, "a pass with nothing to do judges nothing", asked, w.jury.asked)
	last := w.log.entries[slices.IndexFunc(w.log.entries, func(e audit.Entry) bool { return e.Action == audit.Sync })]
	same(t, "the log has what policies said of what is applied", []audit.Verdict{{Rule: "policy/house", Outcome: policy.Pass, Revision: "r1"}}, last.Verdicts)
}

func TestPoliciesTellBeforeTheyBlock(t *testing.T) {
	w := newJudged(t)
	w.push("1111111111111111111111111111111111111111", config("a", "never this"))
	w.until("to be delivered without policies", applied)
	w.set("never")
	r := w.pass()
	if r.Err != nil || len(r.Warned) != 1 || !strings.Contains(r.Warned[0], "next change") {
		t.Fatalf("what is live is told, and stays: %v, %q", r.Err, r.Warned)
	}
	same(t, "people hear of it", []string{delivery.AlertWarning}, reasons(r.Alerts))
	last := w.rulings[len(w.rulings)-1]
	if !last.Standing || last.Verdicts[0].Outcome != policy.Fail {
		t.Errorf("who is told of rulings hears that it would be refused: %+v", last)
	}
	w.edit("a", "somebody's")
	w.until("to be reverted", func(delivery.Report) bool { return w.says("a") == "never this" })

	w.push("2222222222222222222222222222222222222222", config("a", "never this"), config("b", "new"))
	if r := w.pass(); !r.Violates {
		t.Fatalf("the next change is refused: %v", r.Err)
	}
	w.absent("b", "nothing of it is applied")
	same(t, "what was live stays", "never this", w.says("a"))
	w.push("1111111111111111111111111111111111111111", config("a", "never this"))
	if r := w.pass(); r.Err != nil || len(r.Warned) != 1 {
		t.Errorf("going back is no change: %v, %q", r.Err, r.Warned)
	}
	w.spec.Policies = policy.Sets{}
	if r := w.pass(); r.Err != nil || len(r.Warned) != 0 {
		t.Errorf("without a policy there is nothing to tell: %v, %q", r.Err, r.Warned)
	}
	if last := w.rulings[len(w.rulings)-1]; len(last.Sets) != 0 {
		t.Errorf("who is told of rulings hears that there is none any more: %+v", last)
	}
}

func TestPoliciesWarn(t *testing.T) {
	w := newJudged(t)
	w.set("never", warns)
	w.push("1111111111111111111111111111111111111111", config("a", "never this"))
	r := w.pass()
	if r.Err != nil || len(r.Warned) != 1 || w.says("a") != "never this" {
		t.Fatalf("what is only told is delivered: %v, %q", r.Err, r.Warned)
	}
	same(t, "and told", []string{delivery.AlertWarning}, reasons(r.Alerts))
	w.set("never this", warns)
	same(t, "it is not told again where it says the same", 0, len(w.pass().Alerts))
}

func TestPolicyExceptions(t *testing.T) {
	w := newJudged(t)
	until := func(day time.Time) func(*policy.Set) {
		return func(s *policy.Set) {
			s.Exceptions = []policy.Exception{{Name: "a", Owner: "ann", Reason: "a test", Expires: day}}
		}
	}
	end := w.now.Add(30 * 24 * time.Hour)
	w.set("never", until(end))
	w.push("1111111111111111111111111111111111111111", config("a", "never this"))
	if r := w.until("to be delivered", applied); len(r.Warned) != 0 {
		t.Errorf("an exception that is far from its end is not told of: %q", r.Warned)
	}
	last := w.log.entries[slices.IndexFunc(w.log.entries, func(e audit.Entry) bool { return e.Action == audit.Sync })]
	if n := len(last.Verdicts); n != 2 || last.Verdicts[1].Outcome != policy.Excused || !strings.Contains(last.Verdicts[1].Message, "by ann: a test") {
		t.Errorf("the log has what was excused, by whom and why: %+v", last.Verdicts)
	}
	asked := w.jury.asked
	w.now = end.Add(-24 * time.Hour)
	r := w.pass()
	if r.Err != nil || len(r.Warned) != 1 || !strings.Contains(r.Warned[0], "ends on") {
		t.Errorf("a week before its end it is told of: %v, %q", r.Err, r.Warned)
	}
	same(t, "for that it is judged again", asked+1, w.jury.asked)
	w.now = end.Add(time.Hour)
	if r := w.pass(); r.Err != nil || len(r.Warned) != 2 {
		t.Errorf("past its end it counts no more; what is live stays: %v, %q", r.Err, r.Warned)
	}
	w.push("2222222222222222222222222222222222222222", config("a", "never this again"))
	if r := w.pass(); !r.Violates {
		t.Errorf("and the next change is refused: %v", r.Err)
	}
}

func TestCaseKnowsItsDelivery(t *testing.T) {
	w := newJudged(t)
	w.labels = map[string]string{"tier": "gold"}
	w.spec.Labels = map[string]string{"team": "a"}
	w.set("never oldObject")
	w.push("1111111111111111111111111111111111111111", config("a", "one"), secret("s", "hush-hush-hush"))
	w.until("to be delivered", applied)
	c := w.jury.cases[0]
	same(t, "who brings it", policy.Delivery{
		Kind: "Thing", Namespace: "here", Name: w.ns, Labels: w.spec.Labels, Repository: repository,
		Revision: w.spec.Revision.Commit, Author: "ann@example.com",
	}, c.Delivery)
	same(t, "the labels of namespaces", map[string]string{"tier": "gold"}, c.Namespaces[w.ns])
	if !strings.Contains(c.Kubernetes, ".") {
		t.Errorf("the version of the cluster is %q", c.Kubernetes)
	}
	if text := fmt.Sprint(c.Subjects); strings.Contains(text, "hush") {
		t.Errorf("the values of Secrets are hidden: %s", text)
	}
	same(t, "there is nothing live yet", true, c.Subjects[0].Old == nil)
	w.push("2222222222222222222222222222222222222222", config("a", "two"), secret("s", "hush-hush-hush"))
	w.until("to be delivered", applied)
	old, _ := w.jury.cases[len(w.jury.cases)-1].Subjects[0].Old["data"].(map[string]any)
	same(t, "a policy that asks for it is given the live object", any("one"), old["key"])

	asked := w.jury.asked
	w.pass()
	same(t, "an unchanged pass judges nothing", asked, w.jury.asked)
	w.labels = map[string]string{"tier": "silver"}
	w.pass()
	same(t, "other labels of its namespace are another case", asked+1, w.jury.asked)
}

func TestPoliciesThatCannotBeAsked(t *testing.T) {
	w := newJudged(t)
	w.set("never")
	w.jury.err = fault.New(fault.Internal, "no worker can be had")
	w.push("1111111111111111111111111111111111111111", config("a", "fine"))
	r := w.pass()
	if r.Err == nil || r.Violates {
		t.Errorf("it fails, and is no violation: %v", r.Err)
	}
	w.absent("a", "nothing is delivered unjudged")
	w.jury.err = nil
	w.until("to be delivered when they can", applied)
}

func TestMessagesOfPoliciesAreMasked(t *testing.T) {
	w := newJudged(t)
	w.set("never")
	w.push("1111111111111111111111111111111111111111", config("a", "never hush-hush-hush"), secret("s", "hush-hush-hush"))
	r := w.pass()
	if !r.Violates {
		t.Fatalf("it is refused: %v", r.Err)
	}
	if text := fmt.Sprint(r.Err, r.Alerts, w.log.entries, w.rulings); strings.Contains(text, "hush-hush") {
		t.Errorf("a secret value is told: %s", text)
	}
}
