// Package server is the one HTTP port of the controller: webhooks, artifacts, the
// audit log, metrics and health. It knows nothing of clusters: whatever it serves is
// handed to it, and what a request means is told to a [Refresher].
//
// Everybody who reaches the port can send to it, so every request is bounded
// (headers, body, time, number at once) before anything of it is parsed.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of the port.
const (
	headerTimeout   = 5 * time.Second
	readTimeout     = 30 * time.Second
	writeTimeout    = 2 * time.Minute // an artifact may be large and its reader slow
	idleTimeout     = 90 * time.Second
	shutdownTimeout = 10 * time.Second
	maxHeader       = 16 << 10
	maxConnections  = 512
)

// Options are what a server serves.
type Options struct {
	// Hooks serves Flux Receivers below /hook/; nil: not found.
	Hooks http.Handler
	// Artifacts serves the artifacts of Git sources below /gitrepository/; nil: not found.
	Artifacts http.Handler
	// Observed serves, under /observe, what deliveries that are only observed would
	// change; nil: not found.
	Observed http.Handler
	// Audit serves the audit log below [remote.Root]; nil: not found.
	Audit *Audit
	// APIAudit takes the API server's audit events under [APIAuditPath]; nil: not found.
	APIAudit *APIAudit
	// Sealing serves what clients of SealedSecrets ask for, below /v1/; nil: not found.
	Sealing Sealing
	// Refreshers are told of every push.
	Refreshers []Refresher
	// Secrets returns what providers sign their webhooks with; nil: nothing is
	// configured. An error refuses the webhook.
	Secrets func(context.Context) (Secrets, error)
	// Metrics are served under /metrics; nil: not found.
	Metrics prometheus.Gatherer
	// Ready says why the process is not ready yet; nil: it always is.
	Ready func() error
	Clock func() time.Time
	Log   *slog.Logger
}

// Server is the port. Its zero value is of no use; see [New].
type Server struct {
	Options
	webhook webhook
}

// New returns a server that does not listen yet.
func New(o Options) *Server {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Options: o}
	s.webhook = newWebhook(o)
	return s
}

// Handler returns everything that the port serves.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /api/webhook", s.handle(s.webhook.serve))
	mux.Handle("GET /healthz", s.handle(ok))
	mux.Handle("GET /readyz", s.handle(s.ready))
	if s.Hooks != nil {
		mux.Handle("/hook/", s.Hooks)
	}
	if s.Artifacts != nil {
		mux.Handle("/gitrepository/", s.Artifacts)
	}
	if s.Observed != nil {
		mux.Handle("GET /observe", s.Observed)
	}
	if s.Audit != nil {
		mux.Handle("GET "+remote.Root, s.handle(newAuditHandler(*s.Audit).serve))
	}
	if s.APIAudit != nil {
		mux.Handle("POST "+APIAuditPath, s.handle(newAPIAudit(*s.APIAudit).serve))
	}
	if s.Sealing != nil {
		s.mountSealing(mux)
	}
	if s.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	}
	// Outermost first: even the answer to a panic carries the headers.
	return secure(s.survive(mux))
}

// Serve answers requests on l until ctx ends, then finishes those under way and
// closes l. It returns nil after an orderly end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), // strangers cause these
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		// ctx is over; what is under way gets its own time.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		stopped <- srv.Shutdown(bounded)
	})
	defer stop()
	s.Log.Info("listening", "address", l.Addr().String())
	err := srv.Serve(netutil.LimitListener(l, maxConnections))
	if !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.Internal, "the HTTP port failed: %s", err).Because(err)
	}
	if err := <-stopped; err != nil {
		s.Log.Warn("some requests were cut off", "error", err)
	}
	return nil
}

func ok(w http.ResponseWriter, _ *http.Request) error {
	return text(w, "ok")
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) error {
	if s.Ready != nil {
		if err := s.Ready(); err != nil {
			return fault.New(fault.Waiting, "not ready: %s", err)
		}
	}
	return text(w, "ok")
}

func text(w http.ResponseWriter, body string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte(body + "\n"))
	return err
}
