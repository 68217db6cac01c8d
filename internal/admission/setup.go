package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Lifetime of a certificate. It is made when the process starts and trusted by the
// webhook's configuration alone.
const Lifetime = 365 * 24 * time.Hour

// Certificate makes a key and a certificate for hosts, names or addresses, and returns it
// with the PEM by which clients know it.
func Certificate(hosts []string, now time.Time) (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, fault.From(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, nil, fault.From(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "holdfast admission"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(Lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, // of itself
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, fault.From(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Name is that of the webhook's configuration.
const Name = "holdfast"

// Target is where the API server reaches the gate: a Service, or an address outside of
// the cluster.
type Target struct {
	Namespace, Service string
	URL                string // instead of a Service
}

// Configuration is the webhook's: it asks for writes to namespaced objects in namespaces
// that carry the label, fails closed for these, and never asks about the namespaces that
// Holdfast and Kubernetes live in, so that neither keeps itself from coming back.
func Configuration(t Target, ca []byte, self []string) *admissionregistrationv1.ValidatingWebhookConfiguration {
	closed, exact, none := admissionregistrationv1.Fail, admissionregistrationv1.Equivalent, admissionregistrationv1.SideEffectClassNone
	seconds, namespaced, path := int32(Timeout/time.Second), admissionregistrationv1.NamespacedScope, Path
	own := []string{"kube-system", "kube-public", "kube-node-lease"}
	if t.Namespace != "" {
		own = append(own, t.Namespace)
	}
	config := admissionregistrationv1.WebhookClientConfig{CABundle: ca}
	if t.URL != "" {
		config.URL = &t.URL
	} else {
		config.Service = &admissionregistrationv1.ServiceReference{Namespace: t.Namespace, Name: t.Service, Path: &path}
	}
	hook := admissionregistrationv1.ValidatingWebhook{
		Name: "admission.holdfast.dev", ClientConfig: config,
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update, admissionregistrationv1.Delete},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*", "*/scale"}, Scope: &namespaced},
		}},
		FailurePolicy: &closed, MatchPolicy: &exact, SideEffects: &none, TimeoutSeconds: &seconds, AdmissionReviewVersions: []string{"v1"},
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: Label, Operator: metav1.LabelSelectorOpExists},
			{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn, Values: own},
		}},
		// Leases and events are written all the time, and hold nothing to judge.
		MatchConditions: []admissionregistrationv1.MatchCondition{{
			Name: "worth-judging", Expression: `!(request.resource.group in ["coordination.k8s.io", "events.k8s.io"]) && !(request.resource.group == "" && request.resource.resource == "events")`,
		}},
	}
	for i, user := range self {
		hook.MatchConditions = append(hook.MatchConditions, admissionregistrationv1.MatchCondition{
			Name: fmt.Sprintf("not-holdfast-%d", i), Expression: fmt.Sprintf("request.userInfo.username != %q", user),
		})
	}
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "ValidatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: Name, Labels: map[string]string{"app.kubernetes.io/managed-by": "holdfast"}},
		Webhooks:   []admissionregistrationv1.ValidatingWebhook{hook},
	}
}
