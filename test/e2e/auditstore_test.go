package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/depot"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
	"github.com/holdfastcd/holdfast/test/stores"
)

// auditStore makes a database and a bucket, and returns the address of a log in them.
func auditStore(t *testing.T) string {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", stores.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", stores.SecretKey)
	buckets, database := stores.S3(t), stores.MariaDB(t)
	dsn := filepath.Join(t.TempDir(), "dsn")
	must(t, os.WriteFile(dsn, []byte(database.DSN(t)), 0o600))
	settings := url.Values{"region": {"us-east-1"}, "endpoint": {buckets.Endpoint}, "path-style": {"true"}, "database": {dsn}}
	return "s3://" + buckets.Bucket(t) + "/cluster-1?" + settings.Encode()
}

// TestAuditInABucket has the log in a bucket, and kills the controller twice in the middle
// of its writes: the log is proven by the command line, `why` reads it, and every intent
// has one outcome. Another controller with the same log waits.
func TestAuditInABucket(t *testing.T) {
	w := theWorld(t)
	w.main.kill() // one controller at a time serves a cluster
	t.Cleanup(func() { w.restart(t) })
	address, data := auditStore(t), filepath.Join(t.TempDir(), "data")
	flag := "--audit-store=" + address
	ns := w.tenant(t)
	const many = 20
	files := func(value string) []gitserver.Change {
		all := map[string]string{}
		for i := range many {
			all[fmt.Sprintf("app/c%02d.yaml", i)] = configMap(fmt.Sprintf("c%02d", i), value)
		}
		return gitserver.Files(all)
	}
	repo := w.repository(t, map[string]string{"app/c00.yaml": configMap("c00", "first")})
	w.flux(t, ns, repo.URL(), "./app")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 2 {
		c, err := w.startController(data, flag)
		must(t, err)
		commit(t, repo, files(strconv.Itoa(round))...)
		c.push(t, repo)
		at := random.IntN(many)
		w.cluster.Await(t, harness.ConfigMaps, ns, fmt.Sprintf("c%02d", at), "to be written", has("data.value", strconv.Itoa(round)))
		c.kill()
	}
	c, err := w.startController(data, flag)
	must(t, err)
	head, err := repo.Head()
	must(t, err)
	w.cluster.Await(t, kustomizations, ns, "app", "to be completed", appliedAt(head))
	w.waitsForTheLog(t, flag)
	c.terminate(t)

	text, err := os.ReadFile(filepath.Join(data, "audit.key"))
	must(t, err)
	key, err := audit.ParseKey(text)
	must(t, err)
	w.says(t, 0, "entries", "audit", "verify", "--store", address, "--key", key.Public)
	w.says(t, 0, "Kustomization/"+ns+"/app", "why", "configmap/c00", "-n", ns, "--store", address)
	w.everyIntentHasItsOutcome(t, address, "Kustomization/"+ns+"/app")
}

// waitsForTheLog starts another controller with the same log and another directory: it
// says that it waits, and ends when it is asked to.
func (w *world) waitsForTheLog(t *testing.T, flag string) {
	t.Helper()
	other, err := w.launch(filepath.Join(t.TempDir(), "other"), flag)
	must(t, err)
	if !poll(t, func() bool { return strings.Contains(other.log.String(), "not open yet") || !other.alive() }) || !other.alive() {
		t.Errorf("it does not say that it waits:\n%s", other.log)
	}
	other.terminate(t)
	if code := other.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %d:\n%s", code, other.log)
	}
}

// everyIntentHasItsOutcome reads the log in a bucket: each intent has one outcome, and the
// last one was delivered.
func (w *world) everyIntentHasItsOutcome(t *testing.T, address, delivery string) {
	t.Helper()
	store, err := depot.Open(t.Context(), address, os.LookupEnv)
	must(t, err)
	defer store.Close()
	size, err := audit.Signed(t.Context(), store)
	must(t, err)
	open, results, index := map[uint64]bool{}, []string{}, uint64(0)
	for e, err := range audit.Entries(t.Context(), store, 0, size) {
		must(t, err)
		switch {
		case e.Delivery != delivery:
		case e.Action == audit.Sync, e.Action == audit.Revert:
			open[index] = true
		case e.Of != nil:
			if !open[*e.Of] {
				t.Errorf("entry %d closes an intent that is not open", index)
			}
			delete(open, *e.Of)
			results = append(results, e.Result)
		}
		index++
	}
	if told := strings.Join(results, " "); len(open) > 0 || !strings.HasSuffix(told, audit.ResultDelivered) {
		t.Errorf("%d intents have no outcome; outcomes: %s", len(open), told)
	}
	t.Logf("%d entries; outcomes: %v", size, results)
}
