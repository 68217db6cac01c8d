package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/audit"
)

// logDir is a log of three entries in a directory, with its key, and a checkpoint that
// was kept after the first two.
func logDir(t *testing.T) (dir, key, kept string) {
	t.Helper()
	tmp := t.TempDir()
	dir, kept = filepath.Join(tmp, "log"), filepath.Join(tmp, "checkpoint")
	k, err := audit.LoadOrCreateKey(filepath.Join(tmp, "key"), "test", strings.NewReader(strings.Repeat("k", 100)))
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }
	open := func() *audit.Log {
		l, err := audit.Open(t.Context(), audit.Options{Dir: dir, Signer: k.Signer, Verifier: k.Verifier, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	zero := uint64(0)
	entries := []audit.Entry{
		{Action: audit.Sync, Delivery: "Kustomization/team-a/apps", Source: &audit.Source{URL: "https://git.example.org/a.git", Commit: strings.Repeat("a", 40)}},
		{Action: audit.Outcome, Delivery: "Kustomization/team-a/apps", Of: &zero, Result: audit.ResultDelivered},
		{Action: audit.Refuse, Delivery: "Application/argocd/shop", Reason: "commit \x1b[31mbbbb is not signed"},
	}
	write := func(entries ...audit.Entry) {
		l := open()
		for _, e := range entries {
			record := &audit.Record{Objects: []audit.Change{{Object: "/v1/ConfigMap/shop/settings"}}}
			if e.Action == audit.Refuse {
				record = nil
			}
			if _, err := l.Append(t.Context(), e, record); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(entries[:2]...)
	raw, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	write(entries[2:]...)
	return dir, k.Public, kept
}

// spoil changes one byte of a file.
func spoil(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAuditVerify(t *testing.T) {
	other, err := audit.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"), "test", strings.NewReader(strings.Repeat("o", 100)))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason string
		change func(t *testing.T, dir, kept string)
		args   []string
		code   int
		out    string
	}{
		"Whole":     {reason: "what is proven is said", args: []string{"--checkpoint", "KEPT"}, out: "is its unchanged"},
		"NoHistory": {reason: "and what is not", out: "unproven  that this is not an older copy"},
		"Entry": {
			reason: "a changed entry is an answer, which names it", code: exitChanges, out: "entry",
			change: func(t *testing.T, dir, _ string) { spoil(t, filepath.Join(dir, "tile/entries/000.p/3")) },
		},
		"Checkpoint": {
			reason: "so is a checkpoint", code: exitChanges, out: "CHANGED",
			change: func(t *testing.T, dir, _ string) { spoil(t, filepath.Join(dir, "checkpoint")) },
		},
		"Record": {
			reason: "so is a record that is gone", code: exitChanges, out: "record",
			change: func(t *testing.T, dir, _ string) {
				if err := os.RemoveAll(filepath.Join(dir, "records")); err != nil {
					t.Fatal(err)
				}
			},
		},
		"Superseded": {
			reason: "so is a file that nothing leads to any more", code: exitChanges, out: "tile/entries/000.p/2",
			change: func(t *testing.T, dir, _ string) { spoil(t, filepath.Join(dir, "tile/entries/000.p/2")) },
		},
		"Strange": {
			reason: "a file that is no part of the log is said", out: "no part of the log: notes",
			change: func(t *testing.T, dir, _ string) {
				if err := os.WriteFile(filepath.Join(dir, "notes"), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
		},
		"Gone": {
			reason: "a log that is gone was changed, for who knows that there was one", code: exitChanges, args: []string{"--checkpoint", "KEPT"}, out: "CHANGED",
			change: func(t *testing.T, dir, _ string) {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			},
		},
		"Empty": {
			reason: "a directory without a log tells nothing", code: exitFailed,
			change: func(t *testing.T, dir, _ string) {
				if err := os.Remove(filepath.Join(dir, "checkpoint")); err != nil {
					t.Fatal(err)
				}
			},
		},
		"OtherKey": {reason: "the log of another key is not this log", args: []string{"--key", other.Public}, code: exitChanges, out: "not signed"},
		"NoKey":    {reason: "a key is not guessed", args: []string{"--key", ""}, code: exitFailed},
		"BadKey":   {reason: "garbage is no key", args: []string{"--key", "garbage"}, code: exitFailed},
		"NoDir":    {reason: "a wrong directory tells nothing", args: []string{"--dir", "/nonexistent"}, code: exitFailed},
	}
	whole, key, kept := logDir(t)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			if tc.change != nil {
				tc.change(t, dir, kept)
			}
			args := []string{"audit", "verify", "--dir", dir, "--key", key}
			for _, a := range tc.args {
				args = append(args, strings.ReplaceAll(a, "KEPT", kept))
			}
			code, out, errs := run(nil, "", args...)
			if code != tc.code || !strings.Contains(out, tc.out) {
				t.Errorf("%s: exit code %d\n%s%s", tc.reason, code, out, errs)
			}
			if code, out, _ := run(nil, "", append(args, "-o", "json")...); code != exitFailed {
				var v verification
				if err := json.Unmarshal([]byte(out), &v); err != nil || v.Whole != (tc.code == exitOK) {
					t.Errorf("%s: %d %v %s", tc.reason, code, err, out)
				}
			}
		})
	}
}

func TestAuditLog(t *testing.T) {
	dir, _, _ := logDir(t)
	const sync, outcome = "0  2026-11-22 12:00:00  sync  Kustomization/team-a/apps  aaaaaaaaaaaa\n", "1  2026-11-22 12:00:00  outcome  Kustomization/team-a/apps  of 0: delivered\n"
	const refuse = "2  2026-11-22 12:00:00  refuse  Application/argocd/shop  commit [31mbbbb is not signed\n"
	cases := map[string]struct {
		reason string
		args   []string
		code   int
		want   string
	}{
		"All":       {reason: "oldest first, and no control characters", want: sync + outcome + refuse},
		"Limit":     {reason: "the newest", args: []string{"--limit=1"}, want: refuse},
		"Unlimited": {reason: "0 is no limit", args: []string{"--limit=0"}, want: sync + outcome + refuse},
		"Namespace": {reason: "one namespace's deliveries", args: []string{"-n", "team-a"}, want: sync + outcome},
		"Action":    {reason: "one action", args: []string{"--action=refuse"}, want: refuse},
		"Delivery":  {reason: "one delivery", args: []string{"--delivery=Application/argocd/shop"}, want: refuse},
		"Object":    {reason: "an object, in whatever version", args: []string{"--object=/v2/ConfigMap/shop/settings"}, want: sync},
		"JSON": {
			reason: "in the form of an export", args: []string{"-o", "json", "--action=refuse"},
			want: `{"index":2,"time":"2026-11-22T12:00:00Z","action":"refuse","delivery":"Application/argocd/shop","reason":"commit \u001b[31mbbbb is not signed"}` + "\n",
		},
		"NoAction":   {reason: "a typing error must not read as: nothing happened", args: []string{"--action=refused"}, code: exitFailed},
		"NoDelivery": {reason: "likewise", args: []string{"--delivery=ks/apps"}, code: exitFailed},
		"NoObject":   {reason: "likewise", args: []string{"--object=deploy/web"}, code: exitFailed},
		"NoFormat":   {reason: "likewise", args: []string{"-o", "yaml"}, code: exitFailed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			code, out, errs := run(nil, "", append([]string{"audit", "log", "--dir", dir}, tc.args...)...)
			if code != tc.code {
				t.Fatalf("%s: exit code %d: %s", tc.reason, code, errs)
			}
			if diff := cmp.Diff(tc.want, out); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestAuditExport(t *testing.T) {
	dir, _, _ := logDir(t)
	code, out, errs := run(nil, "", "audit", "export", "--dir", dir, "--from=1")
	if code != 0 || strings.Count(out, "\n") != 2 || !strings.HasPrefix(out, `{"index":1,"time":`) {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if code, _, _ := run(nil, "", "audit", "export", "--dir", t.TempDir()); code != exitFailed {
		t.Errorf("an export of nothing ends with %d", code)
	}
}

func TestWhichObject(t *testing.T) {
	cases := map[string]struct {
		reason     string
		args       []string
		kind, name string
	}{
		"Slash":  {"as kubectl prints it", []string{"deploy/web"}, "deploy", "web"},
		"Two":    {"as people type it", []string{"deploy", "web"}, "deploy", "web"},
		"Group":  {"with a group", []string{"deployments.apps/web"}, "deployments.apps", "web"},
		"Both":   {"which one is meant?", []string{"deploy/web", "api"}, "", ""},
		"NoName": {"no kind has an empty name", []string{"deploy/"}, "", ""},
		"Alone":  {"a name has a kind", []string{"web"}, "", ""},
		"Three":  {"a namespace goes behind -n", []string{"deploy/shop/web"}, "", ""},
	}
	for name, tc := range cases {
		kind, object, err := whichObject(tc.args)
		if kind != tc.kind || object != tc.name || (err != nil) != (tc.kind == "") {
			t.Errorf("%s: %s: %q %q %v", name, tc.reason, kind, object, err)
		}
	}
}
