package delivery_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// sealing is what a policy demands that wants no secret in plaintext.
func sealing(audited bool, p trust.Plaintext) trust.Demands {
	return trust.NewDemands(trust.Policy{Name: "sealed", Audit: audited, Plaintext: &p})
}

// TestPlaintextIsRefused has a Secret committed that nobody sealed.
func TestPlaintextIsRefused(t *testing.T) {
	w := newTrusted(t)
	pool := worker.NewPool(worker.Options{Size: 1})
	t.Cleanup(pool.Close)
	w.spec.Trust = sealing(false, trust.Plaintext{})
	w.push(first, config("a", "1"), secret("s", "hunter22"))
	if r := w.pass(); r.Err == nil || !r.Untrusted {
		t.Errorf("without a scanner what is demanded cannot be told, and is refused: got %v", r.Err)
	}

	w.engine.Leaks = leak.New(pool)
	var refusing, unproven []string
	w.engine.Judged = func(_ delivery.ID, refuse, audit []string) { refusing, unproven = refuse, audit }
	w.log.told()
	for range 2 {
		r := w.pass()
		if r.Err == nil || !r.Untrusted || r.Err.Kind != fault.Refused || r.Err.File != file || r.Err.Line == 0 {
			t.Fatalf("a plaintext Secret: got %+v", r.Err)
		}
		text := r.Err.Error()
		if !strings.Contains(text, "policy sealed: ") || !strings.Contains(text, file+":") || !strings.Contains(text, leak.RuleSecret) || strings.Contains(text, "hunter") {
			t.Errorf("it names policy, file, line and rule, and no value: %s", text)
		}
	}
	w.absent("a", "nothing of the revision is applied")
	same(t, "recorded once", []string{"refuse"}, w.log.told())
	same(t, "the policy refuses it", [][]string{{"sealed"}, nil}, [][]string{refusing, unproven})

	w.spec.Trust = sealing(true, trust.Plaintext{})
	r := w.until("delivery", applied)
	if len(r.Unproven) != 1 || !slices.ContainsFunc(r.Alerts, func(a delivery.Alert) bool { return a.Reason == delivery.AlertUnproven }) {
		t.Errorf("a policy that audits tells: %v, %v", r.Unproven, r.Alerts)
	}
	same(t, "it would refuse it", [][]string{nil, {"sealed"}}, [][]string{refusing, unproven})
	if r = w.pass(); len(r.Alerts) != 0 || len(r.Unproven) != 1 {
		t.Errorf("once: %v, %v", r.Unproven, r.Alerts)
	}
	if !strings.Contains(w.verdicts(), "trust/sealed/secrets/plaintext audit") {
		t.Errorf("it is recorded: %s", w.verdicts())
	}
}

// verdicts are those of the last entry that has some.
func (w *trusted) verdicts() string {
	text := ""
	for _, e := range w.log.entries {
		for _, v := range e.Verdicts {
			text = v.Rule + " " + v.Outcome
		}
	}
	return text
}

// TestPlaintextIsAllowed excuses a finding, in a policy and in the repository.
func TestPlaintextIsAllowed(t *testing.T) {
	w := newTrusted(t)
	pool := worker.NewPool(worker.Options{Size: 1})
	t.Cleanup(pool.Close)
	w.engine.Leaks = leak.New(pool)
	now := time.Now()
	w.engine.Clock = func() time.Time { return now }
	in := func(days int) time.Time { return now.UTC().Truncate(24*time.Hour).AddDate(0, 0, days) }
	entry := trust.Allowance{Path: "*.yaml", Rule: leak.RuleSecret, Reason: "a test", Expires: in(30)}
	refused := func(reason string) {
		t.Helper()
		if r := w.pass(); r.Err == nil || !r.Untrusted {
			t.Errorf("%s: got %v, want a refusal", reason, r.Err)
		}
	}

	w.push(first, config("a", "1"), secret("s", "hunter22"))
	w.spec.Trust = sealing(false, trust.Plaintext{Allow: []trust.Allowance{entry}})
	w.until("delivery", applied)
	now = in(25)
	if r := w.pass(); r.Err != nil || len(r.Alerts) != 1 || r.Alerts[0].Reason != delivery.AlertExpiring {
		t.Errorf("a week before its end an entry is told of: %v, %v", r.Err, r.Alerts)
	}
	now = in(31)
	refused("an entry past its day, with nothing else changed")

	entry.Expires = in(500)
	w.spec.Trust = sealing(false, trust.Plaintext{Allow: []trust.Allowance{entry}})
	refused("for more than a year")

	list := func(rule string) {
		w.spec.Revision.Tree = treetest.FromFiles(map[string][]byte{
			file:           []byte(config("a", "1") + "\n---\n" + secret("s", "hunter22")),
			leak.AllowFile: []byte("allow:\n- {path: '**', rule: " + rule + ", reason: a test, expires: " + in(20).Format(time.DateOnly) + "}\n"),
		})
	}
	list(leak.RuleSecret)
	w.spec.Trust = sealing(false, trust.Plaintext{})
	refused("the repository excuses itself, and may not")
	w.spec.Trust = sealing(false, trust.Plaintext{Repository: true})
	w.until("delivery", applied)
	list("something-else")
	refused("its list alone has changed, which no rendering reads")
	list("x, unknown: y")
	refused("a list that cannot be read")
}
