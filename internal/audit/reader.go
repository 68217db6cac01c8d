package audit

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Reader reads a stored log, wherever it lies.
type Reader interface {
	// Read returns the file name: checkpoint, tile/0/000, tile/entries/x001/234.p/7
	// (https://c2sp.org/tlog-tiles), records/ab/abcd…. One that does not exist is
	// fs.ErrNotExist, one of more than limit bytes a fault Limit.
	Read(ctx context.Context, name string, limit int64) ([]byte, error)
}

// Lister is a Reader that can tell which files there are.
type Lister interface {
	Reader
	// List yields the names of all files.
	List(ctx context.Context) iter.Seq2[string, error]
}

// Dir reads a log from its directory, also while a controller writes it.
type Dir string

var _ Lister = Dir("")

// Read implements Reader. It follows no symbolic link out of the directory.
func (d Dir) Read(_ context.Context, name string, limit int64) ([]byte, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, missing(name, err)
	}
	defer func() { _ = root.Close() }() // nothing was written
	f, err := root.Open(name)
	if err != nil {
		return nil, missing(name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fault.New(fault.Invalid, "not a regular file").At(name, 0)
	}
	return readBounded(f, name, limit)
}

// missing keeps fs.ErrNotExist as it is.
func missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "the file is missing").At(name, 0).Because(fs.ErrNotExist)
	}
	return unusable(name, err)
}

// List implements Lister.
func (d Dir) List(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := fs.WalkDir(os.DirFS(string(d)), ".", func(name string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist) && name != ".": // a live log tidies up
				return nil
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			case e.IsDir():
				return nil
			case !yield(name, nil):
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield("", unusable(string(d), err))
		}
	}
}

// HTTP reads a log that is served below base, as [Files] does. The client bounds time
// and follows what redirects it likes; sizes are bounded here.
func HTTP(client *http.Client, base *url.URL) Reader { return &httpReader{client, base} }

type httpReader struct {
	client *http.Client
	base   *url.URL
}

// Read implements Reader.
func (h *httpReader) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	where := h.base.JoinPath(strings.Split(name, "/")...)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil) //nolint:gosec // whoever asks names the log
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot ask for it: not an address").At(name, 0)
	}
	res, err := h.client.Do(req) //nolint:gosec // likewise
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the address, which may hold credentials
		}
		return nil, fault.New(fault.Unreachable, "the audit log cannot be read: %s", err).At(name, 0).Because(err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return readBounded(res.Body, name, limit)
	case http.StatusNotFound:
		return nil, missing(name, fs.ErrNotExist)
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fault.New(fault.Unauthorized, "the audit log may not be read: %s", res.Status).At(name, 0)
	}
	return nil, fault.New(fault.Unreachable, "the audit log cannot be read: %s", res.Status).At(name, 0)
}

// public are the files that make up a log: what auditors need, and nothing else.
var public = regexp.MustCompile(`^(checkpoint|tile/(entries|[0-9]{1,2})/(x[0-9]{3}/){0,6}[0-9]{3}(\.p/[0-9]{1,3})?|records/[0-9a-f]{2}/[0-9a-f]{64})$`)

// Files serves a log for [HTTP]: the path of a request, without its leading slash, is the
// name of a file. It asks nobody who they are.
func Files(from Reader) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		if !public.MatchString(name) {
			http.NotFound(w, r)
			return
		}
		switch d := from.(type) {
		case Dir:
			serve(w, r, string(d), name)
		case folder:
			serve(w, r, string(d.Dir), name)
		default:
			pass(w, r, from, name)
		}
	})
}

// pass serves a file of a store, which is read as a whole.
func pass(w http.ResponseWriter, r *http.Request, from Reader, name string) {
	data, err := from.Read(r.Context(), name, maxRecordFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.NotFound(w, r)
		return
	case err != nil:
		http.Error(w, "the log cannot be read", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(data) //nolint:gosec // a stream of bytes by its type; whoever asked may have gone
	}
}

func serve(w http.ResponseWriter, r *http.Request, dir, name string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		http.Error(w, "the log is not there", http.StatusServiceUnavailable)
		return
	}
	defer func() { _ = root.Close() }() // nothing was written
	f, err := root.Open(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, f) // whoever asked may have gone
	}
}
