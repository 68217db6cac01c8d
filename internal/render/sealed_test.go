package render

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// opening opens files that begin with "sealed:", and counts.
type opening struct{ n int }

func (o *opening) Open(_ context.Context, _ string, content []byte) (secret.Opened, bool, error) {
	rest, ok := bytes.CutPrefix(content, []byte("sealed:"))
	if !ok {
		return secret.Opened{}, false, nil
	}
	o.n++
	return secret.Opened{Content: secret.Hide(rest), Values: []secret.Text{secret.Hide([]byte("hunter2"))}}, true, nil
}

func (*opening) ID() string { return "key" }

// What was opened is rendered as if it had been committed so, and is kept only sealed.
func TestSealedFilesAreCachedSealed(t *testing.T) {
	o := &opening{}
	below := treetest.FromFiles(map[string][]byte{
		"a/x.yaml": []byte("sealed:apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hunter2}\n"),
	})
	opened := func(mask *secret.Mask) tree.Tree { return secret.NewTree(t.Context(), below, o, mask) }
	c := NewCache(always(newRenderer(t, worker.Options{})), 1<<20)
	req := Request{Path: "a", Keys: "key"}
	for i, cached := range []bool{false, true} {
		result, err := c.In("").Render(t.Context(), req, opened(&secret.Mask{}))
		if err != nil {
			t.Fatal(err)
		}
		if result.Cached != cached || result.Objects[0].GetName() != "hunter2" || len(result.Opened) != 1 || string(result.Opened[0].Reveal()) != "hunter2" {
			t.Errorf("%d: cached %v, %s, opened %d", i, result.Cached, result.Objects[0].GetName(), len(result.Opened))
		}
		if !result.Trace.Holds(below) {
			t.Errorf("%d: the trace is not one of what is committed", i)
		}
	}
	if o.n != 1 {
		t.Errorf("it was opened %d times", o.n)
	}
	key, err := c.In("").key(req)
	if err != nil {
		t.Fatal(err)
	}
	e, body := c.lookup(key)
	if bytes.Contains(body, []byte("hunter2")) || bytes.Contains(body, []byte("ConfigMap")) {
		t.Error("what is kept can be read")
	}
	if _, err := NewCache(nil, 1<<20).result(e, body); err == nil {
		t.Error("another process could read what is kept")
	}
	req.Keys = "another key"
	if result, err := c.In("").Render(t.Context(), req, opened(&secret.Mask{})); err != nil || result.Cached {
		t.Errorf("another key may open it otherwise: cached %v, %v", result.Cached, err)
	}
}

// hanging opens with a key service that does not answer.
type hanging struct{}

func (hanging) Open(ctx context.Context, file string, _ []byte) (secret.Opened, bool, error) {
	<-ctx.Done()
	return secret.Opened{}, true, fault.New(fault.Unreachable, "the key service did not answer in time").At(file, 0)
}

func (hanging) ID() string { return "key" }

// A key service that does not answer holds a worker for no longer than a program that
// does not end: those who need one wait for their turn behind it.
func TestKeyServiceHoldsNoWorker(t *testing.T) {
	below := treetest.FromFiles(map[string][]byte{"a/x.yaml": []byte("sealed")})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := newRenderer(t, worker.Options{Size: 1, Deadline: 300 * time.Millisecond})
	_, err := r.Render(ctx, Request{Path: "a", Keys: "key"}, secret.NewTree(ctx, below, hanging{}, &secret.Mask{}))
	if ctx.Err() != nil || !errors.Is(err, worker.ErrDeadline) || fault.KindOf(err) != fault.Unreachable {
		t.Errorf("got %v, %v", err, ctx.Err())
	}
}
