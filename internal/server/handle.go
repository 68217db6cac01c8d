package server

import (
	"errors"
	"net/http"
	"runtime/debug"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// handler is a handler that returns its failures, so that one place renders them.
type handler func(http.ResponseWriter, *http.Request) error

// handle renders the error of h, if any, as plain text with the status of its kind.
func (s *Server) handle(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		code := status(fault.KindOf(err))
		s.Log.Debug("refused a request", "path", r.URL.Path, "status", code, "error", err)
		if code == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "5")
		}
		http.Error(w, message(err), code)
	})
}

// status maps every kind of failure to an HTTP status, once.
func status(k fault.Kind) int {
	switch k {
	case fault.Invalid, fault.Unsupported:
		return http.StatusBadRequest
	case fault.Unauthorized:
		return http.StatusUnauthorized
	case fault.Refused:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict:
		return http.StatusConflict
	case fault.Limit:
		return http.StatusRequestEntityTooLarge
	case fault.Unreachable, fault.Waiting:
		return http.StatusServiceUnavailable
	case fault.Rejected:
		return http.StatusBadGateway
	case fault.Internal:
	}
	return http.StatusInternalServerError
}

// message is what a stranger may read of an error: nothing that nobody classified.
func message(err error) string {
	var f *fault.Error
	if errors.As(err, &f) && f.Kind != fault.Internal {
		return f.Error()
	}
	return "internal error; the log of the controller says more"
}

// secure sets headers that keep a browser from making anything of an answer.
// Handlers may replace them.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// survive answers a panic of a handler and logs it.
func (s *Server) survive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // a sentinel that is compared, never wrapped
				panic(p)
			}
			s.Log.Error("a handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			http.Error(w, message(nil), http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}
