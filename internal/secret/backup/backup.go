// Package backup saves the keys that secrets in Git are opened with, and brings them
// back: sealing keys and the Secrets that SOPS files are decrypted with. A backup is a
// list of Secrets in JSON, encrypted with age; it is never written in plain.
package backup

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
)

// LabelDecryption, with ValueDecryption, marks Secrets that hold keys for SOPS files.
const (
	LabelDecryption = "holdfast.dev/secret-type"
	ValueDecryption = "decryption"
)

// Bounds of a backup.
const (
	maxBackup  = 64 << 20
	maxSecrets = 10_000
	page       = 500
)

// kustomizations name Secrets with keys, in spec.decryption.secretRef.
var kustomizations = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}

// Clients are the connection to a cluster.
type Clients struct {
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
}

// Collect returns the Secrets of a cluster that hold keys, without what the API server
// adds to them, ordered by namespace and name: sealing keys, Secrets labelled as keys
// for decryption, those that Kustomizations name, and more, which must be there. It
// reads all namespaces, and fails where it may not: a backup that lacks keys is none.
// Errors are *fault.Error: NotFound (a Secret that was named), Limit, Rejected.
func (c Clients) Collect(ctx context.Context, more ...types.NamespacedName) ([]corev1.Secret, error) {
	all := map[types.NamespacedName]corev1.Secret{}
	for _, selector := range []string{sealed.KeyLabel, LabelDecryption + "=" + ValueDecryption} {
		if err := c.labelled(ctx, selector, all); err != nil {
			return nil, err
		}
	}
	named, err := c.named(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range append(named, more...) {
		if _, ok := all[name]; ok {
			continue
		}
		s, err := c.Kube.CoreV1().Secrets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && slices.Contains(named, name):
			continue // a Kustomization that waits for its key has none to lose
		case err != nil:
			return nil, failed(err, "read Secret "+name.String())
		}
		all[name] = bare(s)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b corev1.Secret) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	}), nil
}

func (c Clients) labelled(ctx context.Context, selector string, all map[types.NamespacedName]corev1.Secret) error {
	o := metav1.ListOptions{LabelSelector: selector, Limit: page}
	for {
		list, err := c.Kube.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return failed(err, "list the Secrets that hold keys")
		}
		for i := range list.Items {
			all[types.NamespacedName{Namespace: list.Items[i].Namespace, Name: list.Items[i].Name}] = bare(&list.Items[i])
		}
		if len(all) > maxSecrets {
			return fault.New(fault.Limit, "the cluster has more than %d Secrets with keys", maxSecrets)
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}

// named returns the Secrets that Kustomizations name; none where there is no such kind.
func (c Clients) named(ctx context.Context) ([]types.NamespacedName, error) {
	o := metav1.ListOptions{Limit: page}
	var all []types.NamespacedName
	for {
		list, err := c.Dynamic.Resource(kustomizations).List(ctx, o)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, failed(err, "list the Kustomizations that name keys")
		}
		for _, k := range list.Items {
			name, _, _ := unstructured.NestedString(k.Object, "spec", "decryption", "secretRef", "name")
			if key := (types.NamespacedName{Namespace: k.GetNamespace(), Name: name}); name != "" && !slices.Contains(all, key) {
				all = append(all, key)
			}
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			return all, nil
		}
	}
}

// bare returns what makes a Secret, and nothing that only its cluster knows.
func bare(s *corev1.Secret) corev1.Secret {
	annotations := maps.Clone(s.Annotations)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	return corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: s.Labels, Annotations: annotations},
		Type:       s.Type, Data: s.Data, Immutable: s.Immutable,
	}
}

func failed(err error, doing string) error {
	kind := fault.Rejected
	switch {
	case apierrors.IsNotFound(err):
		kind = fault.NotFound
	case apierrors.IsUnauthorized(err):
		kind = fault.Unauthorized
	}
	return fault.New(kind, "cannot %s: %s", doing, err).Because(err)
}

// Recipients reads the recipients of a backup: of age, post-quantum ones among them, or
// public keys of SSH. Errors are Invalid, and there must be one.
func Recipients(texts []string) ([]age.Recipient, error) {
	var all []age.Recipient
	for _, text := range texts {
		if strings.HasPrefix(text, "ssh-") {
			r, err := agessh.ParseRecipient(text)
			if err != nil {
				return nil, fault.New(fault.Invalid, "%q is no SSH public key that age can encrypt to", text)
			}
			all = append(all, r)
			continue
		}
		r, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(r) != 1 {
			return nil, fault.New(fault.Invalid, "%q is no recipient of age", text).WithHint("it begins with age1; a public key of SSH will do as well")
		}
		all = append(all, r[0])
	}
	if len(all) == 0 {
		return nil, fault.New(fault.Invalid, "no recipient is given").WithHint("name whoever may restore the backup with --recipient age1...")
	}
	return all, nil
}

// Identities reads what a backup is opened with: age's identities, or a private key of
// SSH without a passphrase. Errors are Invalid, and quote nothing.
func Identities(content []byte) ([]age.Identity, error) {
	const hint = "it is what age-keygen writes, or an SSH private key without a passphrase"
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("-----BEGIN")) {
		i, err := agessh.ParseIdentity(content)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the SSH key cannot be read").WithHint(hint)
		}
		return []age.Identity{i}, nil
	}
	all, err := age.ParseIdentities(bytes.NewReader(content))
	if err != nil {
		return nil, fault.New(fault.Invalid, "there is no identity of age in it").WithHint(hint)
	}
	return all, nil
}

// Write encrypts secrets to recipients, armored. Errors are Internal.
func Write(w io.Writer, secrets []corev1.Secret, recipients []age.Recipient) error {
	armored := armor.NewWriter(w)
	sealing, err := age.Encrypt(armored, recipients...)
	if err == nil {
		err = json.NewEncoder(sealing).Encode(corev1.SecretList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, Items: secrets})
	}
	if err == nil {
		err = sealing.Close()
	}
	if err == nil {
		err = armored.Close()
	}
	if err != nil {
		return fault.New(fault.Internal, "cannot write the backup: %s", err)
	}
	return nil
}

// Read returns the Secrets of a backup. Errors are Unauthorized (no identity fits),
// Refused (damaged or changed), Invalid and Limit.
func Read(r io.Reader, identities []age.Identity) ([]corev1.Secret, error) {
	opened, err := age.Decrypt(armor.NewReader(io.LimitReader(r, 2*maxBackup)), identities...)
	if err != nil {
		return nil, unopened(err)
	}
	content, err := io.ReadAll(io.LimitReader(opened, maxBackup+1))
	switch {
	case err != nil:
		return nil, fault.New(fault.Refused, "the backup is damaged, or was changed").WithHint("take another copy")
	case len(content) > maxBackup:
		return nil, fault.New(fault.Limit, "the backup has more than %d bytes", maxBackup)
	}
	var list corev1.SecretList
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, fault.New(fault.Invalid, "what is encrypted is no list of Secrets")
	}
	for i := range list.Items {
		if s := &list.Items[i]; s.Namespace == "" || s.Name == "" {
			return nil, fault.New(fault.Invalid, "a Secret of the backup has no name or no namespace")
		}
	}
	return list.Items, nil
}

func unopened(err error) error {
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return fault.New(fault.Unauthorized, "none of the identities opens the backup").WithHint("name the identity of one of its recipients with --identity FILE")
	}
	return fault.New(fault.Refused, "the file is no backup, or is damaged").WithHint("it begins with -----BEGIN AGE ENCRYPTED FILE-----")
}
