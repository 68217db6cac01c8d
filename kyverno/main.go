// Command holdfast-kyverno judges by Kyverno's policies, in a worker of Holdfast: it is
// Kyverno's own engine, as a library, behind a pipe.
//
// It is a program and a module of its own because Kyverno's engine asks for a replaced
// module, and a module with a replacement cannot be installed by `go install …@latest`;
// see docs/design/kyverno.md. Nobody runs it by hand.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/worker"
	"github.com/holdfastcd/holdfast/kyverno/internal/engine"
)

// gcPercent lets a job make more garbage than workers do by themselves: most of what
// Kyverno's engine allocates is garbage at once, and the collector would take a quarter of
// the time. The limit of memory stands.
const gcPercent = 100

// handlers are the jobs of a worker: judging.
func handlers() map[string]worker.Handler {
	bench := judge.NewBench([]policy.Engine{engine.New()}, nil, nil)
	return map[string]worker.Handler{judge.Kind: func(payload []byte, files worker.Files) ([]byte, error) {
		debug.SetGCPercent(gcPercent)
		return bench.Handler(payload, files)
	}}
}

func main() {
	worker.RunIfWorker(handlers())
	fmt.Fprintln(os.Stderr, "holdfast-kyverno is the part of Holdfast that judges by policies of Kyverno's.\n"+
		"Holdfast starts it itself: put it beside holdfast, or say where it is with HOLDFAST_KYVERNO.")
	os.Exit(2)
}
