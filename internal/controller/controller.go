// Package controller wires the parts of the process that holds a cluster to what
// is in Git: it makes them, joins them, runs them, and ends them in order. It
// decides nothing about deliveries.
package controller

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/dialect/argo"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/dialect/own"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema/defaults"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/server"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/bucket"
	"github.com/holdfastcd/holdfast/internal/source/git"
	"github.com/holdfastcd/holdfast/internal/source/oci"
	"github.com/holdfastcd/holdfast/internal/store"
	"github.com/holdfastcd/holdfast/internal/trust/commit"
	"github.com/holdfastcd/holdfast/internal/trust/image"
	"github.com/holdfastcd/holdfast/internal/worker"
	"github.com/holdfastcd/holdfast/internal/writes"
)

// Options are what the owner of the process decides.
type Options struct {
	Config *rest.Config
	Log    *slog.Logger

	DataDir        string
	DataLimitBytes int64  // of all that grows in it; 0: DefaultDataLimit
	Listen         string // address of the one HTTP port
	ArtifactURL    string // by which others reach that port; empty: the service that install makes

	// AuditDir is where the log of decisions lies; empty: in DataDir. AuditStore is the
	// address of a bucket where it lies instead (package depot), with its index in
	// AuditDir. AuditKey is the file of the key that signs it; empty: the Secret [AuditSecret] in Namespace, or,
	// where that is empty too, a file in DataDir.
	AuditDir, AuditStore, AuditKey string

	Namespace string // that the process runs in; empty: it does not run in a cluster
	// APIAuditToken is the file of the token with which the API server sends its audit
	// events; empty: none are taken.
	APIAuditToken string

	Permissive            bool
	DefaultServiceAccount string
	ArgoNamespace         string
	AllowFileURLs         bool
	AllowLinkLocal        bool // Git servers, registries, buckets and proxies at link-local addresses
	// DecryptionSecret has the keys for sealed files of deliveries that name none; zero:
	// there are none.
	DecryptionSecret types.NamespacedName
	// SealingNamespaces hold the keys of SealedSecrets; new ones are made in the last,
	// when the newest is as old as SealingRenewal (0: never). None: those of the stock
	// controller, and Namespace.
	SealingNamespaces []string
	SealingRenewal    time.Duration
	// Observe has everything be looked at, and nothing written but for what was
	// taken over from a peer that runs beside.
	Observe bool

	// Kyverno is the program that judges by Kyverno's policies; empty: the one beside this
	// program, if it is there.
	Kyverno string
	// AdmissionAddress is where the API server asks about what others write, with TLS;
	// empty: it does not. AdmissionURL is that address as the API server knows it, where
	// Holdfast runs outside of the cluster. AdmissionGroups may write whatever they like.
	AdmissionAddress, AdmissionURL string
	AdmissionGroups                []string
	// NoPolicyReports writes no PolicyReports, where the cluster serves their kind.
	NoPolicyReports bool

	Concurrency       int   // deliveries of one kind that are worked on at once
	Workers           int   // that render at once; 0: the pool's default
	WorkerMemoryBytes int64 // of one worker; 0: the pool's default
}

// process holds the parts, in the order in which they are made.
type process struct {
	Options

	store   *store.Store
	workers *worker.Pool
	patient *worker.Pool // for what takes long
	leaks   *worker.Pool // for searches for secrets, whose rules take memory
	judges  *worker.Pool // for policies, which are kept compiled
	kyverno *worker.Pool // for those of Kyverno's; nil: its program is not here
	git     *git.Store
	hub     *source.Hub
	cluster *cluster.Cluster
	audit   *audit.Log

	auditStore io.Closer // where it is a bucket

	served   server.Audit // what is served of it
	writes   *writes.Memory
	manager  ctrl.Manager
	own      *own.Own
	sets     *own.PolicySets
	gate     *gate // nil: nobody asks about what others write
	reports  *own.Reports
	judge    *judge.Judge
	commits  *commit.Verifier
	images   *image.Examiner
	sealing  *sealed.Keys
	flux     *flux.Flux
	argo     *argo.Argo
	renders  *renderings
	observed *observations
	events   record.EventRecorder
	server   *server.Server
	listener net.Listener
	ready    readiness

	endEvents func()
}

// Run runs the controller until ctx ends or a part fails that it cannot do
// without. Errors are *fault.Error: Conflict (another process uses the data
// directory), Invalid (data directory, address), Unreachable, Unauthorized and
// Rejected (the API server), NotFound (kinds that are not installed).
func Run(ctx context.Context, o Options) error {
	klog.SetLogger(libraryLog(o.Log))
	p := &process{Options: o}
	defer p.close() //nolint:contextcheck // what ends must end also after ctx has
	record := func() error { return p.openAudit(ctx) }
	for _, step := range []func() error{p.openData, p.listen, p.connect, record, p.openWrites, p.openSeals, p.manage, p.serve} {
		if err := step(); ctx.Err() != nil {
			return nil // whatever it says: it was asked to end before it began
		} else if err != nil {
			return err
		}
	}
	err := p.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (p *process) openData() (err error) {
	if p.store, err = store.Open(p.DataDir); err != nil {
		return err
	}
	limit := cmp.Or(p.DataLimitBytes, DefaultDataLimit)
	if err := p.store.Bound(limit / printsShare); err != nil {
		return err
	}
	p.workers = worker.NewPool(worker.Options{Size: p.Workers, Patience: patience, MemoryLimit: p.WorkerMemoryBytes, Deadline: quickRender})
	p.patient = worker.NewPool(worker.Options{Size: 1, MemoryLimit: p.WorkerMemoryBytes, Deadline: longRender})
	p.leaks = worker.NewPool(worker.Options{Size: 1, MemoryLimit: p.WorkerMemoryBytes, Deadline: longRender, IdleAfter: leaksIdle})
	p.openJudge()
	p.git, err = git.New(p.store.Git(), git.Options{
		AllowFile: p.AllowFileURLs, AllowLinkLocal: p.AllowLinkLocal, Proxy: http.ProxyFromEnvironment,
		MaxBytes: limit - limit/printsShare,
	})
	return err
}

// listen takes the port first: if somebody else has it, nothing has happened yet.
func (p *process) listen() (err error) {
	if p.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", p.Listen); err != nil {
		return fault.New(fault.Invalid, "cannot listen on %s: %s", p.Listen, err).WithHint("choose another address with --listen").Because(err)
	}
	return nil
}

func (p *process) connect() (err error) {
	p.cluster, err = cluster.Connect(p.Config, clusterOptions(p.ArgoNamespace, p.Log))
	return err
}

// manage makes the engine and the controllers of both dialects.
func (p *process) manage() (err error) {
	if p.manager, err = newManager(p.Config, p.Options); err != nil {
		return err
	}
	if p.events, p.endEvents, err = newEvents(p.Config, p.manager.GetScheme()); err != nil {
		return err
	}
	engine := p.engine()
	p.observed = &observations{clock: time.Now}
	p.hub = source.NewHub(source.Schemes{
		Git: p.git, OCI: oci.New(oci.Options{AllowLinkLocal: p.AllowLinkLocal}), Bucket: bucket.New(bucket.Options{AllowLinkLocal: p.AllowLinkLocal}),
	}, time.Now)
	env := &dialect.Env{
		Client: p.manager.GetClient(),
		Reader: p.manager.GetAPIReader(),
		Events: p.events,
		Engine: engine,
		Hub:    p.hub,
		Clock:  time.Now,
		Log:    p.Log,

		Permissive:            p.Permissive,
		DefaultServiceAccount: p.DefaultServiceAccount,
		ArgoNamespace:         p.ArgoNamespace,
		AllowFileURLs:         p.AllowFileURLs,
		Concurrency:           p.Concurrency,

		Observe:  p.Observe,
		Observed: p.observed.note,
		Peers:    &dialect.Peers{},
	}
	if p.own, err = own.Setup(p.manager, env, own.Options{Changed: p.trustChanged, Record: engine.Record, Alive: p.alive}); err != nil {
		return err
	}
	env.Trust = p.own.Demands
	if err := p.openPolicies(env); err != nil {
		return err
	}
	router := dialect.Router{}
	if env.Decryption, err = p.decryption(router); err != nil {
		return err
	}
	if p.flux, err = flux.Setup(p.manager, env, router); err != nil {
		return err
	}
	p.flux.OnOffer(p.sets.Offered)
	if p.argo, err = argo.Setup(p.manager, env, router); err != nil {
		return err
	}
	if p.ArtifactURL != "" {
		p.flux.Artifacts.BaseURL = p.ArtifactURL
	}
	engine.OnEvent(router.Notify)
	return p.openAdmission(engine)
}

// engine makes the engine with all that it is joined from.
func (p *process) engine() *delivery.Engine {
	p.renders = &renderings{}
	p.commits = commit.New(commit.Options{Clock: time.Now, Log: p.Log})
	p.images = image.New(image.Options{Clock: time.Now, Log: p.Log, AllowLinkLocal: p.AllowLinkLocal})
	fair := render.NewFair(p.renders.of(render.New(p.workers)), p.renders.of(render.New(p.patient)))
	cache := render.NewCache(fair.In, renderCacheBytes)
	engine := delivery.New(delivery.Options{
		Renderer: func(id delivery.ID) render.Renderer { return cache.In(id.String()) },
		Cluster:  p.cluster,
		Memory:   p.store,
		Digest:   p.store.Digest,
		Clock:    time.Now,
		Log:      p.Log,
		Alive:    p.alive,
		Commits:  p.commits,
		Images:   p.images,
		Judged:   p.judged,
		Audit:    p.audit,
		Editors:  p.editors(),
		Unsealer: p.sealing,
		Leaks:    leak.New(p.leaks),
		Policies: p.judge,
		Complete: defaults.Complete,
		Ruled:    p.ruled,

		NamespaceLabels: func(name string) map[string]string { return p.sets.NamespaceLabels(name) },
	})
	if p.writes != nil {
		p.writes.OnNote(engine.Named)
	}
	return engine
}

// alive reports whether a delivery, named as marks name it, still exists.
func (p *process) alive(owner string) bool {
	parts := strings.Split(owner, "/")
	if parts[0] == api.PolicySetKind {
		return p.sets.Exists(parts[len(parts)-1])
	}
	if len(parts) == 3 && parts[0] == argo.Kind {
		// The cache answers; nothing here waits.
		return p.argo.Alive(context.Background(), parts[1], parts[2])
	}
	return p.flux.Alive(owner)
}

func (p *process) serve() error {
	own := prometheus.NewRegistry()
	if err := errors.Join(own.Register(requests{p.cluster}), own.Register(p.renders), own.Register(p.observed)); err != nil {
		return fault.New(fault.Internal, "cannot register metrics: %s", err)
	}
	reviewer, err := remote.NewReviewer(p.Config, time.Now)
	if err != nil {
		return err
	}
	p.served.Review = reviewer.Review
	p.server = server.New(server.Options{
		Hooks:      p.flux.Hooks,
		Artifacts:  p.flux.Artifacts,
		Audit:      &p.served,
		APIAudit:   p.apiAudit(),
		Sealing:    p.sealing,
		Observed:   p.observed,
		Refreshers: []server.Refresher{staleness{p.hub}, p.flux, p.argo, p.sets},
		Secrets:    webhookSecrets(p.manager.GetAPIReader(), p.ArgoNamespace),
		Metrics:    prometheus.Gatherers{metrics.Registry, own},
		Ready:      p.ready.err,
		Clock:      time.Now,
		Log:        p.Log,
	})
	return nil
}

// run serves at once, so that probes are answered, and delivers when the cluster
// is known. The first part that fails ends the others.
func (p *process) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.server.Serve(ctx, p.listener) })
	g.Go(func() error { return p.keepAudit(ctx) })
	g.Go(func() error { return p.sealing.Run(ctx) })
	g.Go(func() error {
		if err := p.cluster.Start(ctx); err != nil {
			return err
		}
		p.Log.Info("connected", "server", p.Config.Host, "data", p.DataDir)
		if err := p.own.Start(ctx); err != nil {
			return err
		}
		if err := p.sets.Start(ctx); err != nil {
			return err
		}
		return p.manager.Start(ctx)
	})
	g.Go(func() error { return p.reports.Run(ctx) })
	g.Go(func() error {
		if p.manager.GetCache().WaitForCacheSync(ctx) {
			p.ready.set()
			p.Log.Info("ready")
			worker.ProgramPages().GiveBack()
		}
		return nil
	})
	g.Go(func() error { return p.guard(ctx) })
	return g.Wait()
}

// close gives everything back, last made first.
func (p *process) close() {
	if p.listener != nil {
		_ = p.listener.Close() // closed already by the server, if it ran
	}
	if p.endEvents != nil {
		p.endEvents()
	}
	if p.workers != nil {
		p.workers.Close()
		p.patient.Close()
		p.leaks.Close()
		p.judges.Close()
		if p.kyverno != nil {
			p.kyverno.Close()
		}
	}
	if p.git != nil {
		if err := p.git.Close(); err != nil {
			p.Log.Warn("cannot close the Git store", "error", err)
		}
	}
	if p.audit != nil {
		if err := p.audit.Close(); err != nil {
			p.Log.Error("cannot close the audit log", "error", err)
		}
	}
	if p.auditStore != nil {
		_ = p.auditStore.Close() // only connections are left
	}
	if p.store != nil {
		_ = p.store.Close() // the lock goes with the process
	}
}
