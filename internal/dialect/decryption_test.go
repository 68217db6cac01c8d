package dialect_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/test/sopsfile"
)

// vault is where Secrets are kept: it answers lists and watches of them.
type vault struct {
	client.Reader

	mu      sync.Mutex
	secrets map[string]*corev1.Secret
	version int
	lists   int
	err     error
	past    []watch.Event // of every version, for watches that begin later
	watches []opened
}

// opened is a watch, and the field selector of what it shows.
type opened struct {
	*watch.RaceFreeFakeWatcher

	shows fields.Selector
}

// show passes on what the watch is for.
func (o opened) show(e watch.Event) {
	if m, ok := e.Object.(*metav1.PartialObjectMetadata); ok && o.shows.Matches(fields.Set{"metadata.name": m.Name}) {
		o.Action(e.Type, m)
	}
}

func newVault() *vault { return &vault{secrets: map[string]*corev1.Secret{}} }

// put stores a Secret, or removes it without data.
func (v *vault) put(name string, label bool, data map[string]string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.version++
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: name, UID: types.UID("u-" + name), ResourceVersion: fmt.Sprint(v.version)},
		Data:       map[string][]byte{},
	}
	if label {
		s.Labels = map[string]string{"holdfast.dev/secret-type": "decryption"}
	}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	what := watch.Modified
	switch _, known := v.secrets[name]; {
	case data == nil:
		what = watch.Deleted
		delete(v.secrets, name)
	case !known:
		what = watch.Added
		fallthrough
	default:
		v.secrets[name] = s
	}
	event := watch.Event{Type: what, Object: &metav1.PartialObjectMetadata{ObjectMeta: s.ObjectMeta}}
	v.past = append(v.past, event)
	for _, w := range v.watches {
		w.show(event)
	}
}

func (v *vault) chosen(o metav1.ListOptions) []*corev1.Secret {
	byLabel, err := labels.Parse(o.LabelSelector)
	if err != nil {
		panic(err)
	}
	byField, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		panic(err)
	}
	var found []*corev1.Secret
	for _, s := range v.secrets {
		if byLabel.Matches(labels.Set(s.Labels)) && byField.Matches(fields.Set{"metadata.name": s.Name}) {
			found = append(found, s)
		}
	}
	return found
}

// List implements client.Reader for Secrets.
func (v *vault) List(_ context.Context, into client.ObjectList, opts ...client.ListOption) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lists++
	if v.err != nil {
		return v.err
	}
	o := (&client.ListOptions{}).ApplyOptions(opts)
	list, ok := into.(*corev1.SecretList)
	if !ok || o.Namespace != "argocd" {
		return nil
	}
	for _, s := range v.chosen(*o.AsListOptions()) {
		list.Items = append(list.Items, *s.DeepCopy())
	}
	return nil
}

// watch implements dialect.SecretWatch.
func (v *vault) watch(_ string, chosen metav1.ListOptions) toolscache.ListerWatcher {
	return plainWatch{&toolscache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			v.mu.Lock()
			defer v.mu.Unlock()
			l := &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(v.version)}}
			for _, s := range v.chosen(chosen) {
				l.Items = append(l.Items, metav1.PartialObjectMetadata{ObjectMeta: s.ObjectMeta})
			}
			return l, nil
		},
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			v.mu.Lock()
			defer v.mu.Unlock()
			from, err := strconv.Atoi(o.ResourceVersion)
			if err != nil {
				return nil, err
			}
			w := opened{watch.NewRaceFreeFake(), fields.ParseSelectorOrDie(chosen.FieldSelector)}
			for _, event := range v.past[from:] { // a version each: what came between the list and the watch
				w.show(event)
			}
			v.watches = append(v.watches, w)
			return w, nil
		},
	}}
}

// plainWatch lists before it watches.
type plainWatch struct{ *toolscache.ListWatch }

// IsWatchListSemanticsUnSupported is asked by the library.
func (plainWatch) IsWatchListSemanticsUnSupported() bool { return true }

func (v *vault) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = err
}

func (v *vault) listed() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lists
}

var app = delivery.ID{Kind: "Application", Namespace: "argocd", Name: "web"}

// try opens a file; it returns what is in it, or the error as a person reads it.
func try(t *testing.T, o secret.Opener, content string) string {
	t.Helper()
	opened, sealed, err := o.Open(t.Context(), "web/secret.yaml", []byte(content))
	switch {
	case err != nil:
		return fault.KindOf(err).String() + ": " + err.Error()
	case !sealed:
		return "not sealed"
	}
	return string(opened.Content.Reveal())
}

const plainSecret = "apiVersion: v1\nkind: Secret\nmetadata:\n    name: db\nstringData:\n    password: correct-horse\n"

// Whose keys open what: those of a project are no other's.
func TestKeysOfProjects(t *testing.T) {
	shopKey, shopRecipient := sopsfile.Key(t)
	otherKey, otherRecipient := sopsfile.Key(t)
	allKey, allRecipient := sopsfile.Key(t)
	defaultKey, defaultRecipient := sopsfile.Key(t)
	own, others := map[string]string{"project": "shop", "a.agekey": shopKey}, map[string]string{"project": "billing", "a.agekey": otherKey}
	all, def := map[string]string{"a.agekey": allKey}, map[string]string{"a.agekey": defaultKey}
	for name, c := range map[string]struct {
		reason    string
		labelled  map[string]map[string]string
		unlabeled map[string]map[string]string
		def       string
		recipient string
		want      string // part of it
	}{
		"own":            {"a key of the project opens", map[string]map[string]string{"own": own, "others": others}, nil, "", shopRecipient, "correct-horse"},
		"all":            {"a key for all opens beside that of the project", map[string]map[string]string{"own": own, "all": all}, nil, "", allRecipient, "correct-horse"},
		"another's":      {"a key of another project opens nothing", map[string]map[string]string{"own": own, "others": others}, nil, "", otherRecipient, "NotFound: "},
		"only another's": {"a project that has none is told what to create", map[string]map[string]string{"others": others}, nil, "", otherRecipient, "holdfast.dev/secret-type: decryption and shop in its key project"},
		"no label":       {"a Secret without the label is none", nil, map[string]map[string]string{"all": all}, "", allRecipient, "the delivery names no keys"},
		"default":        {"who has none is given the default", map[string]map[string]string{"others": others}, map[string]map[string]string{"def": def}, "def", defaultRecipient, "correct-horse"},
		"not default":    {"who has keys is not given the default", map[string]map[string]string{"own": own}, map[string]map[string]string{"def": def}, "def", defaultRecipient, "NotFound: "},
		"default gone":   {"a default that does not exist is told by name", nil, nil, "def", defaultRecipient, "Secret argocd/def, which is to hold the keys for sealed files, does not exist"},
		"broken":         {"a Secret that cannot be read refuses, and is named", map[string]map[string]string{"own": own, "bad": {"a.agekey": "AGE-SECRET-KEY-1NONSENSE"}}, nil, "", shopRecipient, "Secret argocd/bad"},
		"broken, not ours": {
			"what is wrong with another project's Secret concerns nobody else",
			map[string]map[string]string{"own": own, "bad": {"project": "billing", "a.agekey": "x"}},
			nil, "", shopRecipient, "correct-horse",
		},
		"vault token": {
			"a token for all must say for which address it is: a file would have it sent anywhere",
			map[string]map[string]string{"all": {"sops.vault-token": "hvs.top-secret"}},
			nil, "", allRecipient, "sops.vault-address",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault()
			for name, data := range c.labelled {
				v.put(name, true, data)
			}
			for name, data := range c.unlabeled {
				v.put(name, false, data)
			}
			o := dialect.DecryptionOptions{Reader: v, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}
			if c.def != "" {
				o.Default = types.NamespacedName{Namespace: "argocd", Name: c.def}
			}
			opener := dialect.NewDecryption(o).OfProject(t.Context(), app, "argocd", "shop")
			if got := try(t, opener, sopsfile.YAML(t, plainSecret, c.recipient)); !strings.Contains(got, c.want) || strings.Contains(got, "top-secret") {
				t.Errorf("%s: got %q", c.reason, got)
			}
			if got := try(t, opener, plainSecret); got != "not sealed" {
				t.Errorf("a file that is not sealed: %s", got)
			}
		})
	}
}

// A Kustomization's keys are those of the Secret that it names.
func TestNamedKeys(t *testing.T) {
	key, recipient := sopsfile.Key(t)
	def, defaultRecipient := sopsfile.Key(t)
	v := newVault()
	v.put("own", false, map[string]string{"a.agekey": key})
	v.put("def", false, map[string]string{"a.agekey": def})
	v.put("none", false, map[string]string{"token": "hunter2"})
	for name, c := range map[string]struct {
		reason, namespace, name string
		def                     bool
		recipient, want         string
	}{
		"own":                  {"it opens", "argocd", "own", true, recipient, "correct-horse"},
		"default":              {"without a name the default opens", "argocd", "", true, defaultRecipient, "correct-horse"},
		"no default":           {"without a default either, files are refused", "argocd", "", false, recipient, "--decryption-secret"},
		"missing":              {"what is missing is named", "argocd", "gone", true, recipient, "NotFound: Secret argocd/gone"},
		"elsewhere":            {"a name is one of the own namespace", "team", "own", true, recipient, "NotFound: Secret team/own"},
		"no keys in it":        {"what holds no key is named, and nothing of it told", "argocd", "none", true, recipient, "Secret argocd/none"},
		"not with the default": {"who names a key is not given the default", "argocd", "own", true, defaultRecipient, "NotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			o := dialect.DecryptionOptions{Reader: v, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}
			if c.def {
				o.Default = types.NamespacedName{Namespace: "argocd", Name: "def"}
			}
			opener, err := dialect.NewDecryption(o).Named(t.Context(), app, c.namespace, c.name)
			var got string
			if err != nil {
				got = fault.KindOf(err).String() + ": " + err.Error()
			} else {
				got = try(t, opener, sopsfile.YAML(t, plainSecret, c.recipient))
			}
			if !strings.Contains(got, c.want) || strings.Contains(got, "hunter2") {
				t.Errorf("%s: got %q", c.reason, got)
			}
		})
	}
}

// Keys are read once for as long as the watch says that they stand; a change brings a
// pass of those who use them, and of nobody else.
func TestKeysAreWatched(t *testing.T) {
	first, recipient := sopsfile.Key(t)
	second, next := sopsfile.Key(t)
	v := newVault()
	told := make(chan delivery.ID, 10)
	d := dialect.NewDecryption(dialect.DecryptionOptions{
		Reader: v, Watch: v.watch, Notify: func(id delivery.ID) { told <- id }, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Start(ctx) }()
	defer func() { stop(); <-ended }()
	awaitPass := func(want ...delivery.ID) {
		t.Helper()
		var got []delivery.ID
		for range want {
			select {
			case id := <-told:
				got = append(got, id)
			case <-time.After(10 * time.Second):
				t.Fatalf("passes of %v were asked for, want %v", got, want)
			}
		}
		slices.SortFunc(got, func(a, b delivery.ID) int { return strings.Compare(a.Name, b.Name) })
		if !slices.Equal(got, want) {
			t.Fatalf("passes of %v were asked for, want %v", got, want)
		}
	}
	other := delivery.ID{Kind: "Application", Namespace: "argocd", Name: "other"}
	if _, err := d.Named(ctx, app, "argocd", "keys"); fault.KindOf(err) != fault.NotFound {
		t.Fatalf("a Secret that does not exist: %v", err)
	}
	if _, err := d.Named(ctx, other, "argocd", "elsewhere"); fault.KindOf(err) != fault.NotFound {
		t.Fatal(err)
	}
	// The watch of each has to have begun: what is created before is listed, and told too.
	v.put("keys", false, map[string]string{"a.agekey": first})
	awaitPass(app)
	opener, err := d.Named(ctx, app, "argocd", "keys")
	if err != nil {
		t.Fatal(err)
	}
	if got := try(t, opener, sopsfile.YAML(t, plainSecret, recipient)); !strings.Contains(got, "correct-horse") {
		t.Fatal(got)
	}
	before := v.listed()
	for range 5 {
		if again, err := d.Named(ctx, app, "argocd", "keys"); err != nil || again != opener {
			t.Fatalf("what did not change was read again: %v", err)
		}
	}
	if n := v.listed() - before; n > 0 {
		t.Errorf("%d lists for what did not change", n)
	}
	id := opener.ID()
	v.put("keys", false, map[string]string{"a.agekey": second})
	awaitPass(app)
	if opener, err = d.Named(ctx, app, "argocd", "keys"); err != nil || opener.ID() == id {
		t.Fatalf("a rotated key has the ID %s: %v", opener.ID(), err)
	}
	if got := try(t, opener, sopsfile.YAML(t, plainSecret, next)); !strings.Contains(got, "correct-horse") {
		t.Error(got)
	}
	d.Release(app)
	if _, err := d.Named(ctx, other, "argocd", "keys"); err != nil {
		t.Fatal(err)
	}
	v.put("keys", false, nil)
	awaitPass(other)
	if _, err := d.Named(ctx, other, "argocd", "keys"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a Secret that was deleted: %v", err)
	}
}

// What was read stands through an outage, and not through a refusal.
func TestKeysInAnOutage(t *testing.T) {
	key, recipient := sopsfile.Key(t)
	v := newVault()
	v.put("keys", true, map[string]string{"a.agekey": key})
	now := time.Now()
	d := dialect.NewDecryption(dialect.DecryptionOptions{Reader: v, Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	file := sopsfile.YAML(t, plainSecret, recipient)
	for _, step := range []struct {
		reason string
		err    error
		want   string
	}{
		{"nothing was read yet", apierrors.NewServiceUnavailable("down"), "Unreachable: "},
		{"it is back", nil, "correct-horse"},
		{"it was read before", apierrors.NewServiceUnavailable("down"), "correct-horse"},
		{"the right was taken away", apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "", nil), "Refused: "},
	} {
		v.fail(step.err)
		now = now.Add(time.Minute)
		if got := try(t, d.OfProject(t.Context(), app, "argocd", "shop"), file); !strings.Contains(got, step.want) {
			t.Errorf("%s: %s", step.reason, got)
		}
	}
}
