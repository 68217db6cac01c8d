package worker

import "golang.org/x/sys/unix"

// NoCores has the kernel write no image of this process's memory, which may hold
// secrets, when it dies, and lets no other process but root's look into it. It is for
// processes that open secrets, and what they start inherits the first. Errors are those
// of the system.
func NoCores() error {
	if err := unix.Prlimit(0, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		return err
	}
	// A limit does not bind a program that the kernel pipes cores to; this does.
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
