//go:build unix && !linux

package process

import "syscall"

// attributes puts the child in a process group of its own, so that Ctrl-C in a terminal reaches only us. The pipe on its
// standard input is its only tie to us here.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
