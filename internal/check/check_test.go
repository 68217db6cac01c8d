package check_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/check"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/worker"
)

func TestMain(m *testing.M) {
	worker.RunIfWorker(leak.Handlers())
	os.Exit(m.Run())
}

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// repo is a directory, of Git if init was called.
type repo struct {
	t       *testing.T
	dir     string
	scanner *leak.Scanner
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	pool := worker.NewPool(worker.Options{Size: 2})
	t.Cleanup(pool.Close)
	return &repo{t, t.TempDir(), leak.New(pool)}
}

func (r *repo) write(name, content string) {
	r.t.Helper()
	full := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// git runs the git program, as a user does; Holdfast itself never does.
func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) commit() string {
	r.git("add", "-A")
	r.git("commit", "-q", "-m", "x")
	return r.git("rev-parse", "HEAD")
}

// run checks, and returns what was found as "file:line rule".
func (r *repo) run(o check.Options) (check.Report, string) {
	r.t.Helper()
	o.Dir, o.Now = filepath.Join(r.dir, o.Dir), now
	report, err := (&check.Engine{Secrets: r.scanner}).Run(r.t.Context(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range report.Findings {
		at := strings.SplitN(f.String(), ":", 5)
		if f.Commit == "" {
			b.WriteString(at[0] + ":" + at[1] + " " + f.Rule + "\n")
		} else {
			b.WriteString(at[0] + " " + at[1] + ":" + at[2] + " " + f.Rule + "\n")
		}
	}
	return report, b.String()
}

func (r *repo) want(reason string, o check.Options, want string) check.Report {
	r.t.Helper()
	report, got := r.run(o)
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("%s (-want +got):\n%s", reason, diff)
	}
	return report
}

const secret = "apiVersion: v1\nkind: Secret\nstringData:\n  p: hunter2\n"

func TestDirectory(t *testing.T) {
	r := newRepo(t)
	r.write("a/secret.yaml", secret)
	r.write("b/clean.yaml", "kind: ConfigMap\n")
	r.write(".gitignore", "*.tmp\n/build/\n")
	r.write("x.tmp", secret)
	r.write("build/y.yaml", secret)
	r.write("b/.gitignore", "z.yaml\n!keep.tmp\n")
	r.write("b/z.yaml", secret)
	r.write("b/keep.yaml", "a: b\n")
	r.write("k/kustomization.yaml", "secretGenerator:\n- name: a\n  files: [t.txt]\n  envs: [e.env]\n")
	r.write("k/t.txt", "hunter2")
	r.write("k/e.env", "A=\nB=hunter2\n")
	if err := os.Symlink("/etc/passwd", filepath.Join(r.dir, "k", "link")); err != nil {
		t.Fatal(err)
	}
	all := "a/secret.yaml:4 kubernetes-secret\nk/e.env:2 kustomize-file\nk/t.txt:1 kustomize-file\n"
	r.want("a directory that is none of Git's", check.Options{}, all)
	r.want("a directory of it: its paths are its own", check.Options{Dir: "a"}, "secret.yaml:4 kubernetes-secret\n")
	r.want("a file", check.Options{Dir: "a/secret.yaml"}, "secret.yaml:4 kubernetes-secret\n")

	r.git("init", "-q", "-b", "main")
	r.want("a repository", check.Options{}, all)
	r.want("a directory of a repository: paths are the repository's", check.Options{Dir: "a"}, "a/secret.yaml:4 kubernetes-secret\n")
	r.git("add", "-f", "x.tmp", "build/y.yaml")
	r.write("x.tmp", "a: b\n")
	r.want("what is tracked is not ignored", check.Options{}, "a/secret.yaml:4 kubernetes-secret\nbuild/y.yaml:4 kubernetes-secret\nk/e.env:2 kustomize-file\nk/t.txt:1 kustomize-file\n")

	r.write(leak.AllowFile, "allow:\n- {path: 'k/**', rule: kustomize-file, reason: a test, expires: 2026-06-03}\n- {path: 'a/*', rule: '*', reason: old, expires: 2026-05-03}\n")
	report := r.want("what is allowed", check.Options{}, "a/secret.yaml:4 kubernetes-secret\nbuild/y.yaml:4 kubernetes-secret\n")
	if report.Allowed != 2 || len(report.Notices) != 2 {
		t.Errorf("an entry that ends soon, and one that has ended: %+v", report)
	}
	r.write(leak.AllowFile, "allow:\n- {path: 'k/**', rule: kustomize-file, reason: a test}\n")
	if _, err := (&check.Engine{Secrets: r.scanner}).Run(t.Context(), check.Options{Dir: r.dir, Now: now}); err == nil {
		t.Error("a list that is wrong is not overlooked")
	}
	if _, err := (&check.Engine{Secrets: r.scanner}).Run(t.Context(), check.Options{Dir: filepath.Join(r.dir, "none"), Now: now}); err == nil {
		t.Error("a directory that is not there is not clean")
	}
}

func TestInline(t *testing.T) {
	r := newRepo(t)
	r.write("a.yaml", strings.TrimSpace(secret)+" # gitleaks:"+"allow\n")
	report := r.want("a comment does not count", check.Options{}, "a.yaml:4 kubernetes-secret\n")
	if !strings.Contains(report.Findings[0].String(), "does not count") {
		t.Errorf("and that is said: %s", report.Findings[0])
	}
	if report = r.want("but where it is asked for", check.Options{HonorInline: true}, ""); report.Allowed != 1 {
		t.Errorf("%+v", report)
	}
}

func TestStaged(t *testing.T) {
	r := newRepo(t)
	r.git("init", "-q", "-b", "main")
	r.write("old.yaml", secret)
	r.write("k/kustomization.yaml", "secretGenerator:\n- name: a\n  files: [t.txt]\n")
	r.git("add", "old.yaml")
	r.want("before the first commit", check.Options{Staged: true}, "old.yaml:4 kubernetes-secret\n")
	r.commit()
	r.want("nothing is staged", check.Options{Staged: true}, "")
	r.write("new.yaml", secret)
	r.want("nothing is staged yet", check.Options{Staged: true}, "")
	r.git("add", "new.yaml")
	r.write("new.yaml", "a: b\n")
	r.want("what is staged, not what is in the directory", check.Options{Staged: true}, "new.yaml:4 kubernetes-secret\n")
	r.git("reset", "-q")
	r.write("k/t.txt", "hunter2")
	r.git("add", "k/t.txt")
	report := r.want("a file that a kustomization which is not staged makes a Secret of", check.Options{Staged: true}, "k/t.txt:1 kustomize-file\n")
	if report.Files != 1 {
		t.Errorf("%d files are staged, want 1", report.Files)
	}
	other := filepath.Join(t.TempDir(), "tree")
	r.git("worktree", "add", "-q", other)
	w := &repo{t, other, r.scanner}
	w.write("w.yaml", secret)
	w.git("add", "w.yaml")
	w.want("in another working tree", check.Options{Staged: true}, "w.yaml:4 kubernetes-secret\n")
}

func TestHistory(t *testing.T) {
	r := newRepo(t)
	r.git("init", "-q", "-b", "main")
	r.write("a.yaml", "a: b\n")
	r.commit()
	r.write("s.yaml", secret)
	r.write("k/kustomization.yaml", "secretGenerator:\n- name: a\n  files: [t.txt]\n")
	r.write("k/t.txt", "hunter3")
	second := r.commit()
	r.git("mv", "s.yaml", "moved.yaml")
	r.git("rm", "-rq", "k")
	r.commit()
	r.git("checkout", "-q", "-b", "side", "HEAD~2")
	r.write("side.yaml", strings.ReplaceAll(secret, "hunter2", "other"))
	third := r.commit()
	r.git("tag", "-a", "v1", "-m", "x")
	r.git("checkout", "-q", "main")
	r.git("branch", "-q", "-D", "side")
	r.git("rm", "-q", "moved.yaml")
	r.commit()
	want := third[:12] + " side.yaml:4 kubernetes-secret\n" + second[:12] + " k/t.txt:1 kustomize-file\n" + second[:12] + " s.yaml:4 kubernetes-secret\n"
	want = sorted(want)
	_, got := r.run(check.Options{History: true})
	if diff := cmp.Diff(want, sorted(got)); diff != "" {
		t.Errorf("each content once, by its first commit and path (-want +got):\n%s", diff)
	}
	r.want("nothing of it is in the directory", check.Options{}, "")
	r.git("gc", "-q", "--prune=now")
	if _, got = r.run(check.Options{History: true}); sorted(got) != want {
		t.Errorf("the same from a pack: %s", got)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	r.git("clone", "-q", "--depth", "1", "file://"+r.dir, clone)
	if _, err := (&check.Engine{Secrets: r.scanner}).Run(t.Context(), check.Options{Dir: clone, History: true, Now: now}); err == nil || !strings.Contains(err.Error(), "shallow") {
		t.Errorf("of a shallow clone nothing can be told: %v", err)
	}
	if _, err := (&check.Engine{Secrets: r.scanner}).Run(t.Context(), check.Options{Dir: t.TempDir(), History: true, Now: now}); err == nil {
		t.Error("there is no history where there is no Git")
	}
}

func sorted(lines string) string {
	all := strings.Split(strings.TrimSpace(lines), "\n")
	for i := range all {
		for k := i + 1; k < len(all); k++ {
			if all[k] < all[i] {
				all[i], all[k] = all[k], all[i]
			}
		}
	}
	return strings.Join(all, "\n")
}

func TestForms(t *testing.T) {
	r := newRepo(t)
	r.write("a b.yaml", secret)
	report, _ := r.run(check.Options{})
	var out bytes.Buffer
	if err := report.Write(&out, check.SARIF, "v1", nil); err != nil {
		t.Fatal(err)
	}
	var sarif struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID    string
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine, StartColumn int }
					}
				}
				PartialFingerprints map[string]string
			}
		}
	}
	if err := json.Unmarshal(out.Bytes(), &sarif); err != nil {
		t.Fatal(err)
	}
	run := sarif.Runs[0]
	at := run.Results[0].Locations[0].PhysicalLocation
	if sarif.Version != "2.1.0" || run.Tool.Driver.Rules[0].ID != leak.RuleSecret || run.Results[0].RuleID != leak.RuleSecret ||
		at.ArtifactLocation.URI != "a%20b.yaml" || at.Region.StartLine != 4 || at.Region.StartColumn != 3 || run.Results[0].PartialFingerprints["holdfast/v1"] == "" {
		t.Errorf("SARIF: %s", out.String())
	}
	var again bytes.Buffer
	if err := report.Write(&again, check.JSON, "", nil); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{out.String(), again.String(), report.Findings[0].String()} {
		if strings.Contains(text, "hunter") {
			t.Errorf("a value is told: %s", text)
		}
	}
	if !strings.Contains(again.String(), `"line": 4`) || !strings.Contains(again.String(), `"files": 1`) {
		t.Errorf("JSON: %s", again.String())
	}
	out.Reset()
	if err := (check.Report{Findings: []check.Finding{}}).Write(&out, check.SARIF, "", nil); err != nil || !strings.Contains(out.String(), `"results": []`) {
		t.Errorf("%v: code hosts want an empty list: %s", err, out.String())
	}
}
