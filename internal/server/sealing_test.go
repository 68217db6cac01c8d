package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// sealer opens what says "good".
type sealer struct{ cert error }

func (s sealer) Fetch(context.Context) ([]byte, error) { return []byte("CERT"), s.cert }

func (sealer) Verify(_ context.Context, content []byte) error {
	switch string(content) {
	case "good":
		return nil
	case "bad":
		return fault.New(fault.Refused, "it does not open")
	}
	return fault.New(fault.Invalid, "no JSON")
}

func (s sealer) Reseal(ctx context.Context, content []byte) ([]byte, error) {
	return []byte("{}"), s.Verify(ctx, content)
}

func TestSealing(t *testing.T) {
	for _, tc := range []struct {
		method, path, body string
		status             int
		content, answer    string
		reason             string
	}{
		{"GET", PathCertificate, "", 200, contentPEM, "CERT", "kubeseal --fetch-cert"},
		{"POST", PathCertificate, "", 405, "", "", "nothing is sent there"},
		{"POST", PathVerify, "good", 200, "", "ok\n", "it opens"},
		{"POST", PathVerify, "bad", 409, "", "it does not open", "kubeseal reads Conflict as: cannot be opened"},
		{"POST", PathVerify, "x", 400, "", "no JSON", "that is no SealedSecret"},
		{"GET", PathVerify, "", 405, "", "", "a body is needed"},
		{"POST", PathRotate, "good", 200, contentJSON, "{}", "sealed anew"},
		{"POST", PathRotate, "bad", 409, "", "it does not open", "what does not open is not sealed anew"},
		{"POST", PathRotate, strings.Repeat("x", maxSealed+1), 413, "", "larger than", "a body is bounded before it is parsed"},
	} {
		t.Run(tc.method+tc.path+" "+tc.reason, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, strings.NewReader(tc.body))
			New(Options{Sealing: sealer{}}).Handler().ServeHTTP(w, r)
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.answer) || tc.content != "" && w.Header().Get(headerContent) != tc.content {
				t.Errorf("%s: got %d %q %v", tc.reason, w.Code, w.Body, w.Header())
			}
		})
	}
}

func TestBodiesOfUnknownLengthAreBounded(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, PathVerify, strings.NewReader(strings.Repeat("x", maxSealed+1)))
	r.ContentLength = -1
	New(Options{Sealing: sealer{}}).Handler().ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestSealingIsPaced(t *testing.T) {
	h := New(Options{Sealing: sealer{}}).Handler()
	for i := range 10 * sealedBurst {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, PathCertificate, nil))
		if w.Code == http.StatusServiceUnavailable {
			if i < sealedBurst || w.Header().Get("Retry-After") == "" {
				t.Errorf("refused after %d requests, %v", i, w.Header())
			}
			return
		}
	}
	t.Error("there is no bound on how often it may be asked")
}

func TestWithoutSealingThereIsNothing(t *testing.T) {
	for _, path := range []string{PathCertificate, PathVerify, PathRotate} {
		w := httptest.NewRecorder()
		New(Options{}).Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: got %d", path, w.Code)
		}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, PathCertificate, nil)
	New(Options{Sealing: sealer{cert: fault.New(fault.NotFound, "no key")}}).Handler().ServeHTTP(w, r)
	if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "no key") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
