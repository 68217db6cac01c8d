package cli

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/depot"
	"github.com/holdfastcd/holdfast/test/stores"
)

// TestAuditStore reads a log in a bucket by its address, as the controller writes it.
func TestAuditStore(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs a database and a server of buckets")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", stores.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", stores.SecretKey)
	buckets, database := stores.S3(t), stores.MariaDB(t)
	dsn := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(dsn, []byte(database.DSN(t)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := url.Values{"region": {"us-east-1"}, "endpoint": {buckets.Endpoint}, "path-style": {"true"}}
	bare := "s3://" + buckets.Bucket(t) + "/cluster-1?" + settings.Encode()
	whole := bare + "&database=" + url.QueryEscape(dsn)

	key, err := audit.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"), "test", strings.NewReader(strings.Repeat("k", 100)))
	if err != nil {
		t.Fatal(err)
	}
	store, err := depot.Open(t.Context(), whole, os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(t.Context(), audit.Options{Dir: t.TempDir(), Store: store, Signer: key.Signer, Verifier: key.Verifier})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), audit.Entry{Action: audit.Refuse, Delivery: "Kustomization/team-a/apps", Reason: "not signed"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		reason string
		args   []string
		code   int
		want   string
	}{
		{"the bucket alone", []string{"verify", "--store", bare, "--key", key.Public}, exitOK, "1 entries"},
		{"with its database", []string{"verify", "--store", whole, "--key", key.Public}, exitOK, "1 entries"},
		{"a key is not guessed", []string{"verify", "--store", bare}, exitFailed, ""},
		{"no such bucket is no answer", []string{"verify", "--store", strings.Replace(bare, "bucket-", "none-", 1), "--key", key.Public}, exitFailed, ""},
		{"entries", []string{"log", "--store", bare}, exitOK, "not signed"},
		{"an export", []string{"export", "--store", whole}, exitOK, `"action":"refuse"`},
		{"one place at a time", []string{"log", "--store", bare, "--dir", "."}, exitFailed, ""},
	} {
		code, out, errs := run(nil, "", append([]string{"audit"}, tc.args...)...)
		if code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("%s: exit code %d\n%s%s", tc.reason, code, out, errs)
		}
	}
}
