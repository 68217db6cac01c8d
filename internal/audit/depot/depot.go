// Package depot opens the store of an audit log by its address, as --audit-store and
// --store name it:
//
//	s3://BUCKET/PREFIX?region=R&endpoint=URL&path-style=true&database=FILE
//	gs://BUCKET/PREFIX?spanner=projects/P/instances/I/databases/D
//
// No credentials are part of it: buckets and Spanner are reached with those that the
// clouds' own tools would find, MySQL with the address in FILE, or in the environment.
package depot

import (
	"context"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/audit/bucket"
	"github.com/holdfastcd/holdfast/internal/audit/bucket/gcs"
	"github.com/holdfastcd/holdfast/internal/audit/bucket/s3"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// DSNVariable is the environment variable that holds MySQL's address where the store
// names no file.
const DSNVariable = "HOLDFAST_AUDIT_DSN"

// maxDSN bounds the file with MySQL's address.
const maxDSN = 8 << 10

var (
	isBucket = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)
	isPrefix = regexp.MustCompile(`^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$`)
)

// address is what the address of a store says.
type address struct {
	scheme, bucket, prefix string
	settings               map[string]string
}

// parse reads the address of a store. Errors are Invalid, and do not repeat what could
// be a password.
func parse(text string) (address, error) {
	u, err := url.Parse(text)
	if err != nil {
		return address{}, bad("it is not an address")
	}
	a := address{u.Scheme, u.Host, strings.Trim(u.Path, "/"), map[string]string{}}
	switch {
	case parameters[a.scheme] == nil:
		return address{}, bad("it begins with neither s3:// nor gs://")
	case u.User != nil:
		return address{}, bad("credentials do not belong into it")
	case !isBucket.MatchString(a.bucket):
		return address{}, bad("%q is no bucket", a.bucket)
	case !isPrefix.MatchString(a.prefix):
		return address{}, bad("%q is no prefix", a.prefix)
	case u.Fragment != "":
		return address{}, bad("it has a fragment")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return address{}, bad("its parameters cannot be read")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(parameters[a.scheme], name) || len(query[name]) > 1 {
			return address{}, bad("the parameter %q is not understood", name)
		}
		a.settings[name] = query.Get(name)
	}
	return a, a.check()
}

// parameters are those of an address, by its scheme.
var parameters = map[string][]string{"s3": {"region", "endpoint", "path-style", "database"}, "gs": {"spanner"}}

// bad is an address that cannot be used.
func bad(format string, args ...any) error {
	return fault.New(fault.Invalid, "the audit log's store: "+format, args...).
		WithHint("s3://BUCKET/PREFIX?region=R&database=FILE or gs://BUCKET/PREFIX?spanner=projects/P/instances/I/databases/D")
}

// check looks at the values of parameters.
func (a address) check() error {
	if v := a.settings["path-style"]; v != "" && v != "true" && v != "false" {
		return bad("path-style is true or false")
	}
	e := a.settings["endpoint"]
	if e == "" {
		return nil
	}
	at, err := url.Parse(e)
	if err != nil || at.Host == "" || at.User != nil || at.Scheme != "https" && at.Scheme != "http" {
		return bad("the endpoint is not the URL of a server, without credentials")
	}
	return nil
}

// Open opens the store at an address; lookup reads the environment. A store without its
// database can only be read. Errors are *fault.Error: Invalid for what is not an
// address, and those of [s3.Open] and [gcs.Open].
func Open(ctx context.Context, text string, lookup func(string) (string, bool)) (*bucket.Store, error) {
	a, err := parse(text)
	if err != nil {
		return nil, err
	}
	if a.scheme == "gs" {
		return gcs.Open(ctx, gcs.Options{Bucket: a.bucket, Prefix: a.prefix, Spanner: a.settings["spanner"]})
	}
	dsn, _ := lookup(DSNVariable)
	if file := a.settings["database"]; file != "" {
		if dsn, err = readDSN(file); err != nil {
			return nil, err
		}
	}
	return s3.Open(ctx, s3.Options{
		Bucket: a.bucket, Prefix: a.prefix, Region: a.settings["region"], Endpoint: a.settings["endpoint"],
		PathStyle: a.settings["path-style"] == "true", DSN: strings.TrimSpace(dsn),
	})
}

func readDSN(file string) (string, error) {
	f, err := os.Open(filepath.Clean(file))
	if err != nil {
		return "", fault.New(fault.NotFound, "the address of the audit log's database cannot be read: %s", err).Because(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDSN+1))
	if err != nil || len(text) > maxDSN || strings.TrimSpace(string(text)) == "" {
		return "", fault.New(fault.Invalid, "the file does not hold the address of a database").At(file, 0)
	}
	return string(text), nil
}
