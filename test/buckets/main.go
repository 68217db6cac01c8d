// Command buckets serves buckets for tests, below a directory: "buckets s3 ADDRESS DIR"
// as S3 does, "buckets gcs ADDRESS DIR" as Google Cloud Storage does. It ends with its
// input. Each directory in DIR/buckets is a bucket. S3 takes the access key "test" with the
// secret "test-secret", and nothing else. Package test/stores drives it.
//
// It is a module of its own because these servers would bring a hundred modules into
// Holdfast's build.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
		stop()
	}()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: buckets s3|gcs ADDRESS DIR")
	}
	switch kind, address, dir := args[0], args[1], args[2]; kind {
	case "s3":
		return s3(ctx, address, dir)
	case "gcs":
		return gcs(ctx, address, dir)
	default:
		return fmt.Errorf("there are no buckets of the kind %q", kind)
	}
}

// s3 keeps objects in files, and what is told about them beside these.
func s3(ctx context.Context, address, dir string) error {
	about, dir := filepath.Join(dir, "about"), filepath.Join(dir, buckets)
	if err := os.MkdirAll(about, 0o700); err != nil {
		return err
	}
	sidecar, err := meta.NewSideCar(about)
	if err != nil {
		return err
	}
	files, err := posix.New(dir, sidecar, posix.PosixOpts{SideCarDir: about, Concurrency: 100})
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(ctx, files, &embedgw.Config{
		RootUserAccess: "test", RootUserSecret: "test-secret", Region: "us-east-1", Ports: []string{address},
		MaxConnections: 1000, MaxRequests: 1000, MultipartMaxParts: 10000, Quiet: true, KeepAlive: true,
	})
}

// buckets is the directory of the buckets.
const buckets = "buckets"

// gcs keeps objects in files below dir.
func gcs(ctx context.Context, address, dir string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	s, err := fakestorage.NewServerWithOptions(fakestorage.Options{
		Scheme: "http", Host: host, Port: uint16(number), StorageRoot: filepath.Join(dir, buckets), PublicHost: address, ExternalURL: "http://" + address,
	})
	if err != nil {
		return err
	}
	defer s.Stop()
	<-ctx.Done()
	return nil
}
