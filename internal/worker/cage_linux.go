//go:build linux && (amd64 || arm64)

package worker

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	landlocksys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// slack is what the runtime may use besides a job's memory: stacks of its
// threads and its own tables.
const slack = 64 << 20

// Cage says what a worker on this system will be shut in by.
func Cage() string {
	return "its own process without environment, no_new_privs, a seccomp filter (no sockets, files or programs), " +
		landlockWords() + ", limits for memory, stack, time and open files"
}

func landlockWords() string {
	abi, err := landlocksys.LandlockGetABIVersion()
	if err != nil || abi <= 0 {
		return "no Landlock (this kernel has none)"
	}
	return "Landlock " + strconv.Itoa(abi)
}

// enter shuts this process in, all threads of it and for good, and says by
// what. It needs no privilege. The order matters: each step still needs what
// the next one takes away.
func enter(memory int64) (string, error) {
	words := Cage() // Landlock's version cannot be asked for from inside
	if err := closeInherited(); err != nil {
		return "", err
	}
	if err := landlock.V11.BestEffort().Restrict(); err != nil {
		return "", fmt.Errorf("landlock: %w", err)
	}
	if err := limit(memory); err != nil {
		return "", err
	}
	if err := installFilter(); err != nil {
		return "", fmt.Errorf("seccomp: %w", err)
	}
	return words, nil
}

// closeInherited closes what somebody up the line of processes left open. Our
// own descriptors, and the runtime's, are all marked close-on-exec.
func closeInherited() error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil //nolint:nilerr // no /proc: only what started the parent could have leaked something
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			if err := unix.Close(fd); err != nil {
				return fmt.Errorf("closing descriptor %d: %w", fd, err)
			}
		}
	}
	return nil
}

// limit sets the resource limits. Memory counts from what is mapped already:
// that is ours (and, under the race detector, enormous).
func limit(memory int64) error {
	limits := []struct {
		name     string
		resource int
		value    uint64
	}{
		{"data", unix.RLIMIT_DATA, mappedData() + uint64(memory) + slack},
		{"open files", unix.RLIMIT_NOFILE, 16},
		{"core", unix.RLIMIT_CORE, 0},
		{"file size", unix.RLIMIT_FSIZE, 0},
	}
	for _, l := range limits {
		// Directly: package syscall would restore the limit on open files at exec.
		if err := unix.Prlimit(0, l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}, nil); err != nil {
			return fmt.Errorf("limit of %s: %w", l.name, err)
		}
	}
	return nil
}

// mappedData returns the size of what RLIMIT_DATA counts.
func mappedData() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 256 << 20
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmData:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			return n << 10
		}
	}
	return 256 << 20
}

// allowed are the system calls that a computing Go program (with or without
// the C library) makes, and those that read and write what is already open.
var allowed = append([]uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_CLOSE,
	unix.SYS_BRK, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MREMAP,
	unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETRANDOM, unix.SYS_RESTART_SYSCALL,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}, allowedHere...)

// The offsets of struct seccomp_data. Arguments have 64 bits; on both our
// architectures the low half comes first.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

var (
	allow = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	deny  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	// noSys sends the C library from clone3, whose flags a filter cannot see, to clone.
	noSys = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	kill  = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
)

// filter returns the program: what is not allowed is denied, and a call made
// through another architecture's table, where the numbers mean other things,
// ends the process.
func filter(pid int) []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		kill,
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	for _, nr := range allowed {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: 1}, allow)
	}
	program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE3, SkipTrue: 1}, noSys)
	// A thread is no process.
	program = append(program, when(unix.SYS_CLONE, 0, bpf.JumpBitsSet, unix.CLONE_THREAD)...)
	// The runtime signals its own threads; it signals nobody else's.
	program = append(program, when(unix.SYS_TGKILL, 0, bpf.JumpEqual, uint32(pid))...)
	// Naming its mappings is all that the runtime uses prctl for.
	program = append(program, when(unix.SYS_PRCTL, 0, bpf.JumpEqual, unix.PR_SET_VMA)...)
	// No new code.
	program = append(program, when(unix.SYS_MMAP, 2, bpf.JumpBitsNotSet, unix.PROT_EXEC)...)
	program = append(program, when(unix.SYS_MPROTECT, 2, bpf.JumpBitsNotSet, unix.PROT_EXEC)...)
	return append(program, deny)
}

// when allows a call if its argument meets the condition, and denies it
// otherwise. The call's number is loaded before and, for other calls, after.
func when(nr uint32, arg int, cond bpf.JumpTest, val uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: 4},
		bpf.LoadAbsolute{Off: uint32(offsetArgs + 8*arg), Size: 4},
		bpf.JumpIf{Cond: cond, Val: val, SkipFalse: 1},
		allow,
		deny,
	}
}

// installFilter puts the filter on all threads.
func installFilter() error {
	raw, err := bpf.Assemble(filter(os.Getpid()))
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// The thread that installs the filter must have no_new_privs; TSYNC gives it to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	failed, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))) //nolint:gosec // the kernel wants an address
	runtime.KeepAlive(code)
	if errno != 0 {
		return errno
	}
	if failed != 0 {
		return fmt.Errorf("thread %d could not be brought under the filter", failed)
	}
	return nil
}

// sysProcAttr makes a worker die with the parent and keeps the terminal's
// Ctrl-C from it: the parent decides.
func sysProcAttr() *syscall.SysProcAttr {
	// The signal comes when the *thread* that started the worker ends. Go ends
	// threads only when a goroutine exits locked to one, and none of ours does.
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
