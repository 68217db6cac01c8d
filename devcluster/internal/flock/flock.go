// Package flock is advisory file locks between processes. The kernel lets go of a lock when its holder ends in whatever way, so
// a lock that is held says that its holder is alive.
package flock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrHeld says that another process holds the lock.
var ErrHeld = errors.New("held by another process")

// Lock is a held lock.
type Lock struct {
	file *os.File
}

// Acquire waits until it holds the lock at path, a file that it creates if there is none.
func Acquire(path string) (*Lock, error) {
	return take(path, os.O_CREATE, syscall.LOCK_EX)
}

// Try takes the lock at path, creating the file, or returns ErrHeld at once.
func Try(path string) (*Lock, error) {
	return take(path, os.O_CREATE, syscall.LOCK_EX|syscall.LOCK_NB)
}

// TryExisting is Try for a file that must exist.
func TryExisting(path string) (*Lock, error) {
	return take(path, 0, syscall.LOCK_EX|syscall.LOCK_NB)
}

// Held says whether somebody holds the lock at path. Askers do not get into each other's way.
func Held(path string) bool {
	lock, err := take(path, 0, syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil {
		lock.Release()
	}
	return errors.Is(err, ErrHeld)
}

func take(path string, openFlags, how int) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|openFlags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	for {
		err = syscall.Flock(int(file.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return &Lock{file: file}, nil
	}
	_ = file.Close() // nothing was written
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrHeld
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Release lets go of the lock and leaves its file.
func (l *Lock) Release() {
	_ = l.file.Close() // closing a file that nothing was written to loses nothing, and drops the lock
}
