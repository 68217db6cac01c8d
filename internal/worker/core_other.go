//go:build !linux

package worker

import "syscall"

// NoCores has the kernel write no image of this process's memory, which may hold
// secrets, when it dies. It is for processes that open secrets, and what they start
// inherits it. Errors are those of the system.
func NoCores() error {
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
