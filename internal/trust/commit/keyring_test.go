package commit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/git"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// keyring is gpg and ssh-keygen with the keys that all tests share.
type keyring struct {
	dir string
	gpg map[string]string // fingerprints, by name
}

var shared *keyring // made by TestMain

// now is when tests verify; keys and commits are from the months before.
var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func day2026(month time.Month, day int) time.Time {
	return time.Date(2026, month, day, 12, 0, 0, 0, time.UTC)
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "signers") // short: gpg has a socket in it
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		shared = &keyring{dir: dir, gpg: map[string]string{}}
		defer exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run()
		if err := shared.makeKeys(); err != nil {
			fmt.Fprintln(os.Stderr, "these tests need git, gpg and ssh-keygen:", err)
			return 1
		}
		return m.Run()
	}())
}

func (s *keyring) run(env []string, stdin string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "GNUPGHOME=" + s.dir, "LC_ALL=C", "TZ=UTC", "GIT_CONFIG_NOSYSTEM=1",
	}, env...)
	cmd.Stdin, cmd.Dir = strings.NewReader(stdin), s.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out), nil
}

// gpgAt runs gpg as if it were another time.
func (s *keyring) gpgAt(at time.Time, stdin string, args ...string) (string, error) {
	return s.run([]string{"AT=" + at.Format("20060102T150405")}, stdin, filepath.Join(s.dir, "gpg"), args...)
}

func (s *keyring) makeKeys() error {
	wrapper := "#!/bin/sh\nexec gpg --quiet --no-tty --pinentry-mode loopback --passphrase '' --faked-system-time \"$AT\" \"$@\"\n"
	if err := os.WriteFile(filepath.Join(s.dir, "gpg"), []byte(wrapper), 0o700); err != nil {
		return err
	}
	for _, k := range []struct{ name, algorithm, expires, hash string }{
		{"alice", "ed25519", "never", "SHA256"},
		{"bob", "rsa2048", "never", "SHA512"},
		{"carol", "ed25519", "30d", "SHA256"},
		{"dave", "ed25519", "never", "SHA256"},
		{"erin", "ed25519", "never", "SHA256"},
		{"frank", "ed25519", "never", "SHA256"},
		{"old", "ed25519", "never", "SHA1"},
		{"weak", "rsa1024", "never", "SHA256"},
		{"stranger", "ed25519", "never", "SHA256"},
		{"webflow", "ed25519", "never", "SHA256"},
	} {
		if _, err := s.gpgAt(day2026(1, 1), "", "--batch", "--cert-digest-algo", k.hash, "--quick-gen-key", k.name+" <"+k.name+"@example.com>", k.algorithm, "sign", k.expires); err != nil {
			return err
		}
		out, err := s.gpgAt(day2026(1, 1), "", "--batch", "--with-colons", "--list-keys", k.name+"@example.com")
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(out, "fpr:::::::::")
		s.gpg[k.name], _, _ = strings.Cut(rest, ":")
	}
	if _, err := s.gpgAt(day2026(1, 2), "", "--batch", "--quick-add-key", s.gpg["erin"], "ed25519", "sign", "60d"); err != nil {
		return err
	}
	for name, reason := range map[string]string{"dave": "3", "frank": "1"} { // no longer used; compromised
		revocation, err := s.gpgAt(day2026(3, 1), "y\n"+reason+"\n\ny\n", "--command-fd", "0", "--armor", "--gen-revoke", s.gpg[name])
		if err != nil {
			return err
		}
		before, err := s.exported(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.dir, name+".asc"), before, 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.dir, name+".rev"), []byte(revocation), 0o600); err != nil {
			return err
		}
	}
	return s.makeSSHKeys()
}

func (s *keyring) makeSSHKeys() error {
	for name, args := range map[string][]string{
		"alice": {"-t", "ed25519"}, "bob": {"-t", "ecdsa"}, "rsa": {"-t", "rsa", "-b", "2048"}, "weak": {"-t", "rsa", "-b", "1024"},
		"stranger": {"-t", "ed25519"}, "ca": {"-t", "ed25519"}, "certified": {"-t", "ed25519"},
	} {
		if _, err := s.run(nil, "", "ssh-keygen", append(args, "-q", "-N", "", "-C", name, "-f", "ssh-"+name)...); err != nil {
			return err
		}
	}
	_, err := s.run(nil, "", "ssh-keygen", "-q", "-s", "ssh-ca", "-I", "id", "-n", "carol@example.com", "-V", "20260101000000Z:20260401000000Z", "ssh-certified.pub")
	return err
}

// exported are the armoured public keys of people.
func (s *keyring) exported(names ...string) ([]byte, error) {
	args := []string{"--batch", "--armor", "--export"}
	for _, n := range names {
		args = append(args, s.gpg[n])
	}
	out, err := s.gpgAt(now, "", args...)
	return []byte(out), err
}

// keys are the public keys of people, revocations and all.
func (s *keyring) keys(t testing.TB, names ...string) []byte {
	t.Helper()
	out, err := s.exported(names...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// revoked is a key with the revocation that was made for it.
func (s *keyring) revoked(t testing.TB, name string) []byte {
	t.Helper()
	home := t.TempDir()
	env := []string{"AT=" + now.Format("20060102T150405"), "GNUPGHOME=" + home}
	gpg := func(args ...string) string {
		out, err := s.run(env, "", filepath.Join(s.dir, "gpg"), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	gpg("--batch", "--import", filepath.Join(s.dir, name+".asc"))
	gpg("--batch", "--import", filepath.Join(s.dir, name+".rev"))
	return []byte(gpg("--batch", "--armor", "--export"))
}

// line is a line of allowed_signers for an SSH key.
func (s *keyring) line(t testing.TB, principals, options, key string) string {
	t.Helper()
	public, err := os.ReadFile(filepath.Join(s.dir, "ssh-"+key+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(principals+" "+options+" "+string(public)), " ") + "\n"
}

// forge is a repository with signed commits, and how they are fetched.
type forge struct {
	t     testing.TB
	repo  *gitserver.Repo
	store *git.Store
	tree  string
}

func newForge(t testing.TB) *forge {
	t.Helper()
	server := gitserver.New(t, gitserver.Options{})
	repo, err := server.Create("fleet")
	if err != nil {
		t.Fatal(err)
	}
	store, err := git.New(t.TempDir(), git.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	f := &forge{t: t, repo: repo, store: store}
	f.tree = f.git(nil, "", "mktree")
	f.git(nil, "", "config", "uploadpack.allowFilter", "true")
	return f
}

func (f *forge) git(env []string, stdin string, args ...string) string {
	f.t.Helper()
	out, err := shared.run(env, stdin, "git", append([]string{"-C", f.repo.Dir()}, args...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSuffix(out, "\n")
}

// made is a commit to make.
type made struct {
	by      string // gpg:alice, ssh:alice; "" for unsigned
	author  string // default: whoever signs
	at      time.Time
	signed  time.Time // what gpg says; default: at
	parents []string
	gpg     []string // more options of gpg
}

func (m made) withDefaults() made {
	if m.at.IsZero() {
		m.at = day2026(2, 1)
	}
	if m.signed.IsZero() {
		m.signed = m.at
	}
	if m.author == "" {
		_, m.author, _ = strings.Cut(m.by, ":")
	}
	if m.author == "" {
		m.author = "alice"
	}
	return m
}

// how returns environment and options for git to sign by somebody's key at some time.
func (m made) how(f *forge) (env, options []string) {
	date := fmt.Sprintf("%d +0000", m.at.Unix())
	env = []string{
		"AT=" + m.signed.Format("20060102T150405"), "GIT_COMMITTER_DATE=" + date, "GIT_AUTHOR_DATE=" + date,
		"GIT_AUTHOR_NAME=" + m.author, "GIT_AUTHOR_EMAIL=" + m.author + "@example.com",
		"GIT_COMMITTER_NAME=" + m.author, "GIT_COMMITTER_EMAIL=" + m.author + "@example.com",
	}
	kind, key, _ := strings.Cut(m.by, ":")
	switch kind {
	case "gpg":
		program := filepath.Join(shared.dir, "gpg")
		if len(m.gpg) > 0 {
			script := "#!/bin/sh\nexec " + program + " " + strings.Join(m.gpg, " ") + " \"$@\"\n"
			program = filepath.Join(f.t.TempDir(), "gpg")
			if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
				f.t.Fatal(err)
			}
		}
		return env, []string{"-c", "gpg.program=" + program, "-c", "user.signingkey=" + shared.gpg[key]}
	case "ssh":
		return env, []string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + filepath.Join(shared.dir, "ssh-"+key)}
	}
	return env, nil
}

// commit makes a commit with git, without moving a branch.
func (f *forge) commit(m made) string {
	f.t.Helper()
	m = m.withDefaults()
	env, options := m.how(f)
	args := slices.Concat(options, []string{"commit-tree", "-m", "change", f.tree})
	for _, p := range m.parents {
		args = append(args, "-p", p)
	}
	if m.by != "" {
		args = append(args, "-S")
	}
	return f.git(env, "", args...)
}

// tag makes an annotated tag with git.
func (f *forge) tag(m made, name, object string) {
	f.t.Helper()
	m = m.withDefaults()
	env, options := m.how(f)
	sign := "-s"
	if m.by == "" {
		sign = "-a"
	}
	f.git(env, "", append(options, "tag", "-f", sign, "-m", "release", name, object)...)
}

// raw stores any bytes as an object of that kind.
func (f *forge) raw(kind, content string) string {
	f.t.Helper()
	return f.git(nil, content, "hash-object", "-t", kind, "-w", "--stdin", "--literally")
}

// content returns the bytes of an object.
func (f *forge) content(kind, id string) string {
	f.t.Helper()
	out, err := shared.run(nil, "", "git", "-C", f.repo.Dir(), "cat-file", kind, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// fetch moves main to a commit and fetches it; or fetches a tag.
func (f *forge) fetch(commit, tag string) source.Revision {
	f.t.Helper()
	ref := source.Ref{Tag: tag}
	if tag == "" {
		if err := f.repo.Set(commit); err != nil {
			f.t.Fatal(err)
		}
	}
	r, err := f.store.Fetch(f.t.Context(), source.Request{URL: f.repo.URL(), Ref: ref})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func newVerifier() *Verifier { return New(Options{Clock: func() time.Time { return now }}) }

// demand is one policy that enforces.
func demand(c trust.Commits) trust.Demands {
	return trust.NewDemands(trust.Policy{Name: "production", Commits: &c})
}
