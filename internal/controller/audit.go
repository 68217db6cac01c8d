package controller

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/depot"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/server"
)

// AuditSecret is the Secret, beside the controller, with the key that signs its log:
// whoever can write to the volume of the log cannot sign it.
const AuditSecret = "holdfast-audit-key" //nolint:gosec // its name

const (
	auditKeyField = "key"       // of AuditSecret: secret
	auditPubField = "key.pub"   // of AuditSecret: what verifies
	auditKeyFile  = "audit.key" // in the data directory
	auditDir      = "audit"     // in the data directory
	auditOrigin   = "holdfast"  // what a log is called whose key is made here
	keyTimeout    = 30 * time.Second
	tellWaiting   = 3 * time.Second // how long the log may take until people are told
)

// openAudit opens the log of decisions. Without it nothing is delivered. While another
// process has it, it waits until ctx ends.
func (p *process) openAudit(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	key, err := p.auditKey(bounded)
	if err != nil {
		return err
	}
	o := audit.Options{Dir: p.AuditDir, Signer: key.Signer, Verifier: key.Verifier, Clock: time.Now, Log: p.Log}
	if o.Dir == "" {
		o.Dir = filepath.Join(p.DataDir, auditDir)
	}
	where := o.Dir
	if p.AuditStore != "" {
		store, err := depot.Open(context.WithoutCancel(ctx), p.AuditStore, os.LookupEnv) // it is closed later than ctx ends
		if err != nil {
			return err
		}
		p.auditStore, o.Store, where = store, store, store.Where()
	}
	late := time.AfterFunc(tellWaiting, func() {
		p.Log.Warn("the audit log is not open yet: another process has it, or its index is made anew; nothing is delivered until it is open", "at", where)
	})
	defer late.Stop()
	if p.audit, err = audit.Open(ctx, o); err != nil {
		return err
	}
	p.served = server.Audit{Log: remote.Kept(p.audit), Files: audit.Files(p.audit.Reader()), Key: key.Public}
	p.Log.Info("audit log", "at", where, "entries", p.audit.Size(), "key", key.Public)
	return nil
}

// keepAudit fails when another process has taken the log: nothing is delivered without it.
func (p *process) keepAudit(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.audit.Lost():
		return fault.New(fault.Conflict, "another controller has taken the audit log").
			WithHint("two controllers cannot share a log: end one of them, or give it a store of its own")
	}
}

// auditKey returns the key of the log, and makes one at the first start.
func (p *process) auditKey(ctx context.Context) (audit.Key, error) {
	switch {
	case p.AuditKey != "":
		return audit.LoadOrCreateKey(p.AuditKey, auditOrigin, rand.Reader)
	case p.Namespace == "":
		return audit.LoadOrCreateKey(filepath.Join(p.DataDir, auditKeyFile), auditOrigin, rand.Reader)
	}
	clients, err := kubernetes.NewForConfig(p.Config)
	if err != nil {
		return audit.Key{}, fault.New(fault.Unreachable, "cannot set up the connection to the cluster: %s", err).Because(err)
	}
	return secretKey(ctx, clients, p.Namespace)
}

// secretKey returns the key in [AuditSecret], which it creates where it does not
// exist. A Secret that is there and holds no key is an error: the log that was
// signed with it would have another signer.
func secretKey(ctx context.Context, clients kubernetes.Interface, namespace string) (audit.Key, error) {
	secrets := clients.CoreV1().Secrets(namespace)
	s, err := secrets.Get(ctx, AuditSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if s, err = newSecret(namespace); err != nil {
			return audit.Key{}, err
		}
		s, err = secrets.Create(ctx, s, metav1.CreateOptions{FieldManager: userAgent})
	}
	switch {
	case apierrors.IsForbidden(err):
		return audit.Key{}, fault.New(fault.Unauthorized, "the key of the audit log, Secret %s/%s, may not be read or made", namespace, AuditSecret).
			WithHint("install the roles of this version: holdfast install").Because(err)
	case err != nil:
		return audit.Key{}, fault.New(fault.Unreachable, "the key of the audit log, Secret %s/%s, cannot be read: %s", namespace, AuditSecret, err).Because(err)
	}
	key, err := audit.ParseKey(s.Data[auditKeyField])
	if err != nil {
		return audit.Key{}, fault.From(err).On("Secret/" + namespace + "/" + AuditSecret)
	}
	return key, nil
}

func newSecret(namespace string) (*corev1.Secret, error) {
	text, err := audit.NewKey(rand.Reader, auditOrigin)
	if err != nil {
		return nil, err
	}
	key, err := audit.ParseKey(text)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: AuditSecret, Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/name": userAgent}},
		Data:       map[string][]byte{auditKeyField: text, auditPubField: []byte(key.Public + "\n")},
	}, nil
}

// askAll asks for a pass of every delivery: they must prove something else than before,
// or the key that some of them lacked is there.
func (p *process) askAll() {
	if p.flux != nil && p.argo != nil {
		go p.flux.All()
		go p.argo.All()
	}
}

// judged tells the policies which of them refuse a delivery, or would.
func (p *process) judged(id delivery.ID, refusing, unproven []string) {
	p.own.Judged(id.Kind, id.Namespace, id.Name, refusing, unproven)
}
