package flux

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// Defaults of a GitRepository, as Flux has them.
const (
	defaultBranch  = "master"
	defaultTimeout = time.Minute
)

// sourceRevisionMark is on events about sources.
const sourceRevisionMark = "source.toolkit.fluxcd.io/revision"

// gitRepositoryFields are the fields of a GitRepository's spec that are supported.
var gitRepositoryFields = fields{
	"url": nil, "interval": nil, "timeout": nil, "suspend": nil, "ignore": nil, "provider": nil,
	"secretRef":      {"name": nil},
	"proxySecretRef": {"name": nil},
	"ref":            {"branch": nil, "tag": nil, "semver": nil, "name": nil, "commit": nil},
}

// repositories reconciles GitRepositories: it fetches, tells the deliveries that
// depend on it, and then writes the status.
type repositories struct {
	env       *dialect.Env
	desk      *desk
	catalog   *catalog
	artifacts *Artifacts
	offer     func(context.Context, types.NamespacedName, edition) error
	onOffer   func(types.NamespacedName) // told what offer is; nil: nobody is

	mu       sync.Mutex
	failures map[types.NamespacedName]int
	heard    map[types.NamespacedName]string // the newest token whose refresh was already made
}

// Reconcile implements the controller runtime's reconciler.
func (c *repositories) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	return dialect.Settle(c.reconcile(ctx, req.NamespacedName))
}

// visit is one look at a living GitRepository.
type visit struct {
	name      types.NamespacedName
	u         *unstructured.Unstructured // as it is written
	repo      *sourcev1.GitRepository
	observing bool // nothing may be written
	start     time.Time
}

// reconcile looks once and returns when to look again; 0: when the object changes.
func (c *repositories) reconcile(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	u, err := c.desk.get(ctx, name)
	if err != nil {
		return 0, err
	}
	if u == nil {
		return 0, c.gone(ctx, name)
	}
	observing := c.env.Observing(u)
	if gone, err := c.env.HandBack(ctx, u); gone || err != nil {
		return 0, err
	}
	repo, bad := decode[sourcev1.GitRepository](u)
	switch {
	case !repo.DeletionTimestamp.IsZero() && observing:
		return 0, nil
	case !repo.DeletionTimestamp.IsZero():
		return 0, c.desk.setFinalizer(ctx, u, false)
	case dialect.Suspended(u):
		return c.resume(ctx, name, repo)
	}
	v := visit{name: name, u: u, repo: repo, observing: observing, start: c.env.Clock()}
	request, problem := c.request(ctx, u, repo, bad)
	if problem != nil {
		return c.fail(ctx, v, problem)
	}
	if token := requested(repo.Annotations); token != repo.Status.LastHandledReconcileAt && c.unheard(name, token) {
		c.env.Hub.Refresh(request.URL)
	}
	revision, err := c.fetch(ctx, request, repo)
	if fault.KindOf(err) == fault.Waiting {
		return dialect.StillFetching, c.begin(ctx, v)
	}
	if err != nil {
		return c.fail(ctx, v, &gitProblem{err: fault.From(err)})
	}
	return c.publish(ctx, v, revision)
}

// begin says of a source of which nothing was said yet that it is being fetched:
// a slow server may take minutes, and nobody is to think that it was not seen.
func (c *repositories) begin(ctx context.Context, v visit) error {
	if v.observing || apimeta.FindStatusCondition(v.repo.Status.Conditions, meta.ReadyCondition) != nil {
		return nil
	}
	status := fetching(v.repo, c.env.Clock())
	_, err := c.desk.setStatus(ctx, v.u, &v.repo.Status, &status)
	return err
}

// fetch gets the revision, no older than four fifths of the interval: the
// clock's next visit, early by its share of spread, still fetches.
func (c *repositories) fetch(ctx context.Context, request source.Request, repo *sourcev1.GitRepository) (source.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, timeoutOf(repo))
	defer cancel()
	return c.env.Hub.Get(ctx, request, repo.Spec.Interval.Duration*4/5)
}

func timeoutOf(repo *sourcev1.GitRepository) time.Duration {
	if t := repo.Spec.Timeout; t != nil && t.Duration > 0 {
		return t.Duration
	}
	return defaultTimeout
}

// publish makes a revision known: to deliveries at once, then in the status.
func (c *repositories) publish(ctx context.Context, v visit, revision source.Revision) (time.Duration, error) {
	name, repo := v.name, v.repo
	e := editionOf(repo, revision)
	if c.catalog.publish(name, e) {
		if err := c.offer(ctx, name, e); err != nil {
			c.catalog.drop(name) // so that the next try is news again
			return 0, err
		}
		if c.onOffer != nil {
			c.onOffer(name)
		}
		c.env.Log.Info("new revision", "gitrepository", name.String(), "revision", e.label, "took", c.env.Clock().Sub(v.start))
	}
	again := spread(max(repo.Spec.Interval.Duration, minInterval), repo.UID)
	if v.observing {
		c.succeeded(name)
		return again, nil
	}
	e, _ = c.catalog.get(name) // the tree that is already known, if it is the same
	made, err := c.artifacts.add(ctx, name, e)
	if err != nil {
		return c.fail(ctx, v, &gitProblem{err: fault.From(err), storage: true})
	}
	status := fetched(repo, made.entry(c.artifacts, name, e.label), c.env.Clock())
	old := repo.Status.Artifact
	if _, err := c.desk.setStatus(ctx, v.u, &repo.Status, &status); err != nil {
		return 0, err
	}
	if old == nil || old.Revision != e.label {
		c.event(v.u, e.label, corev1.EventTypeNormal, "NewArtifact", "stored artifact for revision '"+e.label+"'")
	}
	c.succeeded(name)
	return again, nil
}

// event writes an event that carries the revision as Flux's do.
func (c *repositories) event(u *unstructured.Unstructured, revision, kind, reason, message string) {
	c.env.Events.AnnotatedEventf(u, map[string]string{sourceRevisionMark: revision}, kind, reason, "%s", clip(message, maxEvent))
}

// editionOf returns a revision as the catalog holds it.
func editionOf(repo *sourcev1.GitRepository, revision source.Revision) edition {
	e := edition{revision: revision, label: RevisionName(revision), url: repo.Spec.URL}
	if repo.Spec.Ignore != nil {
		e.ignore = "ignore " + *repo.Spec.Ignore
	}
	e.revision.Tree = Filter(revision.Tree, repo.Spec.Ignore)
	return e
}

// fail tells that there is no newer revision. The last one stays available.
func (c *repositories) fail(ctx context.Context, v visit, p *gitProblem) (time.Duration, error) {
	name, repo := v.name, v.repo
	if !p.storage && c.catalog.fail(name, p.err) {
		if err := c.offer(ctx, name, edition{}); err != nil {
			return 0, err
		}
	}
	n := c.failedAgain(name)
	if err := c.complain(ctx, v, p, n == 0); err != nil {
		return 0, err
	}
	if p.stalled {
		return 0, nil
	}
	interval := max(repo.Spec.Interval.Duration, minInterval)
	if p.err.Kind.Terminal() {
		return spread(interval, repo.UID), nil
	}
	return backOff(n, min(interval, mostRetry)), nil
}

// complain writes a problem where people look for it, if it is new.
func (c *repositories) complain(ctx context.Context, v visit, p *gitProblem, first bool) error {
	if !v.observing {
		status := failed(v.repo, p, c.env.Clock())
		written, err := c.desk.setStatus(ctx, v.u, &v.repo.Status, &status)
		if err != nil || !written {
			return err
		}
		c.event(v.u, "", corev1.EventTypeWarning, p.reason(), p.err.Error())
	} else if !first {
		return nil
	}
	c.env.Log.Warn("a source failed", "gitrepository", v.name.String(), "reason", p.reason(), "error", p.err.Error())
	return nil
}

// failedAgain notes a failure and returns how many there were before it.
func (c *repositories) failedAgain(name types.NamespacedName) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures[name]++
	return c.failures[name] - 1
}

func (c *repositories) succeeded(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failures, name)
}

// gone forgets a GitRepository that does not exist.
func (c *repositories) gone(ctx context.Context, name types.NamespacedName) error {
	c.artifacts.drop(name)
	c.mu.Lock()
	delete(c.failures, name)
	delete(c.heard, name)
	c.mu.Unlock()
	if !c.catalog.drop(name) {
		return nil
	}
	return c.offer(ctx, name, edition{})
}

// resume makes the last revision of a suspended GitRepository available again
// after a start: suspended means that nothing new comes.
func (c *repositories) resume(ctx context.Context, name types.NamespacedName, repo *sourcev1.GitRepository) (time.Duration, error) {
	if e, ok := c.catalog.get(name); ok && e.has() {
		return 0, nil
	}
	if repo.Status.Artifact == nil {
		return 0, c.withhold(ctx, name, fault.New(fault.Waiting, "it is suspended and has no artifact"))
	}
	request, problem := c.request(ctx, nil, repo, nil)
	if problem != nil {
		return 0, c.withhold(ctx, name, problem.err)
	}
	request.Ref = frozenRef(repo)
	revision, err := c.fetch(ctx, request, repo)
	if err != nil {
		return backOff(c.failedAgain(name), mostRetry), c.withhold(ctx, name, fault.From(err))
	}
	e := editionOf(repo, frozen(repo, revision))
	c.succeeded(name)
	c.catalog.publish(name, e)
	if err := c.offer(ctx, name, e); err != nil {
		return 0, err
	}
	_, err = c.artifacts.add(ctx, name, e)
	return 0, err
}

// frozenRef asks for the commit that the status names. One that a branch led to
// must still be on it; to any other the credential must have a way.
func frozenRef(repo *sourcev1.GitRepository) source.Ref {
	label, commit := parseRevision(repo.Status.Artifact.Revision)
	if asked := RefOf(repo); asked.Branch == "" || asked.Branch != label {
		return source.Ref{Commit: commit}
	}
	return source.Ref{Branch: label, Commit: commit}
}

// frozen names the ref on a revision that was found by the commit of the status alone:
// whoever writes a status has not asked for that commit, which must not be older than
// what the ref led to before.
func frozen(repo *sourcev1.GitRepository, r source.Revision) source.Revision {
	if asked := RefOf(repo); r.Ref() == "" && asked.Commit == "" {
		r.Name = cmp.Or(asked.Name, asked.Tag, asked.SemVer, asked.Branch)
	}
	return r
}

func (c *repositories) withhold(ctx context.Context, name types.NamespacedName, why *fault.Error) error {
	if !c.catalog.fail(name, why) {
		return nil
	}
	return c.offer(ctx, name, edition{})
}

// request translates a GitRepository to what is asked of its server. u is the
// object as written; nil if that was judged before.
func (c *repositories) request(ctx context.Context, u *unstructured.Unstructured, repo *sourcev1.GitRepository, bad *fault.Error) (source.Request, *gitProblem) {
	if bad != nil {
		return source.Request{}, &gitProblem{err: bad, stalled: true}
	}
	if u != nil {
		if err := checkRepository(u, repo); err != nil {
			return source.Request{}, &gitProblem{err: fault.From(err), stalled: true}
		}
	}
	if err := source.CheckURL(repo.Spec.URL, c.env.AllowFileURLs); err != nil {
		return source.Request{}, &gitProblem{err: fault.From(err), stalled: true, url: true}
	}
	credential, err := credential(ctx, c.env.Reader, repo)
	if err != nil {
		return source.Request{}, &gitProblem{err: err, secret: true}
	}
	return source.Request{URL: repo.Spec.URL, Ref: RefOf(repo), Credential: credential, Tenant: "namespace " + repo.Namespace}, nil
}

// checkRepository refuses what is not supported, by name.
func checkRepository(u *unstructured.Unstructured, repo *sourcev1.GitRepository) error {
	spec, _ := u.Object["spec"].(map[string]any)
	if err := unsupported(spec, gitRepositoryFields); err != nil {
		return err
	}
	if p := repo.Spec.Provider; p != "" && p != sourcev1.GitProviderGeneric {
		return fault.New(fault.Unsupported, "spec.provider %s is not supported yet", p).
			WithHint("leave it out, and put username and password into the Secret of spec.secretRef")
	}
	return nil
}

// RefOf returns what a GitRepository follows, and nothing of what that outweighs:
// those who ask the same share the answer.
func RefOf(repo *sourcev1.GitRepository) source.Ref {
	ref := repo.Spec.Reference
	switch {
	case ref == nil:
		return source.Ref{Branch: defaultBranch}
	case ref.Commit != "":
		return source.Ref{Commit: ref.Commit, Branch: ref.Branch}
	case ref.Name != "":
		return source.Ref{Name: ref.Name}
	case ref.SemVer != "":
		return source.Ref{SemVer: ref.SemVer}
	case ref.Tag != "":
		return source.Ref{Tag: ref.Tag}
	}
	return source.Ref{Branch: cmp.Or(ref.Branch, defaultBranch)}
}

// hear notes that the refresh which a token asks for was made.
func (c *repositories) hear(name types.NamespacedName, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[name] = token
}

// unheard reports whether a token asks for a refresh that was not made yet, and
// counts it as made.
func (c *repositories) unheard(name types.NamespacedName, token string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if token == "" || c.heard[name] == token {
		return false
	}
	c.heard[name] = token
	return true
}
