package dialect

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
)

// The label by which Secrets hold decryption keys for the Applications of Argo CD, and
// the key of their data that restricts them to one AppProject.
const (
	LabelSecretType  = "holdfast.dev/secret-type" //nolint:gosec // a label, no secret
	SecretDecryption = "decryption"
	keyProject       = "project"
)

// unwatched is how long keys are good for that nobody tells the changes of.
const unwatched = 30 * time.Second

// SealedHint says how a Kustomization is given keys.
const SealedHint = "set spec.decryption.provider to sops, and spec.decryption.secretRef to the Secret with the keys"

// Sealed is the opener of a delivery that names no keys: each sealed file is refused,
// with the hint.
func Sealed(hint string) secret.Opener { return secret.None{Sealed: sops.Sealed, Hint: hint} }

// Decryption finds the keys by which deliveries open sealed files. Their Secrets are
// read when a pass needs them, parsed once for each state of them, and watched by
// their metadata for as long as a delivery uses them.
type Decryption struct {
	o    DecryptionOptions
	more chan struct{} // there are places that are not watched yet

	mu      sync.Mutex
	places  map[place]*keyring
	holders map[delivery.ID][]place
}

// DecryptionOptions are what a [Decryption] is made from.
type DecryptionOptions struct {
	// Reader lists Secrets, and must not cache them. Listed, not got: whoever may see
	// everything need not be able to get it.
	Reader client.Reader
	// Default names the Secret whose keys are for those who name none; zero: there are none.
	Default types.NamespacedName
	// Watch makes the watch of Secrets by their metadata; nil: nobody tells of changes.
	Watch SecretWatch
	// Notify asks for a pass of a delivery; it must not block.
	Notify func(delivery.ID)
	// Keys say how key services are reached.
	Keys  sops.Options
	Clock func() time.Time
	Log   *slog.Logger
}

// NewDecryption returns a Decryption that watches nothing before it is started.
func NewDecryption(o DecryptionOptions) *Decryption {
	return &Decryption{o: o, more: make(chan struct{}, 1), places: map[place]*keyring{}, holders: map[delivery.ID][]place{}}
}

// place is where keys are: one Secret, or, without a name, those of a namespace that
// carry the label.
type place struct {
	types.NamespacedName

	shared bool // by deliveries of more than one tenant
}

func labelled(namespace string) place {
	return place{types.NamespacedName{Namespace: namespace}, true}
}

// fallback is the place of the default keys; its name is empty where there are none.
func (d *Decryption) fallback() place { return place{d.o.Default, true} }

func (p place) options() metav1.ListOptions {
	if p.Name == "" {
		return metav1.ListOptions{LabelSelector: labels.Set{LabelSecretType: SecretDecryption}.String()}
	}
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, p.Name).String()}
}

// String names the place in messages.
func (p place) String() string {
	if p.Name == "" {
		return "the Secrets labelled " + LabelSecretType + ": " + SecretDecryption + " in namespace " + p.Namespace
	}
	return "Secret " + p.Namespace + "/" + p.Name
}

// keyring is what is known of one place. Decryption's mutex guards it, but for reading.
type keyring struct {
	reading sync.Mutex // held while the Secrets are read

	stop    context.CancelFunc // nil: it is not watched yet
	watched bool               // seen is complete
	seen    map[string]string  // what the watch shows: the state of each Secret, by name
	read    bool               // known was read at all
	at      time.Time          // when
	known   map[string]keySecret
	joined  map[string]secret.Opener // by project
}

// keySecret is one Secret, as it was read.
type keySecret struct {
	state, project string
	keys           *sops.Keys
	err            error
}

// is reports whether two readings are of one state.
func (s keySecret) is(other keySecret) bool { return s.state == other.state }

// stateOf names one state of a Secret.
func stateOf(o metav1.Object) string { return string(o.GetUID()) + ":" + o.GetResourceVersion() }

// Named returns what opens the sealed files of a delivery with the keys in one Secret;
// with no name, those of the default. Errors are *fault.Error on the Secret, and never
// hold anything of it: NotFound (an event brings the next pass), Invalid, Refused (it
// may not be read), Unreachable.
func (d *Decryption) Named(ctx context.Context, id delivery.ID, namespace, name string) (secret.Opener, error) {
	at := place{types.NamespacedName{Namespace: namespace, Name: name}, false}
	if name == "" {
		at = d.fallback()
	}
	if at.Name == "" {
		d.Release(id)
		return Sealed("set spec.decryption.secretRef to the Secret with the keys, or start Holdfast with --decryption-secret"), nil
	}
	d.hold(id, at)
	return d.only(ctx, at)
}

// only returns what opens with the one Secret at a place.
func (d *Decryption) only(ctx context.Context, at place) (secret.Opener, error) {
	known, err := d.look(ctx, at)
	if err != nil {
		return nil, err
	}
	one, ok := known[at.Name]
	switch {
	case !ok:
		return nil, fault.New(fault.NotFound, "%s, which is to hold the keys for sealed files, does not exist", at)
	case one.err != nil:
		return nil, one.err
	}
	return one.keys, nil
}

// OfProject returns what opens the sealed files of a delivery of an AppProject: the
// keys in all Secrets of a namespace that carry the label and are for that project, or
// for all of them; where there are none, those of the default. What is wrong with one of
// them refuses the deliveries that have sealed files, and no other: a project cannot
// choose what lies there.
func (d *Decryption) OfProject(ctx context.Context, id delivery.ID, namespace, project string) secret.Opener {
	at, fallback := labelled(namespace), d.fallback()
	if fallback.Name == "" {
		d.hold(id, at)
	} else {
		d.hold(id, at, fallback)
	}
	known, err := d.look(ctx, at)
	if err != nil {
		return failing{err}
	}
	if opener := d.join(at, known, project); opener != nil {
		return opener
	}
	if fallback.Name == "" {
		return Sealed("create a Secret with the keys in namespace " + namespace + ", with the label " + LabelSecretType + ": " + SecretDecryption +
			" and " + project + " in its key project")
	}
	opener, err := d.only(ctx, fallback)
	if err != nil {
		return failing{err}
	}
	return opener
}

// join returns what opens with all that is for a project; nil if nothing is. The
// answer is kept for as long as what it was made from: known may have been read again
// since, and a key that is gone must not stay in what is kept.
func (d *Decryption) join(at place, known map[string]keySecret, project string) secret.Opener {
	d.mu.Lock()
	defer d.mu.Unlock()
	ring := d.places[at]
	kept := ring != nil && ring.joined != nil && maps.EqualFunc(known, ring.known, keySecret.is)
	if kept {
		if opener, ok := ring.joined[project]; ok {
			return opener
		}
	}
	var keys []*sops.Keys
	var opener secret.Opener
	for _, name := range slices.Sorted(maps.Keys(known)) {
		s := known[name]
		switch {
		case s.project != "" && s.project != project:
		case s.err != nil:
			opener = failing{s.err}
		default:
			keys = append(keys, s.keys)
		}
	}
	if opener == nil && len(keys) > 0 {
		opener = sops.Join(keys...)
	}
	if kept {
		ring.joined[project] = opener
	}
	return opener
}

// Left is the opener of who looks at deliveries and has no keys.
func Left(note func(file string)) secret.Opener { return &secret.Left{Sealed: sops.Sealed, Note: note} }

// Failed returns why an opener of [Decryption.OfProject] has no keys; nil if it has.
func Failed(o secret.Opener) error {
	if f, ok := o.(failing); ok {
		return f.err
	}
	return nil
}

// failing is the opener of a delivery whose keys are not to be had.
type failing struct{ err error }

// Open implements secret.Opener.
func (f failing) Open(_ context.Context, file string, content []byte) (secret.Opened, bool, error) {
	if !sops.Sealed(file, content) {
		return secret.Opened{}, false, nil
	}
	return secret.Opened{}, true, fault.From(f.err).At(file, 0)
}

// ID implements secret.Opener: another trouble may be another answer.
func (f failing) ID() string { return "none: " + f.err.Error() }

// hold notes which places a delivery uses now, and gives up those that nobody does.
func (d *Decryption) hold(id delivery.ID, places ...place) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.holders[id]
	if slices.Equal(before, places) {
		return
	}
	if d.holders[id] = places; len(places) == 0 {
		delete(d.holders, id)
	}
	for _, p := range places {
		if d.places[p] == nil {
			d.places[p] = &keyring{}
			select {
			case d.more <- struct{}{}:
			default:
			}
		}
	}
	for _, p := range before {
		if !d.held(p) {
			d.places[p].end()
			delete(d.places, p)
		}
	}
}

func (d *Decryption) held(p place) bool {
	for _, places := range d.holders {
		if slices.Contains(places, p) {
			return true
		}
	}
	return false
}

// Release ends what was watched for a delivery alone: it is gone, or names no keys.
func (d *Decryption) Release(id delivery.ID) { d.hold(id) }

// look returns what a place holds: from memory where the watch says that it stands.
// What was read before stands through an outage, but not through a refusal.
func (d *Decryption) look(ctx context.Context, at place) (map[string]keySecret, error) {
	d.mu.Lock()
	ring := d.places[at]
	d.mu.Unlock()
	if ring == nil { // it was released meanwhile
		ring = &keyring{}
	}
	ring.reading.Lock()
	defer ring.reading.Unlock()
	if known, ok := d.stands(ring); ok {
		return known, nil
	}
	var l corev1.SecretList
	o := at.options()
	err := d.o.Reader.List(ctx, &l, client.InNamespace(at.Namespace), &client.ListOptions{Raw: &o})
	switch {
	case apierrors.IsForbidden(err):
		return nil, fault.New(fault.Refused, "Holdfast may not read %s", at).WithHint("grant it list and watch on Secrets there").Because(err)
	case err != nil && ring.read:
		return ring.known, nil
	case err != nil:
		return nil, fault.New(fault.Unreachable, "%s cannot be read", at).Because(err)
	}
	known := d.parse(at, l.Items, ring.known)
	d.mu.Lock()
	defer d.mu.Unlock()
	ring.known, ring.read, ring.at, ring.joined = known, true, d.o.Clock(), map[string]secret.Opener{}
	return known, nil
}

// stands returns what is known of a place if it is how the place is.
func (d *Decryption) stands(ring *keyring) (map[string]keySecret, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !ring.read:
		return nil, false
	case ring.watched:
		return ring.known, ring.shown()
	}
	return ring.known, d.o.Clock().Sub(ring.at) < unwatched
}

// shown reports whether the watch shows what was read.
func (r *keyring) shown() bool {
	return maps.EqualFunc(r.known, r.seen, func(s keySecret, state string) bool { return s.state == state })
}

func (r *keyring) end() {
	if r.stop != nil {
		r.stop()
	}
}

// parse reads Secrets, but for those whose state was read before.
func (d *Decryption) parse(at place, list []corev1.Secret, before map[string]keySecret) map[string]keySecret {
	options := d.o.Keys
	options.Shared = at.shared
	known := make(map[string]keySecret, len(list))
	for i := range list {
		s := &list[i]
		if old, ok := before[s.Name]; ok && old.state == stateOf(s) {
			known[s.Name] = old
			continue
		}
		one := keySecret{state: stateOf(s), project: string(s.Data[keyProject])}
		entries := maps.Clone(s.Data)
		delete(entries, keyProject)
		if one.keys, one.err = sops.Parse(entries, options); one.err != nil {
			one.err = fault.From(one.err).On("Secret " + s.Namespace + "/" + s.Name)
		}
		known[s.Name] = one
	}
	return known
}
