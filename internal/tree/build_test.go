package tree

import (
	"archive/tar"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestBuilderRefuses(t *testing.T) {
	tests := []struct {
		reason string
		names  []string // "a -> b" is a symlink
		kind   fault.Kind
		text   string // of the error; "": there is none
	}{
		{"what a tree may hold", []string{"a", "b/c", "./b/d", "b/e -> ../a", "b/f -> c", "g/", "..h"}, 0, ""},
		{"a step up", []string{"../a"}, fault.Refused, "leads out"},
		{"a step up that stays inside is no name of a file", []string{"b/../a"}, fault.Refused, "leads out"},
		{"an absolute name", []string{"/a"}, fault.Refused, "leads out"},
		{"the root", []string{"."}, fault.Refused, "twice"},
		{"no name", []string{""}, fault.Refused, "twice"},
		{"another system's separator", []string{`..\a`}, fault.Refused, "leads out"},
		{"a control character", []string{"a\x1b[2J"}, fault.Refused, "leads out"},
		{"no text", []string{"a\xff"}, fault.Refused, "leads out"},
		{"twice", []string{"a/b", "a//b"}, fault.Refused, "twice"},
		{"a file in place of a directory", []string{"a/b", "a"}, fault.Refused, "twice"},
		{"a directory in place of a file", []string{"a", "a/b"}, fault.Refused, "lies below"},
		{"below a symlink", []string{"b/c", "a -> b", "a/x"}, fault.Refused, "lies below"},
		{"a symlink out of the tree", []string{"a/b -> ../../x"}, fault.Refused, "leads out"},
		{"an absolute symlink", []string{"a -> /etc"}, fault.Refused, "leads out"},
		{"too deep", []string{strings.Repeat("d/", maxDepth) + "a"}, fault.Limit, "deeper"},
		{"too many", strings.Split(strings.Repeat("x", 11), ""), fault.Refused, "twice"},
		{"too many, directories included", []string{"1/a", "2/a", "3/a", "4/a", "5/a", "6/a"}, fault.Limit, "more than 10"},
	}
	for _, tt := range tests {
		b := NewBuilder(Limits{FileBytes: 10, TotalBytes: 20, Count: 10})
		var err error
		for _, name := range tt.names {
			if link, target, ok := strings.Cut(name, " -> "); ok {
				err = b.Symlink(link, target)
			} else {
				err = b.File(name, []byte("x"))
			}
			if err != nil {
				break
			}
		}
		if tt.text == "" && err == nil {
			continue
		}
		if err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v", tt.reason, err)
		}
	}
	b := NewBuilder(Limits{FileBytes: 10, TotalBytes: 15})
	for _, step := range []struct {
		name string
		size int
		ok   bool
	}{{"a", 11, false}, {"b", 10, true}, {"c", 6, false}, {"d", 5, true}, {"e", 1, false}, {"f", 0, true}} {
		if err := b.File(step.name, make([]byte, step.size)); (err == nil) != step.ok || err != nil && fault.KindOf(err) != fault.Limit {
			t.Errorf("%s, of %d bytes: %v", step.name, step.size, err)
		}
	}
}

// TestBuilderIsAsFS compares with the tree of the same files in a file system.
func TestBuilderIsAsFS(t *testing.T) {
	b := NewBuilder(Limits{})
	for _, err := range []error{b.File("z/b", []byte("two")), b.File("a", []byte("one")), b.Symlink("z/link", "../a"), b.File("z/a/empty", nil)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want, err := linked(t, map[string]string{"a": "one", "z/b": "two", "z/link": "-> ../a", "z/a/empty": ""}).Stat("")
	if err != nil {
		t.Fatal(err)
	}
	made := b.Tree()
	if got, err := made.Stat(""); err != nil || got != want {
		t.Errorf("the root is %v, %v, want %v", got, err, want)
	}
	if text, err := made.ReadFile("z/a/empty", 0); err != nil || len(text) > 0 {
		t.Errorf("an empty file is %q, %v", text, err)
	}
}

// archived is a tar of headers, a file's content being its Uname.
func archived(tb testing.TB, headers ...tar.Header) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		content := h.Uname
		h.Uname = ""
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, content); h.Typeflag == tar.TypeReg && err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestTar(t *testing.T) {
	whole := archived(t,
		tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "a commit"}},
		tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "p/", Typeflag: tar.TypeDir}, tar.Header{Name: "p/", Typeflag: tar.TypeDir},
		tar.Header{Name: "p/a.rego", Typeflag: tar.TypeReg, Uname: "package a"}, tar.Header{Name: ".git/config", Typeflag: tar.TypeReg, Uname: "x"},
		tar.Header{Name: "p/link", Typeflag: tar.TypeSymlink, Linkname: "a.rego"})
	b := NewBuilder(Limits{})
	if err := b.Tar(bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	made := b.Tree()
	entries, err := made.ReadDir("p")
	if text, _ := made.ReadFile("p/a.rego", 100); err != nil || len(entries) != 2 || string(text) != "package a" {
		t.Errorf("got %v, %q, %v", entries, text, err)
	}
	if entries, err := made.ReadDir(""); err != nil || len(entries) != 1 {
		t.Errorf("what is Git's own is left out: %v, %v", entries, err)
	}
	huge := archived(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Uname: strings.Repeat("x", 1<<20)})
	tests := []struct {
		reason  string
		archive []byte
		kind    fault.Kind
	}{
		{"a hard link", archived(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}), fault.Refused},
		{"a device", archived(t, tar.Header{Name: "a", Typeflag: tar.TypeBlock}), fault.Refused},
		{"a pipe", archived(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo}), fault.Refused},
		{"a directory that leads out", archived(t, tar.Header{Name: "../a/", Typeflag: tar.TypeDir}), fault.Refused},
		{"a file that is too large", huge, fault.Limit},
		{"an archive that breaks off", whole[:len(whole)/2-100], fault.Invalid},
		{"no archive", bytes.Repeat([]byte("nonsense"), 200), fault.Invalid},
		{"directories without end", slices.Concat(bytes.Repeat(archived(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir})[:blockSize], 200), whole), fault.Limit},
		{"a name without end", archived(t, tar.Header{Name: strings.Repeat("d/", 20_000), Typeflag: tar.TypeDir}), fault.Limit},
	}
	for _, tt := range tests {
		if err := NewBuilder(Limits{FileBytes: 1 << 10, TotalBytes: 4 << 10, Count: 10}).Tar(bytes.NewReader(tt.archive)); err == nil || fault.KindOf(err) != tt.kind {
			t.Errorf("%s: got %v", tt.reason, err)
		}
	}
}

// FuzzTar wants a tree that holds no name out of itself, or a refusal.
func FuzzTar(f *testing.F) {
	f.Add(archived(f, tar.Header{Name: "p/a", Typeflag: tar.TypeReg, Uname: "x"}, tar.Header{Name: "p/b", Typeflag: tar.TypeSymlink, Linkname: "../p/a"}))
	f.Add(archived(f, tar.Header{Name: "../a", Typeflag: tar.TypeReg, Uname: "x"}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		b := NewBuilder(Limits{FileBytes: 1 << 10, TotalBytes: 1 << 12, Count: 20})
		if err := b.Tar(bytes.NewReader(archive)); err != nil {
			return
		}
		made, ok := b.Tree().(*memory)
		if !ok {
			t.Fatal("a tree in memory")
		}
		for name := range made.entries {
			if name != "" && (strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") || strings.Contains(name, "/../")) {
				t.Errorf("the tree holds %q", name)
			}
		}
	})
}
