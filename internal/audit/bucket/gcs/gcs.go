// Package gcs keeps an audit log in a bucket of Google Cloud Storage, with Spanner for
// the order of its entries.
package gcs

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"path"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	tessera "github.com/transparency-dev/tessera/storage/gcp"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/bucket"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Options say where a log is. Credentials are found as Google's tools find them:
// environment, files, the account of the Pod.
type Options struct {
	Bucket, Prefix string
	// Spanner is the database, projects/P/instances/I/databases/D. "": the log can only
	// be read.
	Spanner  string
	Takeover time.Duration // see [bucket.Options]
}

// requestTimeout bounds one request.
const requestTimeout = 30 * time.Second

// Open returns the store of a log. Nothing is asked of the bucket yet. Errors are
// *fault.Error: Unauthorized, Invalid, Unreachable.
func Open(ctx context.Context, o Options) (*bucket.Store, error) {
	client, err := storage.NewClient(ctx, storage.WithJSONReads())
	if err != nil {
		return nil, fault.New(fault.Unauthorized, "there are no credentials for Google Cloud Storage: %s", err).
			WithHint("give the Pod an account that may use the bucket, or set GOOGLE_APPLICATION_CREDENTIALS").Because(err)
	}
	objects := &objects{client.Bucket(o.Bucket), o.Bucket, o.Prefix}
	store := bucket.Options{
		Where: "gs://" + path.Join(o.Bucket, o.Prefix), Objects: objects,
		MinSign: 1200 * time.Millisecond, Takeover: o.Takeover,
	}
	if o.Spanner == "" {
		return bucket.New(store), nil
	}
	db, err := openDatabase(ctx, o.Spanner)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	store.Database = db
	store.Driver = func(ctx context.Context) (audit.Driver, error) {
		made, err := tessera.New(ctx, tessera.Config{
			GCSClient: client, SpannerClient: db.client, Bucket: o.Bucket, BucketPrefix: o.Prefix, Spanner: o.Spanner,
		})
		d, ok := made.(audit.Driver)
		if err != nil || !ok {
			return nil, fault.New(fault.Internal, "tessera's driver for Google Cloud cannot append: %v", err)
		}
		return d, nil
	}
	return bucket.New(store), nil
}

// objects implements [bucket.Objects].
type objects struct {
	*storage.BucketHandle

	bucket, prefix string
}

func (b *objects) object(name string) *storage.ObjectHandle {
	return b.Object(path.Join(b.prefix, name))
}

// Read implements audit.Reader.
func (b *objects) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := b.object(name).NewReader(ctx)
	if err != nil {
		return nil, b.trouble(name, err)
	}
	defer func() { _ = r.Close() }() // all was read
	return bucket.ReadAll(r, name, limit, b.trouble)
}

// Put implements bucket.Objects.
func (b *objects) Put(ctx context.Context, name string, data []byte, replace bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	object := b.object(name)
	if !replace {
		object = object.If(storage.Conditions{DoesNotExist: true})
	}
	w := object.NewWriter(ctx)
	w.ChunkSize = 0 // in one request
	w.ContentType = "application/octet-stream"
	_, err := w.Write(data)
	if err == nil {
		err = w.Close()
	} else {
		cancel()
		_ = w.Close() // the first error says why
	}
	if api, ok := errors.AsType[*googleapi.Error](err); ok && api.Code == http.StatusPreconditionFailed {
		return false, nil
	}
	if err != nil {
		return false, b.trouble(name, err)
	}
	return true, nil
}

// List implements audit.Lister.
func (b *objects) List(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		query := &storage.Query{}
		if b.prefix != "" {
			query.Prefix = b.prefix + "/"
		}
		if err := query.SetAttrSelection([]string{"Name"}); err != nil {
			yield("", fault.From(err))
			return
		}
		found := b.Objects(ctx, query)
		for {
			o, err := found.Next()
			if errors.Is(err, iterator.Done) {
				return
			}
			if err != nil {
				yield("", b.trouble("", err))
				return
			}
			if !yield(strings.TrimPrefix(o.Name, query.Prefix), nil) {
				return
			}
		}
	}
}

// trouble says what went wrong with an object, and what to do.
func (b *objects) trouble(name string, err error) error {
	where := "gs://" + b.bucket
	code := 0
	if api, ok := errors.AsType[*googleapi.Error](err); ok {
		code = api.Code
	}
	switch {
	case errors.Is(err, storage.ErrBucketNotExist):
		return fault.New(fault.NotFound, "the bucket does not exist").On(where).WithHint("make it; Holdfast does not").Because(err)
	case errors.Is(err, storage.ErrObjectNotExist), code == http.StatusNotFound:
		return bucket.Missing(name)
	case code == http.StatusForbidden, code == http.StatusUnauthorized:
		return fault.New(fault.Unauthorized, "the bucket may not be used: %s", err).On(where).At(name, 0).
			WithHint("the role Storage Object Admin on the bucket is needed").Because(err)
	}
	return fault.New(fault.Unreachable, "the bucket cannot be used: %s", err).On(where).At(name, 0).Because(err)
}
