package sealed

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"time"

	"github.com/bitnami/sealed-secrets/pkg/crypto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// What the stock controller makes keys with.
const (
	keyPrefix   = "sealed-secrets-key"
	keyBits     = 4096
	keyValidity = 10 * 365 * 24 * time.Hour
	// RenewEvery is how old the stock controller lets a key become before it makes another.
	RenewEvery = 30 * 24 * time.Hour
)

const retryRenewal = time.Hour

// NewKey returns a new active sealing key as the Secret of a namespace, in the form
// that the stock controller reads as well. Making it takes about a second. Errors are
// Internal (no randomness).
func NewKey(namespace string, now time.Time, random io.Reader) (*corev1.Secret, error) {
	return newKey(keyBits, namespace, now, random)
}

func newKey(bits int, namespace string, now time.Time, random io.Reader) (*corev1.Secret, error) {
	private, err := rsa.GenerateKey(random, bits)
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot make an RSA key: %s", err)
	}
	cert, err := crypto.SignKeyWithNotBefore(random, private, now, keyValidity, "")
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot make a certificate: %s", err)
	}
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: keyPrefix, Labels: map[string]string{KeyLabel: KeyActive}},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}),
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		},
	}, nil
}

// Create makes a new active sealing key and stores it in a namespace. Errors are
// Internal and Rejected.
func Create(ctx context.Context, client kubernetes.Interface, namespace string, now time.Time, random io.Reader) (*Key, error) {
	s, err := NewKey(namespace, now, random)
	if err != nil {
		return nil, err
	}
	made, err := client.CoreV1().Secrets(namespace).Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		return nil, fault.New(fault.Rejected, "cannot store a sealing key in namespace %s: %s", namespace, err).Because(err)
	}
	return ReadKey(made)
}

// ensure makes a key and takes it into use at once.
func (k *Keys) ensure(ctx context.Context) error {
	key, err := Create(ctx, k.Client, k.home(), k.Clock(), k.Random)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.secrets[key.Secret] = key
	k.ring.Store(newRing(append(k.ring.Load().keys, key)))
	k.mu.Unlock()
	k.Log.Info("a sealing key was made", "key", key)
	k.changed()
	return nil
}

// home is the namespace for a new key: that of the newest, so that the stock
// controller still finds what it would have made itself.
func (k *Keys) home() string {
	if newest := k.ring.Load().newest(); newest != nil {
		ns, _ := splitName(newest.Secret)
		return ns
	}
	return k.Namespaces[len(k.Namespaces)-1]
}

// Fetch returns the certificate to seal for. The first key is made if there is none,
// and the options say so. Errors are NotFound (no key), Waiting, Internal and Rejected.
func (k *Keys) Fetch(ctx context.Context) ([]byte, error) {
	if cert := k.Certificate(); cert != nil {
		return cert, nil
	}
	k.making.Lock()
	defer k.making.Unlock()
	k.mu.Lock()
	waiting, stock := k.waiting, k.elseNote
	k.mu.Unlock()
	switch cert := k.Certificate(); {
	case cert != nil:
		return cert, nil
	case waiting != nil:
		return nil, waiting
	case stock != "":
		return nil, fault.New(fault.NotFound, "sealing keys are kept by %s", stock).WithHint("ask it for its certificate")
	case !k.Create:
		return nil, fault.New(fault.NotFound, "the cluster has no active sealing key").WithHint("make one with 'holdfast keys rotate'")
	}
	if err := k.ensure(ctx); err != nil {
		return nil, err
	}
	return k.Certificate(), nil
}

// renew makes a new key whenever the newest is too old, until ctx ends. Where the stock
// controller runs, it is its business; a first key is made when it is asked for.
func (k *Keys) renew(ctx context.Context) {
	if k.Renew <= 0 {
		return
	}
	go func() {
		for {
			wait := retryRenewal
			if age := k.due(); age > 0 {
				wait = min(wait, age)
			} else if age == 0 {
				if err := k.ensure(ctx); err != nil {
					k.Log.Warn("the sealing key cannot be renewed", "error", err)
				} else {
					continue
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-k.wake:
			case <-time.After(wait):
			}
		}
	}()
}

// due returns how long the newest key may still be used; 0 if a new one is due, and
// less if that is for nobody here to decide.
func (k *Keys) due() time.Duration {
	k.mu.Lock()
	idle := k.waiting != nil || k.elseNote != ""
	k.mu.Unlock()
	newest := k.ring.Load().newest()
	if idle || newest == nil {
		return -1
	}
	return max(0, newest.Certificate.NotBefore.Add(k.Renew).Sub(k.Clock()))
}
