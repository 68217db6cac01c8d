package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// clockTick is the unit of /proc/PID/stat, 100 per second on every Linux we know.
const clockTick = 10 * time.Millisecond

// family returns pid and all its living descendants.
func family(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		fields, ok := readStat(path)
		if !ok {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// readStat returns the fields of a stat file from the state on (field 3 of
// proc(5) is index 0): the command name before it may hold anything.
func readStat(path string) ([]string, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return nil, false
	}
	fields := strings.Fields(string(raw[end+1:]))
	return fields, len(fields) > 14
}

// cpuTime is what pid, its living descendants and the reaped ones have used, user and system.
func cpuTime(pid int) time.Duration {
	if pid == 0 { // it has not started
		return 0
	}
	var ticks int64
	for _, member := range family(pid) {
		fields, ok := readStat(fmt.Sprintf("/proc/%d/stat", member))
		if !ok {
			continue
		}
		for _, f := range fields[11:15] { // utime stime cutime cstime
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * clockTick
}

// residentShare is the proportional set size of pid and its descendants, in bytes.
func residentShare(pid int) int64 {
	var total int64
	for _, member := range family(pid) {
		total += pss(member)
	}
	return total
}

func pss(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// peak samples the memory of a process family until it is stopped.
type peak struct {
	mu   sync.Mutex
	most int64
	done chan struct{}
}

func watchPeak(ctx context.Context, pid int) *peak {
	p := &peak{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		tick := time.NewTicker(300 * time.Millisecond) // a sample costs a millisecond or two of the measured machine
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				now := residentShare(pid)
				p.mu.Lock()
				p.most = max(p.most, now)
				p.mu.Unlock()
			}
		}
	}()
	return p
}

func (p *peak) bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}

// ticks are processor time since the machine started, of all processors: all of it,
// and what the host of this machine gave to others while somebody here wanted it.
type ticks struct{ all, stolen uint64 }

// processors reads /proc/stat (proc(5)); zero where there is none.
func processors() ticks {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return ticks{}
	}
	first, _, _ := strings.Cut(string(text), "\n")
	const steal, guest = 7, 8 // of user, nice, system, idle, iowait, irq, softirq; guests count as users
	var t ticks
	for i, field := range strings.Fields(first)[1:] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil || i >= guest {
			break
		}
		t.all += n
		if i == steal {
			t.stolen = n
		}
	}
	return t
}

// since is the share of processor time that was stolen since before.
func (t ticks) since(before ticks) float64 {
	if t.all == before.all {
		return 0
	}
	return float64(t.stolen-before.stolen) / float64(t.all-before.all)
}
