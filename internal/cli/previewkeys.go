package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
)

// previewKeys are the keys that a preview opens sealed files with: those of the
// controller, as far as whoever asks may read them. A nil one, and one without find,
// leave everything sealed; that is noted, and told by [previewKeys.tell].
type previewKeys struct {
	find          *dialect.Decryption
	argoNamespace string

	mu      sync.Mutex
	files   []string // left sealed
	why     error    // the keys may not be read; nil: nobody looked for them
	sealeds bool     // there are SealedSecrets that were left sealed
}

// newPreviewKeys returns the keys that the user of cfg may read. Errors are those of
// connecting to the cluster.
func newPreviewKeys(cfg *rest.Config, decryptionSecret, argoNamespace string) (*previewKeys, error) {
	def, err := parseDecryptionSecret(decryptionSecret)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fault.New(fault.Internal, "cannot register a kind: %s", err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, classify(err, "connect to the cluster")
	}
	return &previewKeys{argoNamespace: argoNamespace, find: dialect.NewDecryption(dialect.DecryptionOptions{
		Reader: c, Default: def, Keys: sops.Options{}, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
	})}, nil
}

// named returns what finds the keys that a Kustomization names.
func (k *previewKeys) named(ctx context.Context, ks *kustomizev1.Kustomization) func(namespace, name string) (secret.Opener, error) {
	return func(namespace, name string) (secret.Opener, error) {
		if k == nil || k.find == nil {
			return k.left(nil), nil
		}
		opener, err := k.find.Named(ctx, delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: ks.Namespace, Name: ks.Name}, namespace, name)
		if fault.KindOf(err) == fault.Refused && err != nil {
			return k.left(err), nil
		}
		return opener, err
	}
}

// ofProject returns what opens the files of an Application.
func (k *previewKeys) ofProject(ctx context.Context, app *api.Application) secret.Opener {
	if k == nil || k.find == nil {
		return k.left(nil)
	}
	id := delivery.ID{Kind: api.ApplicationKind, Namespace: app.Namespace, Name: app.Name}
	opener := k.find.OfProject(ctx, id, cmp.Or(k.argoNamespace, app.Namespace), app.Spec.Project)
	if err := dialect.Failed(opener); fault.KindOf(err) == fault.Refused && err != nil {
		return k.left(err)
	}
	return opener
}

// left is what opens nothing, because of why.
func (k *previewKeys) left(why error) secret.Opener {
	if k == nil {
		return dialect.Left(func(string) {})
	}
	k.why = cmp.Or(k.why, why)
	return dialect.Left(func(file string) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if !slices.Contains(k.files, file) {
			k.files = append(k.files, file)
		}
	})
}

// without leaves out of a comparison what is still sealed: it would differ in every
// value.
func (k *previewKeys) without(spec delivery.Spec) delivery.Spec {
	if _, left := spec.Opener.(*secret.Left); !left || k == nil || k.find == nil {
		return spec
	}
	treat := spec.Profile.Treat
	spec.Profile.Treat = func(o *unstructured.Unstructured) plan.Treatment {
		var t plan.Treatment
		if treat != nil {
			t = treat(o)
		}
		if holdsSealed(o.Object) {
			t.Skip = "it is sealed"
		}
		return t
	}
	return spec
}

// holdsSealed reports whether a value of an object is sealed, or a sealed file.
func holdsSealed(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		for _, child := range v {
			if holdsSealed(child) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, holdsSealed)
	case string:
		if strings.Contains(v, secret.SOPS) {
			return true
		}
		decoded, err := base64.StdEncoding.DecodeString(v)
		return err == nil && bytes.Contains(decoded, []byte(secret.SOPS))
	}
	return false
}

// see notes whether there are SealedSecrets in a plan that nobody opened.
func (k *previewKeys) see(made plan.Plan, unsealer secret.Unsealer) {
	k.sealeds = k.sealeds || unsealer == nil && slices.ContainsFunc(made.Actions(), func(a plan.Action) bool {
		return a.Desired != nil && a.ID.IsSealedSecret()
	})
}

// tell says once what was left sealed; verb is what was not done with it.
func (k *previewKeys) tell(w io.Writer, verb string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	slices.Sort(k.files)
	if len(k.files) > 0 {
		what := plain(k.files[0])
		if n := len(k.files) - 1; n > 0 {
			what += fmt.Sprintf(" and %d more", n)
		}
		why := ""
		if k.why != nil {
			why = ": " + unhinted(k.why)
		}
		fmt.Fprintf(w, "holdfast: sealed values were not %s, of %s%s\n", verb, what, plain(why))
	}
	if k.sealeds {
		fmt.Fprintf(w, "holdfast: values of SealedSecrets were not %s: the sealing keys are not yours to read\n", verb)
	}
}
