package flux

import (
	"cmp"
	"context"
	"sync"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// gitRepositoryFields are the fields of a GitRepository's spec that are supported.
var gitRepositoryFields = fields{
	"url": nil, "interval": nil, "timeout": nil, "suspend": nil, "ignore": nil, "provider": nil,
	"secretRef": {"name": nil},
	"ref":       {"branch": nil, "commit": nil},
}

// foreignKeys are what else a Secret for Flux may hold to authenticate by. One of
// them unheeded would mean to connect in another way than was asked for.
var foreignKeys = []string{
	"bearerToken", "identity", "ca.crt", "caFile", "tls.crt", "certFile", "tls.key", "keyFile",
	"githubAppID", "githubAppInstallationID", "githubAppInstallationOwner", "githubAppPrivateKey", "githubAppBaseURL",
}

// repositories reconciles GitRepositories: it fetches, tells the deliveries that
// depend on it, and then writes the status.
type repositories struct {
	env       *dialect.Env
	desk      *desk
	catalog   *catalog
	artifacts *Artifacts
	offer     func(context.Context, types.NamespacedName, edition) error

	mu       sync.Mutex
	failures map[types.NamespacedName]int
	heard    map[types.NamespacedName]string // the newest token whose refresh was already made
}

// Reconcile implements the controller runtime's reconciler.
func (c *repositories) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	after, err := c.reconcile(ctx, req.NamespacedName)
	switch {
	case apierrors.IsConflict(err): // it changed since it was read: do it again
		after, err = time.Millisecond, nil
	case apierrors.IsNotFound(err): // the end of the object is on its way
		err = nil
	}
	priority := int(dialect.Untouched)
	return reconcile.Result{RequeueAfter: after, Priority: &priority}, err
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
	repo, bad := decode[sourcev1.GitRepository](u)
	if !repo.DeletionTimestamp.IsZero() {
		return 0, c.desk.setFinalizer(ctx, u, false)
	}
	if repo.Spec.Suspend {
		return c.resume(ctx, name, repo)
	}
	now := c.env.Clock()
	request, problem := c.request(ctx, u, repo, bad)
	if problem != nil {
		return c.fail(ctx, name, u, repo, problem)
	}
	if token := requested(repo.Annotations); token != repo.Status.LastHandledReconcileAt && c.unheard(name, token) {
		c.env.Hub.Refresh(request.URL)
	}
	revision, err := c.fetch(ctx, request, repo)
	if err != nil {
		return c.fail(ctx, name, u, repo, &gitProblem{err: asFault(err)})
	}
	return c.publish(ctx, name, u, repo, revision, now)
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
func (c *repositories) publish(ctx context.Context, name types.NamespacedName, u *unstructured.Unstructured, repo *sourcev1.GitRepository, revision source.Revision, start time.Time) (time.Duration, error) {
	e := editionOf(repo, revision)
	if c.catalog.publish(name, e) {
		if err := c.offer(ctx, name, e); err != nil {
			c.catalog.drop(name) // so that the next try is news again
			return 0, err
		}
		c.env.Log.Info("new revision", "gitrepository", name.String(), "revision", e.label, "took", c.env.Clock().Sub(start))
	}
	e, _ = c.catalog.get(name) // the tree that is already known, if it is the same
	made, err := c.artifacts.add(ctx, name, e)
	if err != nil {
		return c.fail(ctx, name, u, repo, &gitProblem{err: asFault(err), storage: true})
	}
	status := fetched(repo, made.entry(c.artifacts, name, e.label), c.env.Clock())
	old := repo.Status.Artifact
	if _, err := c.desk.setStatus(ctx, u, &repo.Status, &status); err != nil {
		return 0, err
	}
	if old == nil || old.Revision != e.label {
		c.env.Events.Event(u, corev1.EventTypeNormal, "NewArtifact", clip("stored artifact for revision '"+e.label+"'", maxEvent))
	}
	c.succeeded(name)
	return spread(max(repo.Spec.Interval.Duration, minInterval), repo.UID), nil
}

// editionOf returns a revision as the catalog holds it.
func editionOf(repo *sourcev1.GitRepository, revision source.Revision) edition {
	e := edition{revision: revision, label: RevisionName(revision)}
	if repo.Spec.Ignore != nil {
		e.ignore = "ignore " + *repo.Spec.Ignore
	}
	e.revision.Tree = Filter(revision.Tree, repo.Spec.Ignore)
	return e
}

// fail tells that there is no newer revision. The last one stays available.
func (c *repositories) fail(ctx context.Context, name types.NamespacedName, u *unstructured.Unstructured, repo *sourcev1.GitRepository, p *gitProblem) (time.Duration, error) {
	if !p.storage && c.catalog.fail(name, p.err) {
		if err := c.offer(ctx, name, edition{}); err != nil {
			return 0, err
		}
	}
	status := failed(repo, p, c.env.Clock())
	written, err := c.desk.setStatus(ctx, u, &repo.Status, &status)
	if err != nil {
		return 0, err
	}
	if written {
		c.env.Events.Event(u, corev1.EventTypeWarning, p.reason(), clip(p.err.Error(), maxEvent))
		c.env.Log.Warn("a source failed", "gitrepository", name.String(), "reason", p.reason(), "error", p.err.Error())
	}
	if p.stalled {
		return 0, nil
	}
	n := c.failedAgain(name)
	interval := max(repo.Spec.Interval.Duration, minInterval)
	if p.err.Kind.Terminal() {
		return spread(interval, repo.UID), nil
	}
	return backOff(n, min(interval, mostRetry)), nil
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
	request.Ref.Branch, request.Ref.Commit = parseRevision(repo.Status.Artifact.Revision)
	revision, err := c.fetch(ctx, request, repo)
	if err != nil {
		return backOff(c.failedAgain(name), mostRetry), c.withhold(ctx, name, asFault(err))
	}
	e := editionOf(repo, revision)
	c.succeeded(name)
	c.catalog.publish(name, e)
	if err := c.offer(ctx, name, e); err != nil {
		return 0, err
	}
	_, err = c.artifacts.add(ctx, name, e)
	return 0, err
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
			return source.Request{}, &gitProblem{err: asFault(err), stalled: true}
		}
	}
	if err := source.CheckURL(repo.Spec.URL, c.env.AllowFileURLs); err != nil {
		return source.Request{}, &gitProblem{err: asFault(err), stalled: true, url: true}
	}
	credential, err := c.credential(ctx, repo)
	if err != nil {
		return source.Request{}, &gitProblem{err: err, secret: true}
	}
	return source.Request{URL: repo.Spec.URL, Ref: refOf(repo), Credential: credential}, nil
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

func refOf(repo *sourcev1.GitRepository) source.Ref {
	if repo.Spec.Reference == nil {
		return source.Ref{Branch: defaultBranch}
	}
	ref := source.Ref{Branch: repo.Spec.Reference.Branch, Commit: repo.Spec.Reference.Commit}
	if ref.Commit == "" {
		ref.Branch = cmp.Or(ref.Branch, defaultBranch)
	}
	return ref
}

// credential reads the Secret that a GitRepository names.
func (c *repositories) credential(ctx context.Context, repo *sourcev1.GitRepository) (source.Credential, *fault.Error) {
	if repo.Spec.SecretRef == nil {
		return source.Credential{}, nil
	}
	secret, err := readSecret(ctx, c.env.Reader, repo.Namespace, repo.Spec.SecretRef.Name)
	if err != nil {
		return source.Credential{}, err
	}
	return credentialOf(secret)
}

// credentialOf takes user name and password from a Secret and refuses others.
func credentialOf(secret *corev1.Secret) (source.Credential, *fault.Error) {
	at := secret.Namespace + "/" + secret.Name
	for _, key := range foreignKeys {
		if _, ok := secret.Data[key]; ok {
			return source.Credential{}, fault.New(fault.Unsupported, "key %s of Secret %s is not supported yet", key, at).
				WithHint("use username and password")
		}
	}
	username, hasUser := secret.Data["username"]
	password, hasPassword := secret.Data["password"]
	if !hasUser || !hasPassword {
		return source.Credential{}, fault.New(fault.Unauthorized, "Secret %s does not hold username and password", at)
	}
	id := at + "@" + string(secret.UID) + ":" + secret.ResourceVersion
	return source.BasicAuth(id, string(username), string(password)), nil
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
