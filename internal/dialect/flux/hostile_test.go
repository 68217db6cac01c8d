package flux

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

// endless is a tree in which every directory holds as many more, as a few objects
// of Git make it.
type endless struct{ wide int }

func (e endless) Stat(name string) (tree.Entry, error) {
	if strings.HasSuffix(name, ignoreFile) {
		return tree.Entry{}, tree.NotExist(name)
	}
	return tree.Entry{Name: "d", Kind: tree.Dir}, nil
}

func (e endless) ReadDir(string) ([]tree.Entry, error) {
	list := make([]tree.Entry, e.wide)
	for i := range list {
		list[i] = tree.Entry{Name: fmt.Sprintf("%03d", i), Kind: tree.Dir}
	}
	return list, nil
}

func (endless) ReadFile(name string, _ int64) ([]byte, error) { return nil, tree.NotExist(name) }

// TestEndlessTrees: a tree that is small in Git and has no end is not packed for ever.
func TestEndlessTrees(t *testing.T) {
	for _, wide := range []int{1, 100} {
		_, err := newArtifacts().add(t.Context(), types.NamespacedName{Name: "x"}, edition{revision: source.Revision{Commit: "c", Tree: endless{wide}}})
		if fault.KindOf(err) != fault.Limit {
			t.Errorf("directories of %d: %v, want Limit", wide, err)
		}
	}
}

// TestManyIgnoreFiles: each list of patterns copies those above it.
func TestManyIgnoreFiles(t *testing.T) {
	files := map[string][]byte{}
	for i := range 1100 {
		files[fmt.Sprintf("d%04d/%s", i, ignoreFile)] = []byte("x\n")
		files[fmt.Sprintf("d%04d/a", i)] = nil
	}
	patterns := strings.Repeat("y\n", 990)
	f := Filter(treetest.FromFiles(files), &patterns)
	for i := range 1100 {
		if _, err := f.ReadDir(fmt.Sprintf("d%04d", i)); err != nil {
			if fault.KindOf(err) != fault.Limit {
				t.Errorf("%v, want Limit", err)
			}
			return
		}
	}
	t.Error("a million patterns were taken, and more")
}

// stuck is a reader of an artifact who takes nothing.
type stuck struct {
	*httptest.ResponseRecorder

	begun, end chan struct{}
}

func (s stuck) Write([]byte) (int, error) {
	s.begun <- struct{}{}
	<-s.end
	return 0, io.ErrClosedPipe
}

// TestSlowReaders: whoever may reach the port may read artifacts as slowly as they
// like; sources go on.
func TestSlowReaders(t *testing.T) {
	a := newArtifacts()
	name := types.NamespacedName{Namespace: "apps", Name: "fleet"}
	one := edition{revision: source.Revision{Commit: "one", Tree: treetest.FromFiles(map[string][]byte{"a": []byte("1")})}}
	made, err := a.add(t.Context(), name, one)
	if err != nil {
		t.Fatal(err)
	}
	s := stuck{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
	gone := make(chan struct{})
	for range archivesAtOnce {
		go func() {
			defer func() { _ = recover(); gone <- struct{}{} }()
			a.ServeHTTP(s, httptest.NewRequest(http.MethodGet, "/"+made.path(name), nil))
		}()
		<-s.begun
	}
	two := edition{revision: source.Revision{Commit: "two", Tree: treetest.FromFiles(map[string][]byte{"a": []byte("2")})}}
	if _, err := a.add(t.Context(), name, two); err != nil {
		t.Errorf("beside slow readers: %v", err)
	}
	close(s.end)
	for range archivesAtOnce {
		<-gone
	}
}
