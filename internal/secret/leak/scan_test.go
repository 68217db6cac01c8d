package leak

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// folder is a set of files that counts how often they are read.
type folder struct {
	files map[string]string
	reads atomic.Int64
}

func (f *folder) look(path string) (File, bool) {
	content, ok := f.files[path]
	return File{Path: path, Digest: tree.BlobDigest([]byte(content)), Read: func(limit int64) ([]byte, error) {
		f.reads.Add(1)
		if int64(len(content)) > limit {
			return nil, tree.TooLarge(path, int64(len(content)), limit)
		}
		return []byte(content), nil
	}}, ok
}

func (f *folder) beside(_ int, path string) (File, bool) { return f.look(path) }

func (f *folder) list() []File {
	var all []File
	for path := range f.files {
		file, _ := f.look(path)
		all = append(all, file)
	}
	return all
}

func newScanner(t testing.TB) *Scanner {
	t.Helper()
	pool := worker.NewPool(worker.Options{Size: 2})
	t.Cleanup(pool.Close)
	return New(pool)
}

func TestSearch(t *testing.T) {
	s := newScanner(t)
	f := &folder{files: map[string]string{
		"a/kustomization.yaml": "secretGenerator:\n- name: a\n  files: [key.txt, x=sealed.yaml, ../shared/token, missing, https://example.com/x]\n  envs: [db.env, half.env]\n",
		"a/half.env":           "A=ENC[AES256_GCM,data:a]\nPASS=hunter2\nsops_version=3.13.3\nsops_mac=ENC[AES256_GCM,data:b]\n",
		"a/key.txt":            "hunter2\n",
		"a/sealed.yaml":        "a: ENC[AES256_GCM,data:a]\nsops:\n  mac: ENC[AES256_GCM,data:b]\n",
		"a/db.env":             "# db\nUSER=${USER}\nPASS=hunter2\nEMPTY=\n",
		"shared/token":         "hunter3",
		"big.yaml":             strings.Repeat("# nothing\n", maxFile/10+1),
		"plain.yaml":           "kind: ConfigMap\ndata: {a: b}\n",
	}}
	want := "a/db.env:kustomize-file\na/half.env:kustomize-file\na/key.txt:kustomize-file\nbig.yaml:unsearched\nshared/token:kustomize-file\n"
	got, err := s.Search(t.Context(), f.list(), f.beside, nil)
	if diff := cmp.Diff(want, show(got)); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if got[0].Line != 3 {
		t.Errorf("line %d of the env file, want 3", got[0].Line)
	}
	f.reads.Store(0)
	again, err := s.Search(t.Context(), f.list(), f.beside, nil)
	if diff := cmp.Diff(got, again); err != nil || diff != "" || f.reads.Load() != 0 {
		t.Errorf("%v, %d reads of what did not change:\n%s", err, f.reads.Load(), diff)
	}
	f.files["plain.yaml"] = "apiVersion: v1\nkind: Secret\nstringData: {a: b}\n"
	if again, err = s.Search(t.Context(), f.list(), f.beside, nil); err != nil || len(again) != len(got)+1 || f.reads.Load() != 1 {
		t.Errorf("%v: %d findings, %d reads, want %d and 1", err, len(again), f.reads.Load(), len(got)+1)
	}
}

// A file that SOPS sealed in part is searched as any other where a generator reads it as
// a whole, and told once.
func TestWhatSOPSLeftOpenIsSearched(t *testing.T) {
	s := newScanner(t)
	const enc = "ENC[AES256_GCM,data:p673w==,iv:YY=,aad:UQ==,tag:A=,type:str]"
	pass := word(t, 24)
	part := "user: admin\nport: 5432\napiToken: " + pass + "\npassword: " + enc + "\ntls:\n  key: |\n" + indent(privateKey(t), "    ") +
		"sops:\n  mac: " + enc + "\n  encrypted_regex: ^password$\n"
	f := &folder{files: map[string]string{
		"a/kustomization.yaml": "secretGenerator:\n- name: a\n  files: [part.yaml, c=part.json, part.ini]\n- name: all\n  files: [all.yaml]\nconfigMapGenerator:\n- name: b\n  files: [settings.yaml]\n",
		"a/part.yaml":          part,
		"a/part.json":          `{"user": "admin", "apiToken": "` + pass + `", "password": "` + enc + `", "sops": {"mac": "` + enc + `"}}`,
		"a/part.ini":           "[db]\napi_token = " + pass + "\npassword = " + enc + "\n[sops]\nmac = " + enc + "\n",
		"a/all.yaml":           "apiToken: " + enc + "\nsops:\n  mac: " + enc + "\n",
		"a/settings.yaml":      part,
	}}
	generated := "a/part.ini:generic-api-key\na/part.json:generic-api-key\na/part.yaml:generic-api-key\na/part.yaml:private-key\n"
	kustomization, _ := f.look("a/kustomization.yaml")
	for _, tc := range []struct {
		reason string
		files  []File
		want   string
	}{
		{"the files that a changed kustomization names, which did not change themselves", []File{kustomization}, generated},
		{"all files, each value once, those of ConfigMaps among them", f.list(), generated + "a/settings.yaml:generic-api-key\na/settings.yaml:private-key\n"},
	} {
		got, err := s.Search(t.Context(), tc.files, f.beside, nil)
		if diff := cmp.Diff(tc.want, show(got)); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tc.reason, err, diff)
		}
		for _, finding := range got {
			if content := f.files[finding.File]; finding.Line < 1 || finding.Line > strings.Count(content, "\n")+1 {
				t.Errorf("%+v", finding)
			}
		}
	}
}

// More than one job manages is done by several.
func TestSearchMany(t *testing.T) {
	s := newScanner(t)
	f := &folder{files: map[string]string{}}
	for i := range 2 * batch {
		f.files["f"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+strings.Repeat("y", i/26)] = "stringData:\n  a: b\nkind: Secret\n"
	}
	got, err := s.Search(t.Context(), f.list(), nil, nil)
	if err != nil || len(got) != 0 { // they have no extension of a manifest but none
		for _, g := range got {
			if g.Rule != RuleSecret {
				t.Errorf("%+v", g)
			}
		}
	}
	if len(got) != len(f.files) {
		t.Errorf("%v: %d findings in %d files", err, len(got), len(f.files))
	}
}

func TestSearchFails(t *testing.T) {
	s := newScanner(t)
	broken := errors.New("the disk is gone")
	_, err := s.Search(t.Context(), []File{{Path: "a", Read: func(int64) ([]byte, error) { return nil, fault.New(fault.Internal, "%s", broken) }}}, nil, nil)
	if err == nil {
		t.Error("a file that cannot be read is not clean")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &folder{files: map[string]string{"a": "b"}}
	if _, err := s.Search(ctx, f.list(), nil, nil); err == nil {
		t.Error("a search that was cancelled says nothing")
	}
}

func TestAllowList(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	finding := Finding{File: "apps/shop/test.yaml", Rule: RuleSecret, Fingerprint: strings.Repeat("ab", 16)}
	entry := func(fields string) string {
		return "salt: 00112233445566778899aabbccddeeff\nallow:\n- {path: apps/**, rule: kubernetes-secret, reason: a test, expires: 2026-09-01" + fields + "}\n"
	}
	tests := []struct {
		name, reason, content string
		allowed               bool
		notices               int
		err                   string
	}{
		{name: "path and rule", reason: "both fit", content: entry(""), allowed: true},
		{name: "fingerprint", reason: "it fits as well", content: entry(", fingerprint: " + finding.Fingerprint), allowed: true},
		{name: "other fingerprint", reason: "it is another value", content: entry(", fingerprint: " + strings.Repeat("cd", 16))},
		{name: "any rule", reason: "a star", content: strings.Replace(entry(""), "rule: kubernetes-secret", `rule: "*"`, 1), allowed: true},
		{name: "other path", reason: "* ends at a slash", content: strings.Replace(entry(""), "apps/**", "apps/*", 1)},
		{name: "soon", reason: "told a week before", content: strings.Replace(entry(""), "2026-09-01", "2026-06-07", 1), allowed: true, notices: 1},
		{name: "last day", reason: "it counts to its end", content: strings.Replace(entry(""), "2026-09-01", "2026-06-01", 1), allowed: true, notices: 1},
		{name: "expired", reason: "it does not count, and that is told", content: strings.Replace(entry(""), "2026-09-01", "2026-05-31", 1), notices: 1},
		{name: "empty", reason: "nothing is allowed", content: ""},
		{name: "unknown field", reason: "it might have meant less", content: entry(", lines: 4"), err: "field lines is not known"},
		{name: "unknown on top", reason: "the same", content: "allows: []\n", err: "field allows not found"},
		{name: "no reason", reason: "somebody must have had one", content: strings.Replace(entry(""), "reason: a test, ", "", 1), err: "reason is missing"},
		{name: "no date", reason: "nothing is for ever", content: strings.Replace(entry(""), ", expires: 2026-09-01", "", 1), err: "expires is missing"},
		{name: "far date", reason: "nor nearly", content: strings.Replace(entry(""), "2026-09-01", "2027-06-02", 1), err: "more than a year"},
		{name: "no day", reason: "it is no date", content: strings.Replace(entry(""), "2026-09-01", "soon", 1), err: "is no date"},
		{name: "fingerprint without salt", reason: "it says nothing of the value", content: "allow:\n- {path: a, rule: b, reason: c, expires: 2026-09-01, fingerprint: " + finding.Fingerprint + "}\n", err: "no salt"},
		{name: "short salt", reason: "it could be guessed", content: "salt: abcd\n", err: "32 hexadecimal digits"},
		{name: "two documents", reason: "the second would be ignored", content: "allow: []\n---\nallow: []\n", err: "more than one document"},
		{name: "large", reason: "bounded", content: strings.Repeat("# x\n", maxAllowFile/4+1), err: "has more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := ParseAllowList([]byte(tt.content), now)
			if tt.err != "" || err != nil {
				if tt.err == "" || err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("%s: error %v, want %q", tt.reason, err, tt.err)
				}
				return
			}
			j := l.Judge([]Finding{finding}, now)
			if (len(j.Findings) == 0) != tt.allowed || len(j.Notices) != tt.notices {
				t.Errorf("%s: %+v", tt.reason, j)
			}
			for i := 0; tt.allowed && len(j.Findings) == 0; i++ {
				if j.Until.IsZero() || i > 2 {
					t.Fatalf("it counts for ever: %+v", j)
				}
				j = l.Judge([]Finding{finding}, j.Until)
				if len(j.Notices) != 1 {
					t.Errorf("at its next change nothing is told: %+v", j)
				}
			}
		})
	}
}

func FuzzAllowList(f *testing.F) {
	f.Add([]byte("salt: 00112233445566778899aabbccddeeff\nallow:\n- {path: a, rule: b, reason: c, expires: 2026-09-01}\n"))
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, content []byte) {
		l, err := ParseAllowList(content, now)
		if err != nil {
			return
		}
		for _, a := range l.Entries {
			if a.Check(now) != nil {
				t.Errorf("%+v is accepted", a)
			}
		}
		l.Judge([]Finding{{File: "a/b.yaml", Rule: "c"}}, now)
	})
}
