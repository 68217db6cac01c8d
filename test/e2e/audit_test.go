package e2e

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// recorded yields what the log of a controller has, also after its end.
func (c *controller) recorded(t *testing.T) iter.Seq2[audit.Entry, error] {
	t.Helper()
	return entriesOf(t, c.data)
}

// entriesOf yields the entries of the log in a data directory.
func entriesOf(t *testing.T, data string) iter.Seq2[audit.Entry, error] {
	t.Helper()
	dir := audit.Dir(filepath.Join(data, "audit"))
	size, err := audit.Signed(t.Context(), dir)
	must(t, err)
	return audit.Entries(t.Context(), dir, 0, size)
}

// verifies proves that the log in a data directory is whole, and continues the
// checkpoint kept. It returns the newest one.
func verifies(t *testing.T, data string, kept []byte) audit.Verified {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "audit.key"))
	must(t, err)
	key, err := audit.ParseKey(text)
	must(t, err)
	v, err := audit.Verify(context.Background(), audit.Dir(filepath.Join(data, "audit")), audit.VerifyOptions{Verifier: key.Verifier, Against: kept})
	if err != nil {
		t.Fatalf("the log does not verify: %v", err)
	}
	return v
}

// killsEnv asks for more than the short form of [TestKilledUnderLoad].
const killsEnv = "HOLDFAST_KILLS"

// TestKilledUnderLoad kills the controller at random moments while commits come in.
// Whatever was applied has an intent before it, every intent has an outcome, and the
// log verifies against the checkpoint that was kept before.
func TestKilledUnderLoad(t *testing.T) {
	w := theWorld(t)
	kills := 10
	if text := os.Getenv(killsEnv); text != "" {
		var err error
		kills, err = strconv.Atoi(text)
		must(t, err)
	}
	w.main.kill() // one controller at a time serves a cluster
	t.Cleanup(func() { w.restart(t) })
	ns := w.tenant(t)
	const many = 40
	files := func(value string) []gitserver.Change {
		all := map[string]string{}
		for i := range many {
			name := fmt.Sprintf("c%02d", i)
			all["app/"+name+".yaml"] = configMap(name, value)
		}
		return gitserver.Files(all)
	}
	repo := w.repository(t, map[string]string{"app/c00.yaml": configMap("c00", "first")})
	w.flux(t, ns, repo.URL(), "./app")
	data := filepath.Join(t.TempDir(), "data")
	var kept []byte
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range kills {
		c, err := w.startController(data)
		must(t, err)
		commit(t, repo, files(strconv.Itoa(round))...)
		c.push(t, repo)
		// The pass is in the middle of its writes when any one of them is seen.
		at := random.IntN(many)
		w.cluster.Await(t, harness.ConfigMaps, ns, fmt.Sprintf("c%02d", at), "to be written", has("data.value", strconv.Itoa(round)))
		c.kill()
		kept = verifies(t, data, kept).Checkpoint
	}
	c, err := w.startController(data)
	must(t, err)
	head, err := repo.Head()
	must(t, err)
	w.cluster.Await(t, kustomizations, ns, "app", "to be completed", appliedAt(head))
	c.terminate(t)
	v := verifies(t, data, kept)
	if v.Unsigned != 0 {
		t.Errorf("an orderly end leaves %d entries unsigned", v.Unsigned)
	}
	w.everyApplyHasItsEntry(t, data, "Kustomization/"+ns+"/app", ns)
}

// everyApplyHasItsEntry compares what the API server says was sent with the log.
func (w *world) everyApplyHasItsEntry(t *testing.T, data, delivery, namespace string) {
	t.Helper()
	open, intended := map[uint64]bool{}, map[string][]time.Time{}
	interrupted, index := 0, uint64(0)
	dir := audit.Dir(filepath.Join(data, "audit"))
	for e, err := range entriesOf(t, data) {
		must(t, err)
		switch {
		case e.Delivery != delivery:
		case e.Action == audit.Sync, e.Action == audit.Revert:
			open[index] = true
			record, err := audit.ReadRecord(t.Context(), dir, e.Record)
			must(t, err)
			for _, change := range record.Objects {
				intended[change.Object] = append(intended[change.Object], e.Time)
			}
		case e.Action == audit.Outcome:
			if !open[*e.Of] {
				t.Errorf("entry %d closes an intent that is not open: %d", index, *e.Of)
			}
			delete(open, *e.Of)
			if e.Result == "interrupted" {
				interrupted++
			}
		}
		index++
	}
	if len(open) > 0 {
		t.Errorf("%d intents have no outcome", len(open))
	}
	sent := w.cluster.RequestsSince(t, 0, harness.ByUserAgent("holdfast"), harness.ByVerb("patch"), harness.InNamespace(namespace),
		func(r harness.Request) bool { return r.Resource == "configmaps" })
	for _, r := range slices.Backward(sent) {
		// One clock tells the time of both. Each apply has an intent of its own.
		name := "/v1/ConfigMap/" + namespace + "/" + r.Name
		last := slices.IndexFunc(intended[name], func(at time.Time) bool { return at.After(r.At) }) - 1
		if last == -2 {
			last = len(intended[name]) - 1
		}
		if last < 0 {
			t.Errorf("%s was applied at %s without an entry before", r.Name, r.At)
			continue
		}
		intended[name] = intended[name][:last]
	}
	t.Logf("%d entries, %d applies, %d intents of several objects were interrupted", index, len(sent), interrupted)
}

// TestAuditOfADelivery follows one delivery in the log: who, what, and what came of it.
func TestAuditOfADelivery(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one"), "other/x.yaml": configMap("x", "1")})
	w.flux(t, ns, repo.URL(), "./app")
	first, err := repo.Head()
	must(t, err)
	w.cluster.Await(t, kustomizations, ns, "app", "to be delivered", appliedAt(first))
	w.patch(t, harness.ConfigMaps, ns, "settings", `{"data":{"value":"by hand"}}`)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be as committed again", has("data.value", "one"))
	elsewhere := commit(t, repo, gitserver.Put("other/x.yaml", configMap("x", "2")))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to tell a commit that leaves it as it is", appliedAt(elsewhere))
	w.patch(t, kustomizations, ns, "app", `{"spec":{"suspend":true}}`)
	// Nothing on the object tells that it was seen.
	delivery := "Kustomization/" + ns + "/app"
	var told []string
	want := "drift, outcome delivered, outcome delivered, revert, suspend, sync, untouched"
	poll(t, func() bool {
		told = nil
		for e, err := range w.main.recorded(t) {
			must(t, err)
			shared := strings.Contains(strings.Join(e.Deliveries, " "), delivery)
			if e.Delivery == delivery || shared {
				told = append(told, strings.TrimSpace(string(e.Action)+" "+e.Result))
			}
		}
		return len(told) == 7
	})
	slices.Sort(told) // an outcome may come behind the next intent; it names its own
	if got := strings.Join(told, ", "); got != want {
		t.Errorf("the log tells %s; want %s", got, want)
	}
	verifies(t, w.main.data, nil)
}
