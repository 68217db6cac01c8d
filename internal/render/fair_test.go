package render

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// renders is a renderer made of a function.
type renders func() error

func (r renders) Render(context.Context, Request, tree.Tree) (Result, error) { return Result{}, r() }

// always is one renderer for all scopes.
func always(r Renderer) func(string) Renderer { return func(string) Renderer { return r } }

// TestFair: what takes long moves aside, one at a time, and comes back when it ends well.
func TestFair(t *testing.T) {
	late := fault.New(fault.Limit, "took longer").Because(worker.ErrDeadline)
	var quick, patient int
	var quickErr, patientErr error
	begun, end := make(chan struct{}), make(chan struct{})
	block := false
	f := NewFair(
		renders(func() error { quick++; return quickErr }),
		renders(func() error {
			patient++
			if block {
				begun <- struct{}{}
				<-end
			}
			return patientErr
		}),
	)
	render := func(scope string) error {
		_, err := f.In(scope).Render(t.Context(), Request{}, nil)
		return err
	}
	check := func(reason string, err error, kind fault.Kind, wantQuick, wantPatient int) {
		t.Helper()
		if fault.KindOf(err) != kind && (err != nil || kind != 0) || quick != wantQuick || patient != wantPatient {
			t.Errorf("%s: %v, %d quick and %d patient, want %d and %d", reason, err, quick, patient, wantQuick, wantPatient)
		}
	}
	check("what is quick stays quick", render("a"), 0, 1, 0)

	quickErr, patientErr, block = late, late, true
	done := make(chan error)
	go func() { done <- render("slow") }()
	<-begun
	err := render("slower")
	check("a second one does not queue", err, fault.Waiting, 3, 1)
	if !errors.Is(err, ErrTurn) {
		t.Errorf("the cause is %v", errors.Unwrap(err))
	}
	quickErr = nil
	check("and the others do not notice", render("a"), 0, 4, 1)
	block = false
	close(end)
	check("it ended over its limit", <-done, fault.Limit, 4, 1)

	check("it is known to take long", render("slow"), fault.Limit, 4, 2)
	patientErr = nil
	check("until it ends well", render("slow"), 0, 4, 3)
	check("then it is tried with the others", render("slow"), 0, 5, 3)
}
