//go:build !unix

package store

import (
	"errors"
	"io"
	"os"
)

var errLocked = errors.New("locked")

// lockFile refuses: without a lock that ends with the process, two processes
// could write one directory.
func lockFile(*os.Root, string) (io.Closer, error) {
	return nil, errors.New("this system has no file locks; the controller runs on Linux and macOS")
}
