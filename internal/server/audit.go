package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/time/rate"

	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of what readers of the audit log cost.
const (
	auditAtOnce = 4   // requests
	auditRate   = 200 // requests in a second; more wait
)

// AuditLog is the audit log, as far as readers elsewhere may ask for it.
type AuditLog interface {
	// Entries returns the entries that a query chooses, within its namespace.
	Entries(ctx context.Context, q remote.Query) (remote.Page, error)
	// About returns the entries about an object, newest first; limit at most, of
	// deliveries of one namespace alone, where it is not empty.
	About(ctx context.Context, object, namespace string, limit int) ([]remote.Found, error)
}

// Audit is what is served of the audit log.
type Audit struct {
	Log AuditLog
	// Files serves the log as it is stored: the path of a request is the name of a file.
	Files http.Handler
	// Key is the public key that the log is signed with.
	Key string
	// Review returns who bears a token, if they may read the entries of deliveries in a
	// namespace (empty: the whole log). An error refuses the request.
	Review func(ctx context.Context, token, namespace string) (user string, err error)
}

// auditHandler serves an Audit.
type auditHandler struct {
	Audit

	turns chan struct{}
	pace  *rate.Limiter
}

func newAuditHandler(a Audit) *auditHandler {
	return &auditHandler{Audit: a, turns: make(chan struct{}, auditAtOnce), pace: rate.NewLimiter(auditRate, auditRate)}
}

// serve answers below [remote.Root]. Nothing is read of the log before the token was
// reviewed for the namespace that is asked for.
func (a *auditHandler) serve(w http.ResponseWriter, r *http.Request) error {
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	default:
		return fault.New(fault.Waiting, "too many read the audit log at once")
	}
	query := r.URL.Query()
	entries, about := r.URL.Path == remote.PathEntries, r.URL.Path == remote.PathAbout
	namespace := ""
	if entries || about {
		namespace = query.Get("namespace")
	}
	if _, err := a.Review(r.Context(), r.Header.Get(remote.Header), namespace); err != nil {
		return err
	}
	if err := a.pace.Wait(r.Context()); err != nil {
		return fault.New(fault.Waiting, "too many read the audit log at once")
	}
	switch {
	case entries:
		return a.entries(w, r, query)
	case about:
		return a.about(w, r, query)
	case r.URL.Path == remote.Root+remote.KeyName:
		return text(w, a.Key)
	}
	http.StripPrefix(strings.TrimSuffix(remote.Root, "/"), a.Files).ServeHTTP(w, r)
	return nil
}

func (a *auditHandler) entries(w http.ResponseWriter, r *http.Request, query url.Values) error {
	q, err := remote.ParseQuery(query)
	if err != nil {
		return err
	}
	page, err := a.Log.Entries(r.Context(), q)
	if err != nil {
		return err
	}
	return answer(w, page)
}

func (a *auditHandler) about(w http.ResponseWriter, r *http.Request, query url.Values) error {
	limit, err := remote.ParseLimit(query, remote.MaxAbout)
	if err != nil {
		return err
	}
	found, err := a.Log.About(r.Context(), query.Get("object"), query.Get("namespace"), limit)
	if err != nil {
		return err
	}
	if found == nil {
		found = []remote.Found{}
	}
	return answer(w, found)
}

func answer(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Internal, "cannot write the answer: %s", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // whoever asked may have gone
	return nil
}
