package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// testKey is one key for all tests.
var testKey = sync.OnceValue(func() Key {
	text, err := NewKey(rand.Reader, "test.example/log")
	if err == nil {
		var k Key
		if k, err = ParseKey(text); err == nil {
			return k
		}
	}
	panic(err)
})

func options(dir string) Options {
	return Options{
		Dir: dir, Signer: testKey().Signer, Verifier: testKey().Verifier,
		BatchAge: time.Millisecond, SignEvery: 100 * time.Millisecond, Gather: 20 * time.Millisecond,
	}
}

func open(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(t.Context(), options(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // a second Close does nothing
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, l *Log, e Entry, r *Record) uint64 {
	t.Helper()
	i, err := l.Append(t.Context(), e, r)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func verify(t testing.TB, dir string, against []byte) Verified {
	t.Helper()
	v, err := Verify(t.Context(), Dir(dir), VerifyOptions{Verifier: testKey().Verifier, Against: against})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func objects(names ...string) *Record {
	r := &Record{}
	for _, n := range names {
		r.Objects = append(r.Objects, Change{Object: "apps/v1/Deployment/web/" + n, Operation: "update"})
	}
	return r
}

// sync writes an intent and its outcome.
func syncOf(t testing.TB, l *Log, delivery, commit, result string, r *Record) (intent, outcome uint64) {
	t.Helper()
	src := &Source{URL: "https://git.example/fleet", Commit: commit}
	intent = add(t, l, Entry{Action: Sync, Delivery: delivery, UID: "u1", Source: src}, r)
	return intent, add(t, l, Entry{Action: Outcome, Delivery: delivery, Of: &intent, Source: src, Result: result}, objects("a"))
}

func TestAppendAndReopen(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var want []Entry
	for i := range 600 {
		e := Entry{Time: time.Unix(int64(i), 0).UTC(), Action: Suspend, Delivery: fmt.Sprintf("Kustomization/web/d%d", i)}
		want = append(want, e)
		if i < 5 || i > 590 {
			if got := add(t, l, e, nil); got != uint64(i) {
				t.Fatalf("entry %d came to index %d", i, got)
			}
			continue
		}
		l.Later(e, nil)
		if i == 590 { // what follows waits for what was given to Later
			for l.Size() < 591 {
				runtime.Gosched()
			}
		}
	}
	closeLog(t, l)
	if _, err := l.Append(t.Context(), Entry{Action: Sync}, nil); fault.KindOf(err) != fault.Waiting {
		t.Errorf("a closed log takes nothing: %v", err)
	}
	if v := verify(t, dir, nil); v.Size != 600 || v.Unsigned != 0 || len(v.Strange) != 0 {
		t.Errorf("after an orderly end all is signed and nothing is strange: %+v", v)
	}

	l = open(t, dir)
	if l.Size() != 600 {
		t.Fatalf("%d entries after opening", l.Size())
	}
	for i, w := range want {
		got, err := l.Entry(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Fatalf("entry %d: %s", i, diff)
		}
	}
	if _, err := l.Entry(600); fault.KindOf(err) != fault.NotFound {
		t.Errorf("there is no entry 600: %v", err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, options(dir)); fault.KindOf(err) != fault.Waiting {
		t.Errorf("a second process must not open the log: %v", err)
	}
	done := make(chan error)
	go func() {
		second, err := Open(context.Background(), options(dir))
		if err == nil {
			err = second.Close()
		}
		done <- err
	}()
	closeLog(t, l)
	if err := <-done; err != nil {
		t.Errorf("it waits, and opens it then: %v", err)
	}
}

func TestLast(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	images := &Record{Images: []trust.Image{{Name: "web:1", Digest: "sha256:aa"}, {Name: "unresolved"}}}
	const d = "Kustomization/web/shop"
	if _, ok, err := l.Last(d); ok || err != nil {
		t.Error("never delivered")
	}
	_, o1 := syncOf(t, l, d, "c1", ResultDelivered, images)
	syncOf(t, l, d, "c2", ResultFailed, nil)
	syncOf(t, l, d, "c3", ResultPartial, nil)

	check := func(l *Log, want Delivered) {
		t.Helper()
		got, ok, _ := l.Last(d)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("%v %s", ok, diff)
		}
	}
	want := Delivered{Index: o1, UID: "u1", Source: Source{URL: "https://git.example/fleet", Commit: "c1"}, Pins: map[string]string{"web:1": "sha256:aa"}}
	check(l, want)

	src := Source{URL: "https://git.example/fleet", Commit: "c4"}
	for _, name := range []string{d, "Kustomization/web/other", d} {
		l.Untouched(src, []Person{{Role: "author", Name: "a"}}, name)
	}
	if got, _, _ := l.Last(d); got.Source != src {
		t.Errorf("an untouched commit counts at once: %+v", got)
	}
	closeLog(t, l)

	l = open(t, dir)
	want.Index, want.Source = o1+5, src
	check(l, want)
	e, err := l.Entry(want.Index)
	if err != nil || len(e.Deliveries) != 2 || e.Who[0].Name != "a" {
		t.Errorf("one entry for both: %+v %v", e, err)
	}
	if got, ok, _ := l.Last("Kustomization/web/other"); !ok || got.Source != src || got.Index != want.Index {
		t.Errorf("what was as desired when it was first seen is known by its commit: %+v", got)
	}

	i := add(t, l, Entry{Action: Retract, Delivery: d}, nil)
	add(t, l, Entry{Action: Outcome, Of: &i, Delivery: d, Result: ResultDelivered}, nil)
	if _, ok, err := l.Last(d); ok || err != nil {
		t.Error("nothing is delivered of what was retracted")
	}
}

func TestUntouchedIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	const n = 700
	name := func(i int) string { return fmt.Sprintf("Kustomization/%s/%d", strings.Repeat("n", 100), i) }
	for i := range n {
		l.Untouched(Source{URL: "u", Commit: "c"}, nil, name(i))
	}
	closeLog(t, l)
	l = open(t, dir)
	var all []string
	for i := range l.Size() {
		e, err := l.Entry(i)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Deliveries...)
	}
	if len(all) != n || l.Size() < 2 || l.Size() > 5 {
		t.Errorf("%d deliveries in %d entries", len(all), l.Size())
	}
	for i := range n {
		if !slices.Contains(all, name(i)) {
			t.Errorf("%s is missing", name(i))
		}
	}
}

func TestInterruptedIntentsAreClosed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	const d = "Application/argocd/shop"
	done, _ := syncOf(t, l, d, "c1", ResultDelivered, nil)
	src := &Source{URL: "u", Commit: "c2"}
	cut := add(t, l, Entry{Action: Sync, Delivery: d, UID: "u2", Source: src}, objects("a"))
	closeLog(t, l) // orderly, but the outcome was never told

	l = open(t, dir)
	if l.Size() != 4 {
		t.Fatalf("one outcome is added: %d entries", l.Size())
	}
	got, err := l.Entry(3)
	if err != nil {
		t.Fatal(err)
	}
	got.Time = time.Time{}
	want := Entry{Action: Outcome, Of: &cut, Delivery: d, UID: "u2", Source: src, Result: ResultInterrupted, Reason: got.Reason}
	if diff := cmp.Diff(want, got); diff != "" || got.Reason == "" {
		t.Error(diff)
	}
	if last, ok, _ := l.Last(d); !ok || last.Source.Commit != "c1" {
		t.Errorf("what was interrupted was not delivered: %+v (outcome of %d)", last, done)
	}
	closeLog(t, l)
	if l = open(t, dir); l.Size() != 4 {
		t.Errorf("it is closed once: %d entries", l.Size())
	}
}

func TestAbout(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	const d = "Kustomization/web/shop"
	i1, o1 := syncOf(t, l, d, "c1", ResultDelivered, objects("a", "b"))
	syncOf(t, l, d, "c2", ResultDelivered, objects("b"))
	drift := add(t, l, Entry{Action: Drift, Delivery: d}, &Record{Objects: []Change{{Object: "apps/v1beta1/Deployment/web/a", By: "kubectl"}}})
	for range 2 {
		found, err := l.About("apps/v2/Deployment/web/a", 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, f := range found {
			got = append(got, f.Index)
		}
		// The outcome of the second sync names a, although its intent does not.
		if diff := cmp.Diff([]uint64{drift, o1 + 1, i1}, got); diff != "" {
			t.Fatal(diff)
		}
		if f := found[2]; f.OutcomeIndex != o1 || f.Outcome == nil || f.Outcome.Result != ResultDelivered || f.Change.Operation != "update" || f.Result == nil {
			t.Errorf("%+v", f)
		}
		if f := found[0]; f.Change.By != "kubectl" || f.Outcome != nil {
			t.Errorf("%+v", f)
		}
		if found, err = l.About("apps/v1/Deployment/web/b", 1); err != nil || len(found) != 1 || found[0].Index != o1+1 {
			t.Errorf("the newest one: %+v %v", found, err)
		}
		if found, err = l.About("v1/Pod/web/a", 5); err != nil || len(found) != 0 {
			t.Errorf("nothing is known of it: %+v %v", found, err)
		}
		if found, err = l.Concerning(d, 0); err != nil || len(found) != 3 {
			t.Errorf("all entries of the delivery: %+v %v", found, err)
		}
		closeLog(t, l)
		l = open(t, dir)
	}
}

func TestBigEntries(t *testing.T) {
	l := open(t, t.TempDir())
	e := Entry{Action: Refuse, Reason: strings.Repeat("r", 100_000)}
	for i := range 300 {
		e.Verdicts = append(e.Verdicts, Verdict{Rule: "r", Message: strings.Repeat("m", 300), Object: fmt.Sprint(i)})
	}
	i := add(t, l, e, nil)
	got, err := l.Entry(i)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Verdicts) != firstFew || len(got.Reason) > maxReason+3 {
		t.Errorf("%d verdicts, a reason of %d bytes", len(got.Verdicts), len(got.Reason))
	}
	if r, err := l.Record(got); err != nil || len(r.Verdicts) != 300 {
		t.Errorf("the record has them all: %v", err)
	}
	e = Entry{Action: Untouched, Deliveries: []string{strings.Repeat("d", maxEntry)}}
	if _, err := l.Append(t.Context(), e, nil); fault.KindOf(err) != fault.Limit {
		t.Errorf("what cannot be made smaller is refused: %v", err)
	}
}

// A stranger must not get out of the log by what is too long for it.
func TestStrangersTextsAreBounded(t *testing.T) {
	l := open(t, t.TempDir())
	long := strings.Repeat("<", 12_000) // six bytes each, in JSON: one of them is more than an entry may have
	e := Entry{
		Action: Refuse, Delivery: "Kustomization/a/b", Reason: long,
		Who:    []Person{{Role: RoleAuthor, Name: long}, {Role: RoleSigner, Name: long, By: long}},
		Source: &Source{URL: "https://git.example/fleet", Ref: long, Commit: "c1"},
	}
	for range firstFew + 5 {
		e.Verdicts = append(e.Verdicts, Verdict{Rule: "trust/p/images/name", Outcome: "fail", Object: long, Message: long})
		e.Commits = append(e.Commits, trust.Commit{ID: "c1", Author: long, Problem: long})
	}
	got, err := l.Entry(add(t, l, e, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got.Delivery != e.Delivery || got.Source.Commit != "c1" || !strings.HasPrefix(got.Reason, "<<<") || len(got.Verdicts) == 0 || len(got.Commits) == 0 {
		t.Errorf("it says too little: %+v", got)
	}
	if e.Who[0].Name != long || e.Source.Ref != long {
		t.Error("the caller's entry was changed")
	}
}

func TestRecordsAreShared(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := l.Append(context.Background(), Entry{Action: Sync}, objects("same")); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	closeLog(t, l)
	files, err := filepath.Glob(filepath.Join(dir, "records", "*", "*"))
	if err != nil || len(files) != 1 {
		t.Errorf("one file for equal records: %v %v", files, err)
	}
}

func TestDiskFails(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("root writes anywhere: a directory takes the place of a file instead")
	}
	dir := t.TempDir()
	l := open(t, dir)
	add(t, l, Entry{Action: Suspend}, nil)
	blocked := filepath.Join(dir, "records")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), Entry{Action: Sync}, objects("a")); fault.KindOf(err) != fault.Internal {
		t.Errorf("what is not recorded is told: %v", err)
	}
	l.Later(Entry{Action: Sync, Delivery: "first"}, objects("a"))
	l.Later(Entry{Action: Sync, Delivery: "second"}, objects("a"))
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	if got := verify(t, dir, nil); got.Size < 2 {
		t.Errorf("%+v", got)
	}
}

func TestOpenRefusesWhatWasChanged(t *testing.T) {
	other := func() Key {
		text, err := NewKey(rand.Reader, "test.example/log")
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}()
	before := t.TempDir()
	l := open(t, before)
	for i := range 10 {
		syncOf(t, l, "Kustomization/a/b", fmt.Sprint(i), ResultDelivered, objects("a"))
	}
	closeLog(t, l)
	for _, tc := range []struct {
		reason string
		change func(dir string) error
		key    *Key
		former bool
		want   string // in the message; "" if it opens
	}{
		{reason: "as it was", change: func(string) error { return nil }},
		{reason: "another key signs now", key: &other, change: func(string) error { return nil }, want: "not signed by"},
		{reason: "another key signs now, and the old one is known", key: &other, former: true, change: func(string) error { return nil }},
		{reason: "the checkpoint is gone", change: func(d string) error { return os.Remove(d + "/checkpoint") }, want: "missing"},
		{reason: "the state is gone", change: func(d string) error { return os.Remove(d + "/.state/treeState") }, want: "missing"},
		{reason: "a tile was changed", change: func(d string) error { return flip(d+"/tile/0/000.p/20", 5) }, want: "hash"},
		{reason: "an entry was changed, and the index with it deleted", want: "hash", change: func(d string) error {
			return errors.Join(flip(d+"/tile/entries/000.p/20", 60), os.RemoveAll(d+"/index"))
		}},
		{reason: "the index is gone", change: func(d string) error { return os.RemoveAll(d + "/index") }},
		{reason: "the index's contents are gone", change: func(d string) error { return os.Truncate(d+"/index/manifest.json", 10) }},
		{reason: "the index is of another log", change: func(d string) error {
			s, err := os.ReadFile(d + "/index/manifest.json")
			if err != nil {
				return err
			}
			at := strings.Index(string(s), `"nodes":["`) + len(`"nodes":["`)
			s[at] ^= 1
			return os.WriteFile(d+"/index/manifest.json", s, 0o600)
		}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.CopyFS(dir, os.DirFS(before)), tc.change(dir)); err != nil {
				t.Fatal(err)
			}
			o := options(dir)
			if tc.key != nil {
				o.Signer, o.Verifier = tc.key.Signer, tc.key.Verifier
			}
			if tc.former {
				o.Former = append(o.Former, testKey().Verifier)
			}
			l, err := Open(t.Context(), o)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if last, ok, _ := l.Last("Kustomization/a/b"); !ok || last.Source.Commit != "9" {
				t.Errorf("%+v", last)
			}
			if found, err := l.About("apps/v1/Deployment/web/a", 0); err != nil || len(found) != 10 {
				t.Errorf("%d found, %v", len(found), err)
			}
		})
	}
}

// What was delivered last is decided by: whoever can write to the volume, but not sign,
// must not tell it.
func TestLastIsNotWhatSomebodyWrote(t *testing.T) {
	const d = "Kustomization/a/b"
	before := t.TempDir()
	l := open(t, before)
	for _, commit := range []string{"c1", "c2", "c3"} {
		syncOf(t, l, d, commit, ResultDelivered, objects("a"))
		syncOf(t, l, "Kustomization/a/other", "e"+commit[1:], ResultDelivered, objects("b"))
	}
	closeLog(t, l)
	replace := func(path, from, to string) func(string) error {
		return func(dir string) error {
			data, err := os.ReadFile(dir + path)
			if err != nil || !strings.Contains(string(data), from) {
				return fmt.Errorf("%s has no %s: %w", path, from, err)
			}
			return os.WriteFile(dir+path, []byte(strings.ReplaceAll(string(data), from, to)), 0o600)
		}
	}
	const entries, manifest = "/tile/entries/000.p/12", "/index/manifest.json"
	for _, tc := range []struct {
		reason string
		change func(dir string) error
		wrong  string // in the error; "" if c3 is told
	}{
		{reason: "as it was", change: func(string) error { return nil }},
		{reason: "an entry tells of another commit", change: replace(entries, `"c3"`, `"c1"`), wrong: "not the one that was written"},
		{reason: "the index leads to an older entry", change: replace(manifest, `"outcome":9,"latest":9`, `"outcome":1,"latest":1`)},
		{reason: "the index leads to another delivery", change: replace(manifest, `"outcome":9,"latest":9`, `"outcome":11,"latest":11`)},
		{reason: "the index has never heard of it", change: replace(manifest, d, "Kustomization/a/x")},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.CopyFS(dir, os.DirFS(before)), tc.change(dir)); err != nil {
				t.Fatal(err)
			}
			l, err := Open(t.Context(), options(dir))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			last, ok, err := l.Last(d)
			switch {
			case tc.wrong != "":
				if ok || err == nil || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("%+v %v", last, err)
				}
			case err != nil || !ok || last.Source.Commit != "c3":
				t.Errorf("%+v %v", last, err)
			}
		})
	}
}

func flip(path string, at int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[at] ^= 1
	return os.WriteFile(path, data, 0o600)
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.key")
	first, err := LoadOrCreateKey(path, "cluster.example/log", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path, "ignored", rand.Reader)
	if err != nil || again.Public != first.Public || again.Signer.Name() != "cluster.example/log" {
		t.Errorf("the key is kept: %v %v", again.Public, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path, "x", rand.Reader); fault.KindOf(err) != fault.Refused {
		t.Errorf("a key that others read is refused: %v", err)
	}
	for _, bad := range []string{"", "PRIVATE+KEY+x", strings.Repeat("x", maxKey+1), first.Public, "PRIVATE+KEY+a+00000000+AA=="} {
		if _, err := ParseKey([]byte(bad)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}
