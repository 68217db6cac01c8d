package demo

import (
	"os/exec"
	"syscall"
)

// dieWithUs ends a child when this process dies without a chance to end it.
func dieWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
