//go:build !unix

package audit

import (
	"context"
	"errors"
	"io"

	"github.com/transparency-dev/tessera"
)

var errNoLog = errors.New("this system cannot keep an audit log, only read one; the controller runs on Linux and macOS")

func posixDriver(context.Context, string) (tessera.Driver, error) { return nil, errNoLog }

func tryLock(string) (io.Closer, error) { return nil, errNoLog }
