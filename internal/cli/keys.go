package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/backup"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
)

func newKeys(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Keep the keys that secrets in Git are opened with",
		Long: `Keep the keys that secrets in Git are opened with: sealing keys, and the Secrets with
keys for SOPS files. Whoever loses them loses what is sealed; whoever has them can
read it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{newKeysList(p), newKeysRotate(p), newKeysBackup(p), newKeysRestore(p)} {
		strict(sub)
		cmd.AddCommand(sub)
	}
	return cmd
}

// Keys says whose keys, and which beyond those that are found.
type Keys struct {
	Connection

	Secrets []string // NAMESPACE/NAME
}

func (o *Keys) bindSecrets(s settings) {
	o.bind(s)
	s.flags.StringArrayVar(&o.Secrets, "secret", nil, "`NAMESPACE/NAME` of a Secret with keys that nothing in the cluster tells of; repeatable")
}

// found says in the help of commands which keys they deal with.
const found = `These are the Secrets labelled ` + sealed.KeyLabel + `,
those labelled ` + backup.LabelDecryption + `: ` + backup.ValueDecryption + `, those that Flux Kustomizations name in
spec.decryption.secretRef, and those named with --secret.`

func (o *Keys) clients() (backup.Clients, error) {
	cfg, err := o.config()
	if err != nil {
		return backup.Clients{}, err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return backup.Clients{}, kubeFault(err, "connect to the cluster")
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return backup.Clients{}, kubeFault(err, "connect to the cluster")
	}
	return backup.Clients{Kube: kube, Dynamic: dyn}, nil
}

func (o *Keys) collect(ctx context.Context) ([]corev1.Secret, error) {
	more := make([]types.NamespacedName, 0, len(o.Secrets))
	for _, s := range o.Secrets {
		name, err := namespaced(s, "--secret")
		if err != nil {
			return nil, err
		}
		more = append(more, name)
	}
	c, err := o.clients()
	if err != nil {
		return nil, err
	}
	return c.Collect(ctx, more...)
}

const keysListExamples = `  # which keys are there, and which one seals?
  holdfast keys list

  # for a script
  holdfast keys list -o json`

// shownKey is one key, as it is listed: nothing of its private half.
type shownKey struct {
	Secret      string     `json:"secret"`
	Use         string     `json:"use"` // sealing or decryption
	State       string     `json:"state,omitempty"`
	Seals       bool       `json:"seals,omitempty"` // what is sealed from now on
	Fingerprint string     `json:"fingerprint,omitempty"`
	Recipients  []string   `json:"recipients,omitempty"` // that files are sealed for, of a key for decryption
	Since       *time.Time `json:"since,omitempty"`
	Entries     []string   `json:"entries,omitempty"`
	Error       string     `json:"error,omitempty"`
}

func newKeysList(p Process) *cobra.Command {
	var o Keys
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the keys, by their fingerprints",
		Long:    "List the keys by their fingerprints, and which one seals: the newest that is active.\n\n" + found + "\n\nExit codes: 0 they are listed; 2 they cannot be.",
		Example: keysListExamples,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secrets, err := o.collect(cmd.Context())
			if err != nil {
				return err
			}
			return printKeys(p, output, secrets)
		},
	}
	o.bindSecrets(settings{cmd.Flags()})
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`FORMAT`: table, yaml or json")
	return cmd
}

func printKeys(p Process, output string, secrets []corev1.Secret) error {
	shown := make([]shownKey, 0, len(secrets))
	var sealing []*sealed.Key
	for i := range secrets {
		one, key := showKey(&secrets[i])
		shown = append(shown, one)
		if key != nil {
			sealing = append(sealing, key)
		}
	}
	if newest := sealed.Newest(sealing); newest != nil {
		i := slices.IndexFunc(shown, func(k shownKey) bool { return k.Secret == newest.Secret })
		shown[i].Seals = true
	}
	if output != "table" {
		return encode(p.Out, output, shown)
	}
	rows := [][]string{{"SECRET", "USE", "STATE", "SINCE", "FINGERPRINT"}}
	for _, k := range shown {
		since := ""
		if k.Since != nil {
			since = k.Since.UTC().Format(time.DateOnly)
		}
		state := k.State
		if k.Seals {
			state += ", seals"
		}
		rows = append(rows, []string{k.Secret, k.Use, state, since, cmp.Or(k.Fingerprint, strings.Join(k.Recipients, ", "), k.Error)})
	}
	return table(p.Out, rows)
}

// showKey returns what is listed of a Secret, and the sealing key in it; nil if it has none.
func showKey(s *corev1.Secret) (shownKey, *sealed.Key) {
	k := shownKey{Secret: s.Namespace + "/" + s.Name, Use: "decryption"}
	state, sealing := s.Labels[sealed.KeyLabel]
	if !sealing {
		k.Entries = slices.Sorted(maps.Keys(s.Data))
		keys, err := sops.Parse(s.Data, sops.Options{})
		if err != nil {
			k.Error = err.Error()
		}
		k.Recipients = keys.Recipients()
		return k, nil
	}
	k.Use, k.State = "sealing", state
	key, err := sealed.ReadKey(s)
	if err != nil {
		k.Error = err.Error()
		return k, nil
	}
	k.Fingerprint, k.Since = key.Fingerprint, &key.Certificate.NotBefore
	return k, key
}

const keysRotateExamples = `  # a new sealing key, beside the newest
  holdfast keys rotate

  # the first one, in a namespace of one's choice
  holdfast keys rotate --namespace kube-system`

func newKeysRotate(p Process) *cobra.Command {
	var o Keys
	var namespace string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new sealing key",
		Long: `Make a new sealing key, which seals from now on. The old ones stay, and go on opening
what was sealed with them, until their Secrets are deleted.

A key lies in a Secret as the Sealed Secrets controller makes it, so that it can take
over again. Keys for SOPS files are made with the tools of their kind.

Exit codes: 0 it is made; 2 it is not.`,
		Example: keysRotateExamples,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.rotate(cmd.Context(), p, namespace)
		},
	}
	o.bind(settings{cmd.Flags()})
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "`NAMESPACE` to keep it in (default: that of the newest key, else "+deploy.DefaultNamespace+")")
	return cmd
}

func (o *Keys) rotate(ctx context.Context, p Process, namespace string) error {
	c, err := o.clients()
	if err != nil {
		return err
	}
	if namespace == "" {
		if namespace, err = newestKey(ctx, c.Kube); err != nil {
			return err
		}
	}
	key, err := sealed.Create(ctx, c.Kube, namespace, time.Now(), rand.Reader)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.Out, `made the sealing key %s

It seals from now on: fetch its certificate anew where one is kept in a file.
What older keys sealed goes on being opened. To be rid of them:
  1. seal anew, file by file:  holdfast seal --re-encrypt -f FILE
  2. deliver that, and save the keys:  holdfast keys backup --recipient age1... --out keys.age
  3. delete the Secrets of the old keys
If an old key has leaked, whoever has it can read all that it sealed, in Git's history
too: change the secrets themselves.
`, key)
	return err
}

// newestKey returns the namespace of the newest active sealing key, else that of Holdfast.
func newestKey(ctx context.Context, clients kubernetes.Interface) (string, error) {
	list, err := clients.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: sealed.KeyLabel + "=" + sealed.KeyActive})
	if err != nil {
		return "", kubeFault(err, "list the sealing keys")
	}
	namespace, latest := deploy.DefaultNamespace, time.Time{}
	for i := range list.Items {
		key, err := sealed.ReadKey(&list.Items[i])
		if err == nil && key.Certificate.NotBefore.After(latest) {
			namespace, latest = list.Items[i].Namespace, key.Certificate.NotBefore
		}
	}
	return namespace, nil
}

const keysBackupExamples = `  # to whoever may restore it
  holdfast keys backup --recipient age1... --recipient "$(cat ~/.ssh/id_ed25519.pub)" --out keys.age`

func newKeysBackup(p Process) *cobra.Command {
	var o Keys
	var recipients []string
	var out string
	cmd := &cobra.Command{
		Use:   "backup --recipient RECIPIENT... --out FILE",
		Short: "Save all keys, encrypted",
		Long: `Save all keys in one file, encrypted with age to recipients. It is never written in
plain, and never over a file that is there.

` + found + `

Whoever may read those Secrets can make a backup; only a recipient's identity opens it.

Exit codes: 0 it is saved; 2 it is not.`,
		Example: keysBackupExamples,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := backup.Recipients(recipients)
			if err != nil {
				return err
			}
			if out == "" {
				return fault.New(fault.Invalid, "no file is named to save to").WithHint("name one with --out FILE")
			}
			return o.save(cmd.Context(), p, to, out)
		},
	}
	o.bindSecrets(settings{cmd.Flags()})
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "`RECIPIENT` who can open it: age1..., or an SSH public key; repeatable")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to save to, with the mode 0600")
	return cmd
}

func (o *Keys) save(ctx context.Context, p Process, to []age.Recipient, out string) error {
	secrets, err := o.collect(ctx)
	if err != nil {
		return err
	}
	if len(secrets) == 0 {
		return fault.New(fault.NotFound, "the cluster has no keys to save").WithHint("name Secrets with --secret NAMESPACE/NAME, or make a key with 'holdfast keys rotate'")
	}
	var b bytes.Buffer
	if err := backup.Write(&b, secrets, to); err != nil {
		return err
	}
	if err := newFile(out, b.Bytes()); err != nil {
		return err
	}
	for i := range secrets {
		fmt.Fprintf(p.Out, "saved Secret %s/%s\n", secrets[i].Namespace, secrets[i].Name)
	}
	return nil
}

// newFile writes a file that is not there yet, for its owner's eyes.
func newFile(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the user named it
	if errors.Is(err, os.ErrExist) {
		return fault.New(fault.Conflict, "there is such a file already").At(name, 0).WithHint("name another, or move it away")
	}
	if err != nil {
		return fault.New(fault.Invalid, "cannot write it: %s", err).At(name, 0)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = os.Remove(name) // half of a backup is none
		return fault.New(fault.Invalid, "cannot write it: %s", err).At(name, 0)
	}
	return nil
}

const keysRestoreExamples = `  # what would it do?
  holdfast keys restore -f keys.age --identity key.txt --dry-run

  # into a new cluster
  holdfast keys restore -f keys.age --identity key.txt`

// KeysRestore says what to restore.
type KeysRestore struct {
	Keys

	File       string
	Identities []string
	Force      bool
	DryRun     bool
}

func newKeysRestore(p Process) *cobra.Command {
	var o KeysRestore
	cmd := &cobra.Command{
		Use:   "restore -f FILE --identity FILE",
		Short: "Bring keys back from a backup",
		Long: `Bring keys back from a backup. Keys that are there already stay as they are. If the
cluster has another key under the name of one of the backup, nothing is restored,
unless --force is given.

The namespaces must be there.

Exit codes: 0 all keys are there; 2 they are not.`,
		Example: keysRestoreExamples,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), p) },
	}
	o.bind(settings{cmd.Flags()})
	cmd.Flags().StringVarP(&o.File, "filename", "f", "", "`FILE` of the backup, - for standard input")
	cmd.Flags().StringArrayVar(&o.Identities, "identity", nil, "`FILE` with an identity of age, or a private key of SSH without a passphrase; repeatable")
	cmd.Flags().BoolVar(&o.Force, "force", false, "replace keys that differ; what they sealed can no longer be opened")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	return cmd
}

func (o *KeysRestore) run(ctx context.Context, p Process) error {
	secrets, err := o.read(p)
	if err != nil {
		return err
	}
	c, err := o.clients()
	if err != nil {
		return err
	}
	steps, err := c.Plan(ctx, secrets, o.Force)
	if err != nil {
		return err
	}
	if !o.DryRun {
		if err := c.Restore(ctx, steps); err != nil {
			return err
		}
	}
	for _, s := range steps {
		done := string(s.Change)
		if o.DryRun && s.Change != backup.Unchanged {
			done = "would be " + done
		}
		fmt.Fprintf(p.Out, "Secret %s/%s: %s\n", s.Secret.Namespace, s.Secret.Name, done)
	}
	return nil
}

func (o *KeysRestore) read(p Process) ([]corev1.Secret, error) {
	if o.File == "" || len(o.Identities) == 0 {
		return nil, fault.New(fault.Invalid, "a backup and an identity that opens it are needed").WithHint("give -f FILE and --identity FILE")
	}
	var identities []age.Identity
	for _, file := range o.Identities {
		content, err := readFile(p, file)
		if err != nil {
			return nil, err
		}
		some, err := backup.Identities(content)
		if err != nil {
			return nil, fault.From(err).At(file, 0)
		}
		identities = append(identities, some...)
	}
	content, err := readFile(p, o.File)
	if err != nil {
		return nil, err
	}
	secrets, err := backup.Read(bytes.NewReader(content), identities)
	if err != nil {
		return nil, fault.From(err).At(o.File, 0)
	}
	return secrets, nil
}
