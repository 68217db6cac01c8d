package process

import "syscall"

// attributes puts the child in a process group of its own, so that Ctrl-C in a terminal reaches only us, and has the kernel
// kill it when we end.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
