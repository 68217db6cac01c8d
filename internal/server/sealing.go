package server

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	"golang.org/x/time/rate"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// What clients of SealedSecrets ask for, at the paths of the stock controller.
const (
	PathCertificate = "/v1/cert.pem"
	PathVerify      = "/v1/verify"
	PathRotate      = "/v1/rotate"
)

// Bounds of what sealing costs. The RSA operations have a bound of their own, below.
const (
	maxSealed     = 4 << 20 // bytes of one SealedSecret: more than etcd takes
	sealedAtOnce  = 2       // bodies in memory
	sealedRate    = 10      // requests in a second
	sealedBurst   = 100     // a repository's worth, with a client that takes its time
	contentPEM    = "application/x-pem-file"
	contentJSON   = "application/json"
	headerContent = "Content-Type"
)

// Sealing serves the certificate that values are sealed for, and opens SealedSecrets
// without telling what is in them. Everybody who reaches the port may ask.
type Sealing interface {
	// Fetch returns the certificate, in PEM. Errors are *fault.Error.
	Fetch(ctx context.Context) ([]byte, error)
	// Verify fails with Refused if the SealedSecret in JSON does not open here; other
	// errors say that it was not tried.
	Verify(ctx context.Context, content []byte) error
	// Reseal returns the SealedSecret in JSON, sealed anew for the same scope,
	// namespace and name. Errors are those of Verify.
	Reseal(ctx context.Context, content []byte) ([]byte, error)
}

// sealing serves a Sealing.
type sealing struct {
	Sealing

	turns chan struct{}
	pace  *rate.Limiter
}

func newSealing(s Sealing) *sealing {
	return &sealing{s, make(chan struct{}, sealedAtOnce), rate.NewLimiter(sealedRate, sealedBurst)}
}

// mountSealing adds what clients of SealedSecrets ask for.
func (s *Server) mountSealing(mux *http.ServeMux) {
	h := newSealing(s.Sealing)
	mux.Handle("GET "+PathCertificate, s.handle(h.certificate))
	mux.Handle("POST "+PathVerify, s.handle(h.verify))
	mux.Handle("POST "+PathRotate, s.handle(h.rotate))
}

func (s *sealing) certificate(w http.ResponseWriter, r *http.Request) error {
	if !s.pace.Allow() {
		return errSealing()
	}
	cert, err := s.Fetch(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set(headerContent, contentPEM)
	_, _ = w.Write(cert) // whoever asked may have gone
	return nil
}

// verify answers with Conflict where a SealedSecret does not open, as clients of the
// stock controller expect it.
func (s *sealing) verify(w http.ResponseWriter, r *http.Request) error {
	content, done, err := s.body(w, r)
	if err != nil {
		return err
	}
	defer done()
	if err := s.Verify(r.Context(), content); err != nil {
		return conflict(err)
	}
	return text(w, "ok")
}

func (s *sealing) rotate(w http.ResponseWriter, r *http.Request) error {
	content, done, err := s.body(w, r)
	if err != nil {
		return err
	}
	defer done()
	resealed, err := s.Reseal(r.Context(), content)
	if err != nil {
		return conflict(err)
	}
	w.Header().Set(headerContent, contentJSON)
	_, _ = w.Write(resealed) // whoever asked may have gone
	return nil
}

func conflict(err error) error {
	if fault.KindOf(err) != fault.Refused {
		return err
	}
	return fault.New(fault.Conflict, "%s", err)
}

// body takes a turn and reads a body of bounded size. done gives the turn back.
func (s *sealing) body(w http.ResponseWriter, r *http.Request) (content []byte, done func(), err error) {
	tooLarge := fault.New(fault.Limit, "the body is larger than %d bytes", maxSealed)
	if r.ContentLength > maxSealed {
		return nil, nil, tooLarge
	}
	if !s.pace.Allow() {
		return nil, nil, errSealing()
	}
	select {
	case s.turns <- struct{}{}:
	case <-r.Context().Done():
		return nil, nil, errSealing()
	}
	done = func() { <-s.turns }
	body := &bytes.Buffer{}
	_, err = body.ReadFrom(http.MaxBytesReader(w, r.Body, maxSealed))
	if err == nil {
		return body.Bytes(), done, nil
	}
	done()
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, nil, tooLarge
	}
	return nil, nil, fault.New(fault.Invalid, "the body could not be read")
}

func errSealing() error {
	return fault.New(fault.Waiting, "too many ask about SealedSecrets at once").WithHint("try again later")
}
