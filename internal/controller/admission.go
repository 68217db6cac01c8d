package controller

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/admission"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema/defaults"
)

// AdmissionService is the Service by which the API server reaches the gate.
const AdmissionService = "holdfast-admission"

// gate is what answers the API server about what others write.
type gate struct {
	gate     *admission.Gate
	listener net.Listener
	config   *tls.Config
	ca       []byte
	target   admission.Target
	self     []string
}

// openAdmission listens for the API server, if that is asked for.
func (p *process) openAdmission(engine *delivery.Engine) error {
	if p.AdmissionAddress == "" {
		return nil
	}
	if p.Namespace == "" && p.AdmissionURL == "" {
		return fault.New(fault.Invalid, "outside of a cluster, the API server must be told where to ask").
			WithHint("set --admission-url to an address of this machine that it reaches, https://HOST:PORT")
	}
	g := &gate{target: admission.Target{Namespace: p.Namespace, Service: AdmissionService}}
	host := AdmissionService + "." + p.Namespace + ".svc"
	if p.AdmissionURL != "" {
		u, err := url.Parse(p.AdmissionURL)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" {
			return fault.New(fault.Invalid, "--admission-url: %q is no https address", p.AdmissionURL)
		}
		host, g.target.URL = u.Hostname(), u.JoinPath(admission.Path).String()
	}
	certificate, ca, err := admission.Certificate([]string{host}, time.Now())
	if err != nil {
		return err
	}
	g.ca = ca
	if g.self, err = p.self(); err != nil {
		return err
	}
	g.config = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if g.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", p.AdmissionAddress); err != nil {
		return fault.New(fault.Invalid, "cannot listen for the API server at %s: %s", p.AdmissionAddress, err)
	}
	g.gate = admission.New(admission.Options{
		Sets: p.sets.Guarding, Judge: p.judge, Held: p.holder(engine), Labels: p.spaceLabels, Complete: defaults.Complete,
		Groups: p.AdmissionGroups, Self: g.self, Clock: time.Now, Log: p.Log,
	})
	p.gate = g
	return nil
}

// self asks the API server who Holdfast is to it.
func (p *process) self() ([]string, error) {
	clients, err := kubernetes.NewForConfig(p.Config)
	if err != nil {
		return nil, fault.From(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	review, err := clients.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return nil, fault.New(fault.Unreachable, "the API server does not say who Holdfast is: %s", err).Because(err)
	}
	return []string{review.Status.UserInfo.Username}, nil
}

func namespaceKind() *metav1.PartialObjectMetadata {
	n := &metav1.PartialObjectMetadata{}
	n.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return n
}

// spaceLabels returns the labels of a namespace from the manager's cache.
func (p *process) spaceLabels(name string) (map[string]string, bool) {
	if p.ready.err() != nil {
		return nil, false // nor would it be known who holds what
	}
	n := namespaceKind()
	if err := p.manager.GetClient().Get(context.Background(), types.NamespacedName{Name: name}, n); err != nil {
		return nil, false
	}
	return n.Labels, true
}

// holder tells who holds an object: by its marks, or, where these are not at hand, as it
// was seen last.
func (p *process) holder(engine *delivery.Engine) func(object.ID, map[string]string, map[string]string) (admission.Holder, bool) {
	byMarks := clusterOptions(p.ArgoNamespace, p.Log).Owner
	return func(id object.ID, labels, annotations map[string]string) (admission.Holder, bool) {
		owner := byMarks(id, labels, annotations)
		if kind, ok := p.cluster.LookupGroupKind(id.GroupKind()); ok && labels == nil && annotations == nil {
			record, _ := p.cluster.Look(kind, id)
			owner = record.Owner
		}
		if owner == "" || !p.alive(owner) {
			return admission.Holder{}, false
		}
		holder := admission.Holder{Delivery: owner}
		if user, ok := engine.Writer(owner); ok && user != "" {
			holder.Users = []string{user}
		}
		return holder, true
	}
}

// guard serves the gate until ctx ends, and has the API server ask it.
func (p *process) guard(ctx context.Context) error {
	if p.gate == nil || !p.manager.GetCache().WaitForCacheSync(ctx) {
		return nil
	}
	// From here on the answer is at hand when somebody writes.
	if _, err := p.manager.GetCache().GetInformer(ctx, namespaceKind()); err != nil {
		return fault.New(fault.Unreachable, "the namespaces cannot be watched: %s", err).Because(err)
	}
	s := &http.Server{
		Handler: p.gate.gate.Handler(), TLSConfig: p.gate.config, ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout: admission.Timeout, WriteTimeout: 2 * admission.Timeout, MaxHeaderBytes: 16 << 10,
	}
	ended := context.AfterFunc(ctx, func() { _ = s.Close() }) // who asks is refused, or asks again
	defer ended()
	failed := make(chan error, 1)
	go func() { failed <- s.ServeTLS(p.gate.listener, "", "") }()
	if err := p.configureAdmission(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	if err := <-failed; ctx.Err() == nil {
		return fault.From(err)
	}
	return nil
}

// configureAdmission writes the webhook's configuration.
func (p *process) configureAdmission(ctx context.Context) error {
	text, err := json.Marshal(admission.Configuration(p.gate.target, p.gate.ca, p.gate.self))
	if err != nil {
		return fault.From(err)
	}
	hook := &metav1.PartialObjectMetadata{}
	hook.APIVersion, hook.Kind, hook.Name = "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", admission.Name
	err = p.manager.GetClient().Patch(ctx, hook, client.RawPatch(types.ApplyPatchType, text), client.ForceOwnership, client.FieldOwner(userAgent))
	if err != nil && ctx.Err() == nil {
		return fault.New(fault.Rejected, "the webhook cannot be configured: %s", err).
			WithHint("holdfast install --admission grants the right to").Because(err)
	}
	p.Log.Info("judging what others write", "namespaces with the label", admission.Label, "at", p.gate.listener.Addr().String())
	return nil
}
