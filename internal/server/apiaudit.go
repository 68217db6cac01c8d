package server

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// APIAuditPath is where the API server's audit webhook sends its events.
const APIAuditPath = "/api/audit"

const (
	// maxEvents is the largest body that is read: the API server sends 400 events at
	// once unless it is told otherwise, of about 1 KiB each at the level Metadata.
	maxEvents = 8 << 20
	// eventsAtOnce bounds the bodies in memory.
	eventsAtOnce = 2
	// MinAPIAuditToken is how many bytes the token must have.
	MinAPIAuditToken = 16
)

// APIAudit takes the events of the API server's audit log.
type APIAudit struct {
	// Token is what the API server must show; it is asked for with each request. An
	// error, or one of less than [MinAPIAuditToken] bytes, refuses all.
	Token func() (string, error)
	// Note takes a list of events as JSON and returns how many of them count. Errors are
	// *fault.Error.
	Note func(body []byte) (int, error)
}

// apiAudit serves an APIAudit.
type apiAudit struct {
	APIAudit

	turns chan struct{}
}

func newAPIAudit(a APIAudit) *apiAudit { return &apiAudit{a, make(chan struct{}, eventsAtOnce)} }

// serve takes one list. Nothing is read of a request that does not show the token.
func (a *apiAudit) serve(w http.ResponseWriter, r *http.Request) error {
	want, err := a.Token()
	if err != nil || len(want) < MinAPIAuditToken {
		return fault.New(fault.Waiting, "the token of the API server's audit webhook cannot be read")
	}
	got, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	x, y := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want)) // of one length, whatever was sent
	if !bearer || subtle.ConstantTimeCompare(x[:], y[:]) != 1 {
		return fault.New(fault.Unauthorized, "the token of the API server's audit webhook is missing or wrong").
			WithHint("write the token of --api-audit-token-file into the kubeconfig of --audit-webhook-config-file")
	}
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-r.Context().Done():
		return fault.New(fault.Waiting, "too many lists of audit events at once")
	}
	tooLarge := fault.New(fault.Limit, "the body is larger than %d bytes", maxEvents).
		WithHint("send fewer events at once (--audit-webhook-batch-max-size), at the level Metadata")
	if r.ContentLength > maxEvents {
		return tooLarge
	}
	body := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
	_, err = body.ReadFrom(http.MaxBytesReader(w, r.Body, maxEvents))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return tooLarge
	case err != nil:
		return fault.New(fault.Invalid, "the body could not be read")
	}
	if _, err := a.Note(body.Bytes()); err != nil {
		return err
	}
	return text(w, "ok")
}
