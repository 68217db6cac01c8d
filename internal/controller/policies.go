package controller

import (
	"context"
	"time"

	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/dialect/own"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// Workers that judge keep what they compiled, which takes memory: they end soon when
// nobody needs them, and there is none before the first PolicySet.
const (
	judgeMemory = 512 << 20
	judgeKept   = 256 << 20
	judgeTime   = 30 * time.Second
	judgeIdle   = 20 * time.Second
)

// openJudge makes what judges by policies. It starts nothing yet.
func (p *process) openJudge() {
	o := worker.Options{
		Size: p.Workers, MemoryLimit: max(p.WorkerMemoryBytes, judgeMemory), KeepMemory: judgeKept, Deadline: judgeTime, IdleAfter: judgeIdle,
	}
	p.judges = worker.NewPool(o)
	path, hint := judge.FindKyverno(func(string) string { return p.Kyverno })
	var kyverno judge.Pool
	if path != "" {
		theirs := judge.KyvernoOptions(path)
		theirs.IdleAfter = judgeIdle
		p.kyverno = worker.NewPool(theirs)
		kyverno = p.kyverno
	}
	p.judge = judge.New(p.judges, kyverno, hint)
}

// openPolicies makes what serves PolicySets, and what writes reports.
func (p *process) openPolicies(env *dialect.Env) (err error) {
	p.sets, err = own.SetupPolicySets(p.manager, env, own.SetOptions{
		Options:  own.Options{Changed: p.askAll, Record: env.Engine.Record, Alive: p.alive},
		Policies: p.judge, Verify: p.verifyPolicies, Served: p.cluster.LookupGroupKind,
		Credential: func(ctx context.Context, url string, secret types.NamespacedName) (source.Credential, error) {
			return sourceCredential(ctx, p.manager.GetAPIReader(), url, secret)
		},
		Repository: func(ctx context.Context, name types.NamespacedName) (source.Revision, string, error) {
			return p.flux.Offer(ctx, name)
		},
	})
	if err != nil {
		return err
	}
	env.Policies = p.sets.Sets
	client, err := dynamic.NewForConfigAndClient(p.manager.GetConfig(), p.manager.GetHTTPClient())
	if err != nil {
		return fault.New(fault.Internal, "cannot make a client: %s", err).Because(err)
	}
	p.reports = own.NewReports(client, p.reported, time.Now, p.Log)
	p.cluster.SubscribeKinds(func([]kschema.GroupKind) {
		p.sets.KindsChanged()
		p.reports.All()
	})
	return nil
}

// reported says whether PolicyReports are to be written.
func (p *process) reported() bool {
	_, served := p.cluster.Kinds().Lookup(own.ReportKind)
	return served && !p.NoPolicyReports && !p.Observe
}

// ruled tells what policies say of a delivery.
func (p *process) ruled(id delivery.ID, r delivery.Ruling) {
	p.sets.Ruled(id, r)
	p.reports.Ruled(id, r)
}

// trustChanged asks for a pass of every delivery, and of every PolicySet.
func (p *process) trustChanged() {
	p.askAll()
	if p.sets != nil {
		p.sets.All()
	}
}

// verifyPolicies judges a revision of policies as that of any other delivery is judged.
func (p *process) verifyPolicies(ctx context.Context, r source.Revision, s trust.Subject, last string) error {
	demands, err := p.own.Demands(s)
	if err != nil {
		return err
	}
	verified, err := p.commits.Verify(ctx, r, demands, last)
	if err == nil {
		err = verifyArtifact(ctx, p.images, r, demands, time.Now())
	}
	var refusing []string
	if err != nil {
		refusing = demands.Refusing(err)
	}
	p.own.Judged(api.PolicySetKind, s.Namespace, s.Name, refusing, verified.Evidence().UnprovenTo)
	return err
}
