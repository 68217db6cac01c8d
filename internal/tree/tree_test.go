package tree

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// linked builds a tree from files; a value that begins with "-> " is a symlink.
func linked(t testing.TB, files map[string]string) Tree {
	t.Helper()
	m := fstest.MapFS{}
	for name, content := range files {
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			m[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
			continue
		}
		m[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	tr, err := FromFS(m, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestFromFS(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", "a: 1\n", 0o644)
	write("bin/run", "#!/bin/sh\n", 0o755)
	write(".git/config", "[core]\n", 0o644)
	write("sub/.git", "gitdir: elsewhere\n", 0o644)
	write("sub/large", strings.Repeat("x", 100), 0o644)
	if err := errors.Join(os.Symlink("a.yaml", filepath.Join(dir, "link")), os.Mkdir(filepath.Join(dir, "empty"), 0o755)); err != nil {
		t.Fatal(err)
	}
	tr, err := FromFS(os.DirFS(dir), Limits{FileBytes: 50})
	if err != nil {
		t.Fatal(err)
	}
	got, err := tr.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{Name: "a.yaml", Kind: File, Digest: BlobDigest([]byte("a: 1\n"))},
		{Name: "bin", Kind: Dir},
		{Name: "link", Kind: Symlink, Digest: BlobDigest([]byte("a.yaml"))},
		{Name: "sub", Kind: Dir},
	}
	for i := range got {
		if got[i].Kind == Dir {
			got[i].Digest = ""
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("root (-want +got):\n%s", diff)
	}
	if e, err := tr.Stat("bin/run"); err != nil || e.Kind != Executable {
		t.Errorf("bin/run is %v, %v", e.Kind, err)
	}
	if e, err := tr.Stat("sub/large"); err != nil || e.Digest != BlobDigest([]byte(strings.Repeat("x", 100))) {
		t.Errorf("a large file has digest %s, %v", e.Digest, err)
	}
	if _, err := tr.ReadFile("sub/large", 1000); fault.KindOf(err) != fault.Limit {
		t.Errorf("a file over the limit: %v", err)
	}
	if _, err := tr.ReadFile("a.yaml", 4); fault.KindOf(err) != fault.Limit {
		t.Errorf("a file over the caller's limit: %v", err)
	}
	if b, err := tr.ReadFile("a.yaml", 5); err != nil || string(b) != "a: 1\n" {
		t.Errorf("a.yaml is %q, %v", b, err)
	}
}

// TestDigestsOfGit compares with what git wrote for the same content.
func TestDigestsOfGit(t *testing.T) {
	empty, err := FromFS(fstest.MapFS{}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := empty.Stat("")
	if err != nil || root.Digest.String() != "4b825dc642cb6eb9a060e54bf8d69288fbee4904" {
		t.Errorf("the empty tree is %s, %v", root.Digest, err)
	}
	if d := BlobDigest(nil).String(); d != "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391" {
		t.Errorf("the empty file is %s", d)
	}
}

func TestFromFSRefuses(t *testing.T) {
	many := fstest.MapFS{"a": {Data: []byte("12345")}, "b": {Data: []byte("12345")}, "c": {Data: []byte("12345")}}
	tests := []struct {
		reason string
		fsys   fs.FS
		limits Limits
		kind   fault.Kind
	}{
		{"too many files", many, Limits{Count: 2}, fault.Limit},
		{"too many bytes", many, Limits{TotalBytes: 12}, fault.Limit},
		{"a pipe could block for ever", fstest.MapFS{"p": {Mode: fs.ModeNamedPipe}}, Limits{}, fault.Refused},
		{"nothing there", os.DirFS(filepath.Join(t.TempDir(), "none")), Limits{}, fault.NotFound},
		{"links that cannot be read", noLinks{fstest.MapFS{"l": {Mode: fs.ModeSymlink, Data: []byte("x")}}}, Limits{}, fault.Refused},
	}
	for _, test := range tests {
		if _, err := FromFS(test.fsys, test.limits); fault.KindOf(err) != test.kind || err == nil {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}

type noLinks struct{ fs.FS }

func TestViewFollowsSymlinks(t *testing.T) {
	tr := linked(t, map[string]string{
		"apps/web/x.yaml": "x", "base/y.yaml": "y", "file": "f",
		"apps/base":    "-> ../base",       // to a directory beside
		"current":      "-> apps/web",      // down
		"chain":        "-> current",       // over another
		"deep/a/up":    "-> ../../apps/..", // back to the root
		"x":            "-> ./chain/x.yaml",
		"loop":         "-> loop",
		"ping":         "-> pong",
		"pong":         "-> ping",
		"dangling":     "-> base/none",
		"absolute":     "-> /etc/passwd",
		"outside":      "-> ../../etc/passwd",
		"apps/sneaky":  "-> ../base/../../secret",
		"throughfile":  "-> file/x",
		"dotdotinlink": "-> apps/base/../apps/web",
	})
	tests := []struct {
		path, resolved string
		kind           fault.Kind
		text           string
	}{
		{path: "apps/web/x.yaml", resolved: "apps/web/x.yaml"},
		{path: "apps/base/y.yaml", resolved: "base/y.yaml"},
		{path: "current/x.yaml", resolved: "apps/web/x.yaml"},
		{path: "chain/x.yaml", resolved: "apps/web/x.yaml"},
		{path: "x", resolved: "apps/web/x.yaml"},
		{path: "apps/base", resolved: "base"},
		{path: "apps/base/../file", resolved: "file"}, // where the link leads, not where it stands
		{path: "deep/a/up/file", resolved: "file"},
		{path: "deep/a/up", resolved: ""},
		{path: "dotdotinlink", resolved: "apps/web"},
		{path: "./apps//web/../web/./x.yaml", resolved: "apps/web/x.yaml"},
		{path: "apps/..", resolved: ""},
		{path: "", resolved: ""},
		{path: ".", resolved: ""},
		{path: "loop", kind: fault.Limit, text: "symlinks"},
		{path: "ping/x", kind: fault.Limit, text: "symlinks"},
		{path: "dangling", kind: fault.NotFound, text: "base/none: no such file or directory in the source (the symlink dangling points there)"},
		{path: "absolute", kind: fault.Refused, text: `absolute: the symlink points to "/etc/passwd", outside of the source`},
		{path: "outside", kind: fault.Refused, text: `outside: the symlink points to "../../etc/passwd"`},
		{path: "apps/sneaky/x", kind: fault.Refused, text: `apps/sneaky: the symlink points to "../base/../../secret"`},
		{path: "../x", kind: fault.Refused, text: `the path "../x" leaves the source`},
		{path: "apps/../../x", kind: fault.Refused, text: "leaves the source"},
		{path: "/etc/passwd", kind: fault.Refused, text: "not relative"},
		{path: "a\x00b", kind: fault.Refused, text: "not relative"},
		{path: "file/", kind: fault.NotFound},
		{path: "file/..", kind: fault.NotFound},
		{path: "throughfile", kind: fault.NotFound},
		{path: "none/../file", kind: fault.NotFound},
	}
	for _, test := range tests {
		v := NewView(tr, Limits{})
		resolved, _, err := v.Resolve(test.path)
		if test.kind != 0 {
			if fault.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%q: %v, want %v with %q", test.path, err, test.kind, test.text)
			}
			if (test.kind == fault.NotFound) != errors.Is(err, ErrNotExist) {
				t.Errorf("%q: errors.Is(ErrNotExist) is wrong for %v", test.path, err)
			}
		} else if err != nil || resolved != test.resolved {
			t.Errorf("%q leads to %q (%v), want %q", test.path, resolved, err, test.resolved)
		}
		if !v.Trace().Holds(tr) {
			t.Errorf("%q: the trace does not hold on the tree it came from: %v", test.path, v.Trace())
		}
	}
}

func TestViewWrongKinds(t *testing.T) {
	v := NewView(linked(t, map[string]string{"dir/file": "f"}), Limits{})
	if _, err := v.ReadFile("dir"); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "dir: this is a directory, not a file") {
		t.Errorf("ReadFile(dir): %v", err)
	}
	if _, err := v.ReadDir("dir/file"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("ReadDir(file): %v", err)
	}
	for _, e := range []func() (Entry, error){func() (Entry, error) { return v.Stat("dir/file") }, func() (Entry, error) {
		es, err := v.ReadDir("dir")
		return es[0], err
	}} {
		if got, err := e(); err != nil || got != (Entry{Name: "file", Kind: File}) {
			t.Errorf("entry is %+v (%v): a view must not tell digests of what was not read", got, err)
		}
	}
}

func TestViewLimits(t *testing.T) {
	tr := linked(t, map[string]string{"a": "12345", "b": "12345", "l1": "-> l2", "l2": "-> l3", "l3": "-> a"})
	tests := []struct {
		reason string
		limits Limits
		do     func(v *View) error
	}{
		{"one file too large", Limits{FileBytes: 4}, func(v *View) error { _, err := v.ReadFile("a"); return err }},
		{"all files too large", Limits{TotalBytes: 9}, func(v *View) error {
			_, err := v.ReadFile("a")
			_, err2 := v.ReadFile("b")
			return errors.Join(err, err2)
		}},
		{"too many questions", Limits{Count: 2}, func(v *View) error {
			_, err := v.Stat("a")
			_, err2 := v.Stat("a")
			_, err3 := v.Stat("a")
			return errors.Join(err, err2, err3)
		}},
		{"too many hops", Limits{Hops: 2}, func(v *View) error { _, err := v.Stat("l1"); return err }},
	}
	for _, test := range tests {
		if err := test.do(NewView(tr, test.limits)); fault.KindOf(err) != fault.Limit {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}

// TestTraceHolds changes a tree under a trace, one thing at a time.
func TestTraceHolds(t *testing.T) {
	before := map[string]string{
		"apps/kustomization.yaml": "k", "apps/a.yaml": "a", "apps/sub/deep.yaml": "d", "base/b.yaml": "b",
		"apps/base": "-> ../base", "unrelated/x": "x", "apps/run": "r", "file": "f",
	}
	v := NewView(linked(t, before), Limits{})
	ask := func(err error) {
		if err != nil && !errors.Is(err, ErrNotExist) && fault.KindOf(err) != fault.Invalid {
			t.Fatal(err)
		}
	}
	_, err := v.ReadFile("apps/kustomization.yaml")
	ask(err)
	_, err = v.ReadFile("apps/base/b.yaml")
	ask(err)
	_, err = v.ReadDir("apps")
	ask(err)
	_, err = v.Stat("apps/sub")
	ask(err)
	_, err = v.ReadFile("overlays/prod/values.yaml") // optional, and absent
	ask(err)
	_, err = v.ReadFile("file/x") // absent, because file is a file
	ask(err)
	trace := v.Trace()

	tests := []struct {
		reason string
		change map[string]string // "" deletes
		holds  bool
	}{
		{"nothing changed", nil, true},
		{"a file that was not read", map[string]string{"unrelated/x": "other", "unrelated/new": "n"}, true},
		{"the content of a file that was only listed", map[string]string{"apps/a.yaml": "other"}, true},
		{"what is in a directory whose kind was asked", map[string]string{"apps/sub/deep.yaml": "other", "apps/sub/new": "n"}, true},
		{"something near what was absent", map[string]string{"overlay": "x"}, true},
		{"a file that was read", map[string]string{"apps/kustomization.yaml": "other"}, false},
		{"a file read through a link", map[string]string{"base/b.yaml": "other"}, false},
		{"the link itself", map[string]string{"apps/base": "-> ../unrelated"}, false},
		{"the link becomes a file of the same bytes", map[string]string{"apps/base": "../base"}, false},
		{"a file read becomes a link", map[string]string{"apps/kustomization.yaml": "-> a.yaml"}, false},
		{"a new name in a listing", map[string]string{"apps/new": "n"}, false},
		{"a name gone from a listing", map[string]string{"apps/a.yaml": ""}, false},
		{"a listed file becomes a link", map[string]string{"apps/a.yaml": "-> run"}, false},
		{"what was absent appears", map[string]string{"overlays/prod/values.yaml": "v"}, false},
		{"what was absent appears through a link", map[string]string{"overlays": "-> unrelated", "unrelated/prod/values.yaml": "v"}, false},
		{"the parent of what was absent appears as a link", map[string]string{"overlays": "-> nowhere"}, false},
		{"a file in the way becomes a directory", map[string]string{"file": "", "file/x": "x"}, false},
		{"a file in the way becomes a link", map[string]string{"file": "-> unrelated"}, false},
		{"a directory becomes a file", map[string]string{"apps/sub/deep.yaml": "", "apps/sub": "s"}, false},
	}
	for _, test := range tests {
		after := map[string]string{}
		maps.Copy(after, before)
		for name, content := range test.change {
			if after[name] = content; content == "" {
				delete(after, name)
			}
		}
		if got := trace.Holds(linked(t, after)); got != test.holds {
			t.Errorf("%s: Holds is %v, want %v", test.reason, got, test.holds)
		}
	}
}

func TestTraceIsASet(t *testing.T) {
	tr := linked(t, map[string]string{"a": "1", "b": "2"})
	one, two := NewView(tr, Limits{}), NewView(tr, Limits{})
	for _, name := range []string{"a", "b", "a", "none"} {
		_, _ = one.ReadFile(name)
	}
	for _, name := range []string{"none", "b", "./a"} {
		_, _ = two.ReadFile(name)
	}
	want := Trace{{OpFile, "a", BlobDigest([]byte("1"))}, {OpFile, "b", BlobDigest([]byte("2"))}, {OpAbsent, "none", ""}}
	if diff := cmp.Diff(want, one.Trace()); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
	if one.Trace().Digest() != two.Trace().Digest() {
		t.Error("the same questions in another order give another digest")
	}
	_, _ = two.Stat("a")
	if one.Trace().Digest() == two.Trace().Digest() {
		t.Error("one more question gives the same digest")
	}
}

func TestListingDigest(t *testing.T) {
	a := []Entry{{Name: "a", Kind: File, Digest: "1"}, {Name: "b", Kind: Dir, Digest: "2"}}
	tests := []struct {
		reason string
		other  []Entry
		same   bool
	}{
		{"other contents", []Entry{{Name: "a", Kind: File, Digest: "x"}, {Name: "b", Kind: Dir}}, true},
		{"another kind", []Entry{{Name: "a", Kind: Symlink}, {Name: "b", Kind: Dir}}, false},
		{"another name", []Entry{{Name: "a", Kind: File}, {Name: "c", Kind: Dir}}, false},
		{"one less", a[:1], false},
	}
	for _, test := range tests {
		if (ListingDigest(a) == ListingDigest(test.other)) != test.same {
			t.Errorf("%s: same digest is not %v", test.reason, test.same)
		}
	}
}

// FuzzView asks for any path through any symlink. Whatever comes, a view stays
// inside the tree, and its trace holds on the tree it came from.
func FuzzView(f *testing.F) {
	for _, seed := range [][3]string{{"a/l/x", "../b", ".."}, {"l/../../x", "a/..", "m"}, {"m/m", "l", "/"}, {"a//./l", "", "."}} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, asked, link, other string) {
		tr := linkTree(link, other)
		v := NewView(tr, Limits{})
		resolved, e, err := v.Resolve(asked)
		if err == nil {
			literal, err := tr.Stat(resolved)
			if err != nil || literal.Kind != e.Kind || e.Kind == Symlink {
				t.Errorf("%q leads to %q, which is %v (%v), not %v", asked, resolved, literal.Kind, err, e.Kind)
			}
			if !fs.ValidPath(resolved) && resolved != "" {
				t.Errorf("%q leads to %q", asked, resolved)
			}
		} else if k := fault.KindOf(err); k != fault.NotFound && k != fault.Refused && k != fault.Limit {
			t.Errorf("%q: %v", asked, err)
		}
		if !v.Trace().Holds(tr) {
			t.Errorf("%q: the trace %v does not hold on its own tree", asked, v.Trace())
		}
	})
}

func linkTree(link, other string) Tree {
	l := newLoader(nil, Limits{})
	for name, content := range map[string]string{"a/b/x": "x", "b/x": "y", "x": "z"} {
		l.add(name, File, BlobDigest([]byte(content)), []byte(content))
	}
	for name, target := range map[string]string{"a/l": link, "l": link, "m": other, "a/b/m": other} {
		l.add(name, Symlink, BlobDigest([]byte(target)), []byte(target))
	}
	return l.tree()
}
