// Command holdfast holds Kubernetes clusters to what is in Git: the controller, and
// the commands by which people look at what it does, or would do.
package main

import (
	"fmt"
	"os"

	"github.com/holdfastcd/holdfast/internal/cli"
	"github.com/holdfastcd/holdfast/internal/worker"
)

func main() {
	// A worker must be shut in before anything else happens in it.
	worker.RunIfWorker(cli.Handlers())
	if err := worker.NoCores(); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast: warning: this process may leave an image of its memory behind when it dies:", err)
	}
	os.Exit(cli.Run(os.Args[1:], cli.OS()))
}
