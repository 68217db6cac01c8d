package delivery_test

import (
	"sync/atomic"
	"testing"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/test/harness"
)

// A case says which Secrets stand sealed in the source, whichever way.
func TestCaseKnowsWhatIsSealed(t *testing.T) {
	harness.Shared(t).Define(t, harness.SealedSecrets)
	w := newJudged(t)
	w.engine.Unsealer = &unsealer{id: "keys"}
	w.spec.Opener = keys{[]string{"k1"}, &atomic.Int64{}}
	w.set("never")
	sealed := func(commit string, docs ...string) map[string]bool {
		t.Helper()
		w.push(commit, docs...)
		w.until("to be delivered", applied)
		return sealedIn(w.jury.cases[len(w.jury.cases)-1])
	}
	same(t, "a file that was sealed", map[string]bool{"a": true}, sealed(first, lock("k1", secretNamed("a", word))))
	same(t, "one that was not, beside a SealedSecret", map[string]bool{"a": false, "b": true},
		sealed("2222222222222222222222222222222222222222", secretNamed("a", word), w.sealedSecret("b", map[string]string{"key": word})))
}

func sealedIn(c *policy.Case) map[string]bool {
	found := map[string]bool{}
	for i := range c.Subjects {
		if id := c.Subjects[i].ID(); id.Kind == "Secret" {
			found[id.Name] = c.Subjects[i].Sealed
		}
	}
	return found
}
