package worker

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func signalParent() error { return syscall.Kill(os.Getppid(), syscall.Signal(0)) }

// children returns the processes started by pid, where /proc tells.
func children(pid int) []int {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, e := range all {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if n, err := strconv.Atoi(e.Name()); err == nil && len(fields) > 1 && fields[1] == fmt.Sprint(pid) {
			found = append(found, n)
		}
	}
	return found
}

// goneSoon polls: nothing tells of the end of somebody else's child.
func goneSoon(p *os.Process) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}
