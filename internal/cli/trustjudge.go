package cli

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	trustapi "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/controller"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect/own"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/operate"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/git"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/commit"
	"github.com/holdfastcd/holdfast/internal/trust/image"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// policies compiles the policies of the files, or else of the cluster.
func (o *TrustCheck) policies(ctx context.Context, cfg *rest.Config, p Process) ([]own.Compiled, error) {
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return nil, classify(err, "connect to the cluster")
	}
	var objects []*unstructured.Unstructured
	if len(o.Policies) > 0 {
		objects, err = readObjects(p, o.Policies)
	} else {
		objects, err = livePolicies(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	var compiled []own.Compiled
	for _, u := range objects {
		if u.GetKind() == trustapi.TrustPolicyKind && u.GroupVersionKind().Group == trustapi.GroupVersion.Group {
			compiled = append(compiled, own.Compile(u, keysOf(ctx, c, objects)))
		}
	}
	switch {
	case len(compiled) > 0:
	case len(o.Policies) > 0:
		return nil, fault.New(fault.NotFound, "%s: there is no TrustPolicy in it", strings.Join(o.Policies, ", ")).
			WithHint("name the file of one, of apiVersion %s", trustapi.GroupVersion)
	default:
		return nil, fault.New(fault.NotFound, "there is no TrustPolicy").WithHint("write one, and try it with -f FILE; see docs/trust.md")
	}
	return compiled, nil
}

func livePolicies(ctx context.Context, c client.Client) ([]*unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(trustapi.GroupVersion.WithKind(trustapi.TrustPolicyKind + "List"))
	if err := c.List(ctx, list); err != nil {
		return nil, kubeFault(err, "list TrustPolicies")
	}
	var all []*unstructured.Unstructured
	for i := range list.Items {
		all = append(all, &list.Items[i])
	}
	return all, nil
}

// keysOf reads ConfigMaps and Secrets from among objects, or else from the cluster.
func keysOf(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) own.Read {
	return func(r own.Ref) (own.Content, error) {
		u := &unstructured.Unstructured{}
		i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool {
			return o.GetAPIVersion() == "v1" && o.GetKind() == r.Kind && o.GetNamespace() == r.Namespace && o.GetName() == r.Name
		})
		if i >= 0 {
			u = objects[i]
		} else {
			u.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(r.Kind))
			err := c.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: r.Name}, u)
			switch {
			case apierrors.IsNotFound(err):
				return own.Content{}, fault.New(fault.NotFound, "%s does not exist", r)
			case err != nil:
				return own.Content{}, classify(err, "read "+r.String())
			}
		}
		return contentOf(u, r)
	}
}

func contentOf(u *unstructured.Unstructured, r own.Ref) (own.Content, error) {
	content := own.Content{Data: map[string][]byte{}, Version: u.GetResourceVersion()}
	var secret corev1.Secret
	var config corev1.ConfigMap
	into, text, binary := any(&config), &config.Data, &config.BinaryData
	if r.Kind == "Secret" {
		into, text, binary = &secret, &secret.StringData, &secret.Data
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into); err != nil {
		return content, fault.New(fault.Invalid, "it is no %s", r.Kind).On(r.String()) // the error may repeat a value
	}
	maps.Copy(content.Data, *binary)
	for name, value := range *text {
		content.Data[name] = []byte(value)
	}
	return content, nil
}

// trustJudge judges deliveries as the controller would.
type trustJudge struct {
	*TrustCheck

	config   *rest.Config
	policies []own.Compiled
	commits  *commit.Verifier
	images   *image.Examiner
	engine   *delivery.Engine
	renderer render.Renderer
	leaks    *leak.Scanner
	fetcher  *fetcher
	closers  []func()
}

func (o *TrustCheck) newJudge(ctx context.Context, cfg *rest.Config, policies []own.Compiled) (*trustJudge, error) {
	log := slog.New(slog.DiscardHandler)
	renderer, closeRenderer := newRenderer()
	pool := worker.NewPool(worker.Options{Size: 1})
	j := &trustJudge{
		TrustCheck: o, config: cfg, policies: policies, renderer: renderer, leaks: leak.New(pool),
		closers: []func(){closeRenderer, pool.Close},
		commits: commit.New(commit.Options{Clock: time.Now, Log: log}),
		images:  image.New(image.Options{Clock: time.Now, Log: log}),
	}
	var err error
	if j.engine, err = controller.Previewer(ctx, cfg, renderer, o.ArgoNamespace, nil); err == nil {
		o.ask(ctx, j.engine.Cluster)
		j.fetcher, err = newFetcher(git.Options{Proxy: http.ProxyFromEnvironment, AllowFile: o.Source != ""})
	}
	if err != nil {
		j.close()
		return nil, err
	}
	j.closers = append(j.closers, j.fetcher.close)
	return j, nil
}

func (j *trustJudge) close() {
	for _, end := range j.closers {
		end()
	}
}

// delivery says what each policy says about a delivery. What fails is a finding: the
// others are judged all the same.
func (j *trustJudge) delivery(ctx context.Context, u *unstructured.Unstructured) []finding {
	all, err := j.findings(ctx, u)
	if err == nil {
		return all
	}
	// Which delivery it is about stands beside it.
	return append(all, finding{Delivery: operate.Name(u), Outcome: unjudged, Message: fault.From(err).On("").Error()})
}

func (j *trustJudge) findings(ctx context.Context, u *unstructured.Unstructured) ([]finding, error) {
	asked, err := live(u)
	if err == nil {
		known := j.Diff
		known.Source = "" // a checkout stands for a repository, whose address counts all the same
		err = known.complete(ctx, j.config, &asked)
	}
	if err != nil {
		return nil, err
	}
	subject := subjectOf(asked)
	selected := slices.DeleteFunc(slices.Clone(j.policies), func(c own.Compiled) bool { return !c.Selects(subject) })
	if len(selected) == 0 {
		return []finding{{Delivery: operate.Name(u), Outcome: skipped, Message: "no policy is for it"}}, nil
	}
	spec, err := j.spec(ctx, asked, subject.Repository)
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, c := range selected {
		of := finding{Delivery: operate.Name(u), Revision: spec.Revision.Commit, Policy: c.Policy.Name}
		found, err := j.policy(ctx, c.Policy, spec, of)
		all = append(all, found...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// subjectOf is what policies select a delivery by. asked is that one delivery, with
// what it refers to.
func subjectOf(asked requested) trust.Subject {
	switch {
	case len(asked.applications) == 1:
		app := asked.applications[0]
		s := trust.Subject{Kind: operate.Application.Kind, Namespace: app.Namespace, Name: app.Name, Labels: app.Labels}
		s.Project = cmp.Or(app.Spec.Project, "default")
		if app.Spec.Source != nil {
			s.Repository = app.Spec.Source.RepoURL
		}
		return s
	case len(asked.kustomizations) == 1:
		ks := asked.kustomizations[0]
		s := trust.Subject{Kind: operate.Kustomization.Kind, Namespace: ks.Namespace, Name: ks.Name, Labels: ks.Labels}
		if g := asked.repository(ks); g != nil {
			s.Repository = g.Spec.URL
		}
		return s
	}
	return trust.Subject{}
}

// spec fetches the source of a delivery, or reads it from a checkout, and
// translates it.
func (j *trustJudge) spec(ctx context.Context, asked requested, repository string) (delivery.Spec, error) {
	var specs []delivery.Spec
	var err error
	if j.Source == "" {
		specs, err = j.fetcher.specs(ctx, &asked, j.previewOptions)
	} else {
		var revision source.Revision
		if revision, err = j.checkout(ctx, repository); err == nil {
			specs, err = asked.specs(ctx, revision, j.previewOptions)
		}
	}
	switch {
	case err != nil:
		return delivery.Spec{}, err
	case len(specs) != 1:
		return delivery.Spec{}, fault.New(fault.Invalid, "it is no Application and no Kustomization")
	}
	return specs[0], nil
}

// checkout reads the directory that stands for a repository: what is committed, if
// it is a checkout of Git.
func (j *trustJudge) checkout(ctx context.Context, repository string) (source.Revision, error) {
	dir, err := filepath.Abs(j.Source)
	if err != nil {
		return source.Revision{}, fault.New(fault.Invalid, "cannot find %s", j.Source).Because(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		return directory(j.Source)
	}
	revision, err := j.fetcher.store.Fetch(ctx, source.Request{URL: "file://" + filepath.ToSlash(dir)})
	if err == nil && repository != "" {
		revision.URL = source.NormalizeURL(repository)
	}
	return revision, err
}

// policy says what one policy says about a delivery.
func (j *trustJudge) policy(ctx context.Context, p trust.Policy, spec delivery.Spec, of finding) ([]finding, error) {
	refused := policy.Fail
	if p.Audit {
		refused = policy.Audit
	}
	if p.Broken != "" {
		of.Rule, of.Outcome, of.Message = "policy", refused, "the policy is broken: "+p.Broken
		return []finding{of}, nil
	}
	var all []finding
	if p.Commits != nil {
		found, err := j.commitsOf(ctx, p, spec.Revision, of, refused)
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	if p.Plaintext != nil {
		found, err := j.plaintextOf(ctx, p, spec, of)
		if err != nil {
			return all, err
		}
		all = append(all, found...)
	}
	if p.Images == nil {
		return all, nil
	}
	found, err := j.imagesOf(ctx, p, spec, of)
	return append(all, found...), err
}

// plaintextOf judges the secrets that nobody sealed in what the delivery reads.
func (j *trustJudge) plaintextOf(ctx context.Context, p trust.Policy, spec delivery.Spec, of finding) ([]finding, error) {
	p.Commits, p.Images = nil, nil
	spec.Trust = trust.NewDemands(p)
	verdicts, err := delivery.JudgePlaintext(ctx, j.leaks, j.renderer, spec, time.Now())
	all := make([]finding, 0, len(verdicts))
	for _, v := range verdicts {
		f := of
		f.Rule, f.Outcome, f.Message = v.Rule, v.Outcome, v.Message
		all = append(all, f)
	}
	return all, err
}

// commitsOf judges the commits as if the policy were enforced.
func (j *trustJudge) commitsOf(ctx context.Context, p trust.Policy, revision source.Revision, of finding, refused string) (finding, error) {
	of.Rule = "commits"
	if revision.History == nil {
		return of, fault.New(fault.Invalid, "the source has no commits").WithHint("give a checkout of Git with --source")
	}
	p.Audit, p.Images, p.Plaintext = false, nil, nil
	verified, err := j.commits.Verify(ctx, revision, trust.NewDemands(p), "")
	switch kind := fault.KindOf(err); {
	case err == nil:
		of.Outcome, of.Message = policy.Pass, proven(verified.Evidence())
	case kind == fault.Refused:
		of.Outcome, of.Message = refused, err.Error()
	default:
		return of, err
	}
	return of, nil
}

// proven says who signed the newest commit.
func proven(e trust.Evidence) string {
	text := fmt.Sprintf("%d commits judged", e.Judged)
	if e.Judged == 1 {
		text = "1 commit judged"
	}
	for _, c := range e.Commits {
		if s := c.Signer; s != nil {
			return fmt.Sprintf("%s, signed by %s (%s %s)", text, cmp.Or(s.Identity, s.Authority), s.Kind, s.Fingerprint)
		}
	}
	return text
}

// imagesOf judges the images that the delivery would run.
func (j *trustJudge) imagesOf(ctx context.Context, p trust.Policy, spec delivery.Spec, of finding) ([]finding, error) {
	composed, err := delivery.Compose(ctx, j.renderer, spec, j.kinds())
	if err != nil {
		return nil, err
	}
	objects, err := desired(composed)
	if err != nil {
		return nil, err
	}
	p.Commits, p.Plaintext = nil, nil
	demands := trust.NewDemands(p)
	images, err := j.images.Examine(ctx, object.ImagesAt(objects, p.Images.Paths), demands, nil)
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, v := range policy.Images(images, demands, time.Now()) {
		f := of
		f.Rule, f.Image, f.Outcome, f.Message = v.Rule, v.Image, v.Outcome, v.Message
		all = append(all, f)
	}
	if len(images) == 0 {
		of.Rule, of.Outcome, of.Message = "images", policy.Pass, "it runs none"
		all = append(all, of)
	}
	return all, nil
}

func (j *trustJudge) kinds() schema.Kinds { return j.engine.Cluster.Kinds() }

// desired are the objects of a plan.
func desired(composed plan.Plan) ([]object.Object, error) {
	var objects []object.Object
	for _, a := range composed.Actions() {
		if a.Desired == nil {
			continue
		}
		var o object.Object
		if err := o.UnmarshalJSON(a.Desired.Body.Reveal()); err != nil {
			return nil, fault.New(fault.Internal, "an object that was rendered cannot be read again").On(a.ID.String())
		}
		objects = append(objects, o)
	}
	return objects, nil
}
