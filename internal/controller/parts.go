package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/dialect/argo"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/server"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// userAgent is how the controller names itself to the API server.
const userAgent = "holdfast"

// clusterOptions say how objects are seen, the same for every door.
func clusterOptions(argoNamespace string, log *slog.Logger) cluster.Options {
	byAnnotation := argo.Owner(argoNamespace)
	return cluster.Options{
		Owner: func(id object.ID, labels, annotations map[string]string) string {
			if owner := flux.Owner(id, labels, annotations); owner != "" {
				return owner
			}
			return byAnnotation(id, labels, annotations)
		},
		Kept: func(labels, annotations map[string]string) (inPrune, inDelete bool) {
			fluxPrune, fluxDelete := flux.Kept(labels, annotations)
			argoPrune, argoDelete := argo.Kept(labels, annotations)
			return fluxPrune || argoPrune, fluxDelete || argoDelete
		},
		Health:        health.Both, // each dialect reads its own, of the kinds that it asks for
		UserAgent:     userAgent,
		StatusManager: dialect.StatusManager,
		Logger:        log,
		Clock:         time.Now,
	}
}

// newManager returns the manager of the controllers. It caches what they watch,
// custom resources, and nothing else; Secrets are read when they are needed.
func newManager(cfg *rest.Config, o Options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientscheme.AddToScheme(scheme), api.AddToScheme(scheme)); err != nil {
		return nil, fault.New(fault.Internal, "cannot register a kind: %s", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.UserAgent = -1, userAgent
	unique := true
	grace := 20 * time.Second
	m, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                  scheme,
		Logger:                  libraryLog(o.Log),
		Metrics:                 metricsserver.Options{BindAddress: "0"}, // the one port serves them
		HealthProbeBindAddress:  "0",
		LeaderElection:          false,
		Controller:              config.Controller{SkipNameValidation: &unique}, // a process may run several
		GracefulShutdownTimeout: &grace,
		Cache:                   cache.Options{DefaultTransform: dialect.Slim},
		Client: client.Options{Cache: &client.CacheOptions{
			Unstructured: true,
			DisableFor:   []client.Object{&corev1.Secret{}},
		}},
	})
	if err != nil {
		return nil, fault.New(fault.Unreachable, "cannot set up the connection to the cluster: %s", err).Because(err)
	}
	return m, nil
}

// webhookSecrets returns the function that reads the secrets of webhooks from
// where Argo CD keeps them; empty where there are none. If it may not read them, that
// is no permission to go without: it fails with Refused.
func webhookSecrets(reader client.Reader, namespace string) func(context.Context) (server.Secrets, error) {
	return func(ctx context.Context) (server.Secrets, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		var s corev1.Secret
		err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "argocd-secret"}, &s)
		switch {
		case apierrors.IsNotFound(err):
			return server.Secrets{}, nil
		case apierrors.IsForbidden(err):
			return server.Secrets{}, fault.New(fault.Refused, "Holdfast may not read Secret argocd-secret in namespace %s, so nobody can tell who sends this", namespace).
				WithHint("install with that namespace among --tenants").Because(err)
		}
		of := func(provider string) string { return string(s.Data["webhook."+provider+".secret"]) }
		return server.Secrets{GitHub: of("github"), GitLab: of("gitlab"), Gogs: of("gogs")}, err
	}
}

// quickRender is how long a rendering may hold up others. What takes longer is
// rendered apart, one at a time, within longRender.
const (
	quickRender = 3 * time.Second
	longRender  = 20 * time.Second
	// patience is how long a rendering waits before another worker is started: most
	// fleets never need a second one, and its memory.
	patience  = 500 * time.Millisecond
	leaksIdle = 5 * time.Second // after which the worker ends that holds the rules for secrets
)

// renderCacheBytes is how much compressed output of renderings is kept at hand.
const renderCacheBytes = 16 << 20

// What may grow in the data directory. The volume of the Deployment is larger: by
// the files that are replaced while they are written, and what a disk adds to them.
const (
	DefaultDataLimit = 6 << 30
	printsShare      = 16 // one part of so many is for fingerprints, the others for repositories
)

// staleness tells the hub that a repository has moved, once for all dialects.
type staleness struct{ hub *source.Hub }

// Refresh implements server.Refresher.
func (s staleness) Refresh(url, _ string) { s.hub.Refresh(url) }

// readiness says whether the process works yet.
type readiness struct{ yes atomic.Bool }

func (r *readiness) set() { r.yes.Store(true) }

func (r *readiness) err() error {
	if !r.yes.Load() {
		return errors.New("the cluster is not known yet")
	}
	return nil
}

// requests are the requests sent to the API server on behalf of deliveries, as a metric.
type requests struct{ cluster *cluster.Cluster }

var requestsTotal = prometheus.NewDesc("holdfast_cluster_requests_total",
	"Requests sent to the API server about delivered objects, by verb.", []string{"verb"}, nil)

// Describe implements prometheus.Collector.
func (requests) Describe(ch chan<- *prometheus.Desc) { ch <- requestsTotal }

// Collect implements prometheus.Collector.
func (r requests) Collect(ch chan<- prometheus.Metric) {
	for verb, n := range r.cluster.Requests() {
		ch <- prometheus.MustNewConstMetric(requestsTotal, prometheus.CounterValue, float64(n), verb)
	}
}

// renderings counts what is rendered, and not taken from the cache.
type renderings struct{ n atomic.Int64 }

// of counts what r renders.
func (r *renderings) of(inner render.Renderer) render.Renderer { return &counted{inner, r} }

type counted struct {
	render.Renderer

	by *renderings
}

var renderingsTotal = prometheus.NewDesc("holdfast_renderings_total",
	"Renderings of deliveries that no cache answered.", nil, nil)

// Render implements render.Renderer.
func (c *counted) Render(ctx context.Context, req render.Request, t tree.Tree) (render.Result, error) {
	c.by.n.Add(1)
	return c.Renderer.Render(ctx, req, t)
}

// Describe implements prometheus.Collector.
func (r *renderings) Describe(ch chan<- *prometheus.Desc) { ch <- renderingsTotal }

// Collect implements prometheus.Collector.
func (r *renderings) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(renderingsTotal, prometheus.CounterValue, float64(r.n.Load()))
}

// libraryLog is the log for the Kubernetes libraries: they call everything that
// happens an information, so that only warnings and errors pass, unless somebody
// debugs.
func libraryLog(log *slog.Logger) logr.Logger {
	return logr.FromSlogHandler(quiet{log.Handler()})
}

type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return (level >= slog.LevelWarn || q.Handler.Enabled(ctx, slog.LevelDebug)) && q.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
