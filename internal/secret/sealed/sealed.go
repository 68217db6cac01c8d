// Package sealed opens and makes SealedSecrets (bitnami.com/v1alpha1) with the sealing
// keys of the cluster, as the stock controller and kubeseal do.
//
// A sealed value is base64 of a length in two bytes, a session key encrypted by
// RSA-OAEP with SHA-256, and the content encrypted by AES-256-GCM under that session
// key. The label of OAEP binds it to a place: its namespace and name, its namespace, or
// the cluster. A sealing key is a Secret of type kubernetes.io/tls with [KeyLabel].
//
// What the format does not protect is the template: whoever may write the SealedSecret
// decides about labels, type and templated values of the Secret. They are proven by
// the signature of the commit, or not at all.
package sealed

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// StockNamespace is where the stock controller is installed, and keeps its keys, if
// nothing else is chosen.
const StockNamespace = "kube-system"

// Options are what the opening of SealedSecrets needs of the process.
type Options struct {
	// Client reads and watches sealing keys, in Namespaces only, and looks for
	// another controller. With Renew or Create, it creates keys.
	Client kubernetes.Interface
	// Namespaces hold sealing keys. The last is where new ones are made.
	Namespaces []string
	// Renew makes a new key when the newest is this old; 0: never.
	Renew time.Duration
	// Create makes the first key where there is none, and no other controller.
	Create bool
	// Changed is called when keys, or who opens SealedSecrets, have changed; may be nil.
	Changed func()
	// Recheck is after how long a Deployment that could be another controller is judged
	// again; default a minute.
	Recheck time.Duration
	Clock   func() time.Time // time.Now when nil
	Random  io.Reader        // rand.Reader when nil
	Log     *slog.Logger     // nothing is logged when nil
}

// Keys opens SealedSecrets with the sealing keys in the cluster. It implements
// secret.Unsealer, and is safe for concurrent use.
type Keys struct {
	Options

	ring   atomic.Pointer[ring]
	fit    atomic.Pointer[Key] // that opened the latest value
	memory *memory
	pace   *rate.Limiter // of what strangers have opened

	making sync.Mutex    // held while a key is made
	wake   chan struct{} // something has changed, for who renews keys

	mu       sync.Mutex
	secrets  map[string]*Key  // by the Secret's namespace/name
	barred   map[string]*Key  // that are compromised, by the same; they open nothing
	unread   map[string]error // why a namespace, or who else opens, cannot be seen
	pending  map[string]bool  // what was not looked at yet
	stock    map[string]bool  // Deployments of the stock controller, by namespace/name
	waiting  error            // why nothing can be opened yet; nil: it can
	elseNote string           // name of another controller; "" for none
}

// How many values strangers may have opened through the HTTP port.
const (
	strangersRate  = 50 // RSA operations in a second; 6 ms of a processor each
	strangersBurst = 256
)

// New returns keys that are read once [Keys.Run] runs; until then everything is
// Waiting. Errors are Invalid (no namespace) and Internal.
func New(o Options) (*Keys, error) {
	if len(o.Namespaces) == 0 || o.Client == nil {
		return nil, fault.New(fault.Invalid, "no namespace is named that holds sealing keys")
	}
	k, err := newKeys(o)
	if err != nil {
		return nil, err
	}
	for _, ns := range o.Namespaces {
		k.pending[ns] = true
	}
	for _, selector := range stockSelectors {
		k.pending[selector] = true
	}
	k.waiting = errUnread
	return k, nil
}

// Of returns keys that are these and no others, whatever a cluster holds.
func Of(keys ...*Key) (*Keys, error) {
	k, err := newKeys(Options{})
	if err != nil {
		return nil, err
	}
	k.ring.Store(newRing(keys))
	return k, nil
}

var errUnread = fault.New(fault.Waiting, "the sealing keys of the cluster are not read yet")

func newKeys(o Options) (*Keys, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Recheck <= 0 {
		o.Recheck = recheck
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c, err := newMemory(o.Random)
	if err != nil {
		return nil, err
	}
	k := &Keys{
		Options: o, memory: c, pace: rate.NewLimiter(strangersRate, strangersBurst),
		secrets: map[string]*Key{}, barred: map[string]*Key{}, unread: map[string]error{}, pending: map[string]bool{}, stock: map[string]bool{},
		wake: make(chan struct{}, 1),
	}
	k.ring.Store(newRing(nil))
	return k, nil
}

// ID identifies the keys at hand: a digest of their fingerprints, "" for none.
func (k *Keys) ID() string { return k.ring.Load().id }

// Elsewhere names the stock controller where it runs in the cluster; "" where it does
// not, and SealedSecrets are opened here.
func (k *Keys) Elsewhere() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.elseNote
}

// Certificate returns the certificate of the newest active key, in PEM: what values
// are sealed for. It is nil if there is no such key.
func (k *Keys) Certificate() []byte {
	newest := k.ring.Load().newest()
	if newest == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: newest.Certificate.Raw})
}

// Unseal returns the Secret that o, in its namespace, is for; see secret.Unsealer.
// Errors, beyond those it names, are Waiting while the keys are not read, Unsupported
// for fields without effect, and Limit.
func (k *Keys) Unseal(o *unstructured.Unstructured, turn func() error) (*unstructured.Unstructured, error) {
	if turn == nil {
		turn = free
	}
	f, err := read(o)
	if err != nil {
		return nil, err
	}
	data, err := k.open(f, turn)
	if err != nil {
		return nil, fault.From(err).On(identify(o))
	}
	if err := f.template.fill(data); err != nil {
		return nil, fault.From(err).On(identify(o))
	}
	return f.secret(data), nil
}

// turn is asked before every RSA operation.
type turn func() error

func free() error { return nil }

// stranger has somebody wait who is not a delivery.
func (k *Keys) stranger(ctx context.Context) turn {
	return func() error {
		if err := k.pace.Wait(ctx); err != nil {
			return fault.New(fault.Waiting, "too many have SealedSecrets opened at once").WithHint("try again later")
		}
		return nil
	}
}

// open returns the sealed values of f. The first that does not open ends it.
func (k *Keys) open(f *form, t turn) (map[string][]byte, error) {
	k.mu.Lock()
	waiting := k.waiting
	k.mu.Unlock()
	if waiting != nil {
		return nil, waiting
	}
	data := make(map[string][]byte, len(f.values))
	for _, key := range f.keys() {
		content, err := k.openValue(f, key, t)
		if err != nil {
			return nil, err
		}
		data[key] = content
	}
	return data, nil
}

// openValue opens one value, or tells from the cache what came of it.
func (k *Keys) openValue(f *form, key string, t turn) ([]byte, error) {
	value, keys := f.values[key], k.ring.Load()
	name := digestOf(value, []byte(key), f.label(), []byte(f.template.namespace), []byte(f.template.name))
	if content, failed, known := k.memory.get(name, keys); known {
		if failed != nil {
			return nil, failed
		}
		return content, nil
	}
	content, by, err := k.try(keys, value, f.label(), t)
	if err == nil {
		k.memory.opened(name, by, content)
		return content, nil
	}
	failed, lasting := k.explain(keys, f, key, err, t)
	if lasting {
		k.memory.failed(name, keys, failed)
	}
	return nil, failed
}

// try tries the keys: that which opened the latest value, then newest first, since a
// value does not say which key it is for. Errors are errDamaged, errOther, and those of t.
func (k *Keys) try(keys *ring, value, label []byte, t turn) ([]byte, *Key, error) {
	if !wellFormed(value) {
		return nil, nil, errDamaged
	}
	latest := k.fit.Load()
	if latest != nil && keys.holds(latest.Fingerprint) && latest.fits(value) {
		if content, err := once(latest, value, label, t); !errors.Is(err, errOther) {
			return content, latest, err
		}
	}
	for _, key := range keys.keys {
		if !key.fits(value) || latest != nil && key.Fingerprint == latest.Fingerprint {
			continue
		}
		content, err := once(key, value, label, t)
		if errors.Is(err, errOther) {
			continue
		}
		if err == nil {
			k.fit.Store(key)
		}
		return content, key, err
	}
	return nil, nil, errOther
}

func once(key *Key, value, label []byte, t turn) ([]byte, error) {
	if err := t(); err != nil {
		return nil, err
	}
	return key.open(value, label)
}

// explain says why a value does not open. lasting is false if another try could end
// otherwise with the same keys.
func (k *Keys) explain(keys *ring, f *form, key string, err error, t turn) (why *fault.Error, lasting bool) {
	switch {
	case errors.Is(err, errDamaged):
		return fault.New(fault.Refused, "the sealed value %s is damaged, or was changed since it was sealed", key).
			WithHint("take it from the last good commit, or seal it again"), true
	case !errors.Is(err, errOther):
		return fault.From(err), false
	}
	if at, err := k.elsewhere(keys, f, key, t); err != nil {
		return fault.From(err), false
	} else if at != "" {
		return fault.New(fault.Refused, "the value %s is sealed %s, and this SealedSecret is %s %s/%s", key, at, f.scope, f.namespace, f.name).
			WithHint("seal it again for this place, or give the SealedSecret the name, namespace and scope annotation that it was sealed for"), true
	}
	return fault.New(fault.NotFound, "no sealing key opens the value %s; keys at hand: %s%s", key, keys, k.unusedNote()).
		WithHint("restore the key that it was sealed with ('holdfast keys restore'), or seal it again; it may also be sealed for another name or namespace than %s/%s, or be damaged: the format does not tell these apart", f.namespace, f.name), true
}

// elsewhere tries the other places that a value may have been sealed for: the other
// scopes, and name and namespace of the template, which kubeseal writes there and
// tools that rename objects leave alone. It returns "" if none of them fits.
func (k *Keys) elsewhere(keys *ring, f *form, key string, t turn) (string, error) {
	tried := map[string]bool{string(f.label()): true}
	for _, place := range [][2]string{{f.namespace, f.name}, {f.template.namespace, f.template.name}} {
		for _, s := range []Scope{Strict, NamespaceWide, ClusterWide} {
			label := s.label(place[0], place[1])
			if place[0] == "" || place[1] == "" || tried[string(label)] {
				continue
			}
			tried[string(label)] = true
			_, _, err := k.try(keys, f.values[key], label, t)
			switch {
			case err == nil || errors.Is(err, errDamaged):
				return placeName(s, label), nil
			case !errors.Is(err, errOther):
				return "", err
			}
		}
	}
	return "", nil
}

func placeName(s Scope, label []byte) string {
	switch s {
	case Strict:
		return "for the name " + string(label)
	case NamespaceWide:
		return "for the whole namespace " + string(label)
	case ClusterWide:
	}
	return "for the whole cluster"
}
