package flux

import (
	"context"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/test/sopsfile"
)

// named is an opener that tells which keys it stands for.
type named string

func (n named) Open(context.Context, string, []byte) (secret.Opened, bool, error) {
	return secret.Opened{Content: secret.Hide([]byte(n))}, true, nil
}

func (n named) ID() string { return string(n) }

// spec.decryption says which keys a Kustomization may use, and none is guessed.
func TestDecryption(t *testing.T) {
	_, recipient := sopsfile.Key(t)
	sealed := sopsfile.YAML(t, "kind: Secret\nmetadata:\n    name: a\ndata:\n    a: b\n", recipient)
	marked := strings.Replace(sealed, "    name: a\n", "    name: a\n    annotations:\n        kustomize.toolkit.fluxcd.io/decrypt: Disabled\n", 1)
	if marked == sealed {
		t.Fatalf("the mark is not set:\n%s", sealed)
	}
	ref := func(name string) *meta.LocalObjectReference { return &meta.LocalObjectReference{Name: name} }
	for name, c := range map[string]struct {
		reason     string
		decryption *kustomizev1.Decryption
		content    string
		want       string // what is opened, or a part of the error
	}{
		"named":            {"the keys are in the own namespace", &kustomizev1.Decryption{Provider: "sops", SecretRef: ref("keys")}, sealed, "apps/keys"},
		"default":          {"without a name they are those for all", &kustomizev1.Decryption{Provider: "sops"}, sealed, "apps/"},
		"not asked for":    {"nobody is given keys who does not ask", nil, sealed, "NotFound: web/s.yaml: the file is sealed, and the delivery names no keys to open it with (set spec.decryption.provider to sops"},
		"not sealed":       {"what is not sealed needs no keys", nil, "a: b", ""},
		"stays sealed":     {"a document may ask to stay as it is", &kustomizev1.Decryption{Provider: "sops", SecretRef: ref("keys")}, marked, ""},
		"stays, no keys":   {"also where there are no keys", nil, marked, ""},
		"another provider": {"it would be opened in another way", &kustomizev1.Decryption{Provider: "age"}, sealed, `Unsupported: spec.decryption.provider "age" is not supported (use sops)`},
		"no provider":      {"it says nothing", &kustomizev1.Decryption{SecretRef: ref("keys")}, sealed, "Invalid: spec.decryption.provider is missing"},
		"no name":          {"it names nothing", &kustomizev1.Decryption{Provider: "sops", SecretRef: ref("")}, sealed, "Invalid: spec.decryption.secretRef names no Secret"},
		"an account":       {"it would be another identity", &kustomizev1.Decryption{Provider: "sops", ServiceAccountName: "kms"}, sealed, "Unsupported: spec.decryption.serviceAccountName is not supported yet"},
		"missing":          {"an error of the keys is that of the delivery", &kustomizev1.Decryption{Provider: "sops", SecretRef: ref("gone")}, sealed, "NotFound: gone"},
	} {
		t.Run(name, func(t *testing.T) {
			ks := kustomization(func(ks *kustomizev1.Kustomization) { ks.Spec.Decryption = c.decryption })
			spec, err := Spec(ks, source.Revision{Tree: treetest.FromFiles(nil)}, Options{Opener: func(namespace, name string) (secret.Opener, error) {
				if name == "gone" {
					return nil, fault.New(fault.NotFound, "gone")
				}
				return named(namespace + "/" + name), nil
			}})
			got := ""
			if err == nil {
				var opened secret.Opened
				opened, _, err = spec.Opener.Open(t.Context(), "web/s.yaml", []byte(c.content))
				got = string(opened.Content.Reveal())
			}
			if err != nil {
				got = fault.KindOf(err).String() + ": " + err.Error()
			}
			if got != c.want && (c.want == "" || err == nil || !strings.HasPrefix(got, c.want)) {
				t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
			}
		})
	}
}

// Which variables are secret follows from where the value that counts comes from.
func TestSecretVariables(t *testing.T) {
	ks := kustomization(func(ks *kustomizev1.Kustomization) {
		ks.Spec.PostBuild = &kustomizev1.PostBuild{
			Substitute: map[string]string{"own": "1", "over": "1"},
			SubstituteFrom: []kustomizev1.SubstituteReference{
				{Kind: "ConfigMap", Name: "first"}, {Kind: "Secret", Name: "second"}, {Kind: "ConfigMap", Name: "third"},
			},
		}
	})
	from := map[string]map[string]string{
		"first": {"plain": "1", "hidden": "1"}, "second": {"hidden": "2", "over": "2", "shown": "2", "only": "2"}, "third": {"shown": "3"},
	}
	spec, err := Spec(ks, source.Revision{Tree: treetest.FromFiles(nil)}, Options{Variables: func(ref VariablesRef) (map[string]string, error) {
		return from[ref.Name], nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"plain": false, "hidden": true, "over": false, "shown": false, "only": true, "own": false} {
		if got := spec.Substitute.Secret[name]; got != want {
			t.Errorf("that %s is secret: got %t", name, got)
		}
	}
}
