//go:build !linux || (!amd64 && !arm64)

package worker

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// Cage says what a worker on this system will be shut in by.
func Cage() string {
	return "its own process without environment, limits for memory, stack and time; " +
		"this system offers no seccomp and no Landlock, so that files and network are not cut off"
}

// enter watches the memory of this process: there is nothing else to shut it in by.
func enter(memory int64) (string, error) {
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			if heldMemory() > memory+memory/4 {
				fmt.Fprintln(os.Stderr, "fatal error: out of memory")
				os.Exit(2)
			}
		}
	}()
	return Cage(), nil
}

// sysProcAttr keeps the terminal's Ctrl-C from a worker: the parent decides.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
