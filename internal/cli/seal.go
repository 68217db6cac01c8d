package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
)

// Seal says what to seal, for whom and for where.
type Seal struct {
	Connection

	Files     []string
	Cert      string
	Service   string
	Control   string
	Scope     string
	Namespace string
	Name      string
	Output    string
	MergeInto string
	Raw       bool
	Reencrypt bool
	SOPS      bool
	InPlace   bool
}

func (o *Seal) bind(cmd *cobra.Command) {
	s := settings{cmd.Flags()}
	o.Connection.bind(s)
	s.flags.StringArrayVarP(&o.Files, "filename", "f", nil, "`FILE` with Secrets, - for standard input; repeatable (default: -)")
	s.text(&o.Cert, "cert", "", "`FILE` or https URL of the certificate to seal for, or http URL on this machine (default: it is fetched from the controller)")
	s.text(&o.Service, "service", deploy.DefaultNamespace+"/holdfast", "`NAMESPACE/NAME` of the controller's Service, which may be the stock controller's too")
	s.text(&o.Control, "controller", "", "https `URL` at which the controller is asked itself, or http URL on this machine (default: by way of the API server)")
	s.flags.StringVar(&o.Scope, "scope", "", "where it may be opened: `SCOPE` strict, namespace-wide or cluster-wide (default: as the Secret's annotations say, else strict)")
	s.flags.StringVarP(&o.Namespace, "namespace", "n", "", "`NAMESPACE` of Secrets that name none (default: that of the context)")
	s.flags.StringVar(&o.Name, "name", "", "`NAME` of the Secret that a single value is for (with --raw)")
	s.flags.StringVarP(&o.Output, "output", "o", "yaml", "`FORMAT`: yaml or json")
	s.flags.StringVar(&o.MergeInto, "merge-into", "", "`FILE` with a SealedSecret that the values are added to")
	s.flags.BoolVar(&o.Raw, "raw", false, "seal what is read as one value, and print it as it stands in spec.encryptedData")
	s.flags.BoolVar(&o.Reencrypt, "re-encrypt", false, "read SealedSecrets, and have the controller seal them anew with its newest key")
	s.flags.BoolVar(&o.SOPS, "sops", false, "seal a file with SOPS instead, as the nearest .sops.yaml says")
	s.flags.BoolVarP(&o.InPlace, "in-place", "w", false, "write the files instead of printing (with --sops or --re-encrypt)")
}

const sealExamples = `  # a Secret that never lies in a file
  kubectl create secret generic db --from-literal=password=... --dry-run=client -o yaml |
    holdfast seal -n shop > db.yaml

  # without a cluster at hand
  holdfast seal -f secret.yaml --cert cert.pem > sealed.yaml

  # one more value, into a file that is there
  kubectl create secret generic db --from-file=token --dry-run=client -o yaml | holdfast seal --merge-into db.yaml

  # one value
  printf %s "$TOKEN" | holdfast seal --raw -n shop --name db

  # after 'holdfast keys rotate'
  holdfast seal --re-encrypt -w -f db.yaml -f web.yaml

  # with SOPS
  holdfast seal --sops -w -f clusters/prod/db.yaml`

func newSeal(p Process) *cobra.Command {
	var o Seal
	cmd := &cobra.Command{
		Use:   "seal [-f FILE]...",
		Short: "Seal Secrets, so that they can be committed",
		Long: `Seal Secrets for the cluster that opens them, as kubeseal does: each value by itself,
for its name and namespace unless a wider scope is asked for. Whoever has the
certificate can seal; only the cluster can open. Labels, annotations and type are not
sealed, and not protected.

With --sops a file is sealed for the recipients that the creation rules in the nearest
.sops.yaml name, searched for from the file's directory upwards.

Plaintext is neither printed nor written.

Exit codes: 0 it is sealed; 2 it is not.`,
		Example: sealExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			return o.run(cmd.Context(), p)
		},
	}
	o.bind(cmd)
	return cmd
}

func (o *Seal) validate() error {
	modes := 0
	for _, on := range []bool{o.Raw, o.Reencrypt, o.SOPS, o.MergeInto != ""} {
		if on {
			modes++
		}
	}
	switch {
	case modes > 1:
		return fault.New(fault.Invalid, "--raw, --re-encrypt, --sops and --merge-into exclude each other")
	case o.InPlace && !o.SOPS && !o.Reencrypt:
		return fault.New(fault.Invalid, "--in-place goes with --sops and --re-encrypt")
	case o.Reencrypt && o.Cert != "":
		return fault.New(fault.Invalid, "--re-encrypt takes no --cert: the controller seals with its newest key")
	case o.Name != "" && !o.Raw:
		return fault.New(fault.Invalid, "--name goes with --raw")
	}
	if len(o.Files) == 0 {
		o.Files = []string{"-"}
	}
	return o.validateFiles()
}

func (o *Seal) validateFiles() error {
	if o.Output != "yaml" && o.Output != "json" {
		return fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose json or yaml")
	}
	if o.Cert == "-" || o.MergeInto == "-" {
		return fault.New(fault.Invalid, "standard input is for Secrets").WithHint("name a file")
	}
	if (o.Raw || o.SOPS) && len(o.Files) > 1 {
		return fault.New(fault.Invalid, "one file at a time")
	}
	if o.InPlace && slices.Contains(o.Files, "-") {
		return fault.New(fault.Invalid, "--in-place needs files").WithHint("name them with -f FILE")
	}
	if _, err := controllerURL(o.Control, "--controller"); o.Control != "" && err != nil {
		return err
	}
	_, err := sealed.ParseScope(o.Scope)
	return err
}

func (o *Seal) run(ctx context.Context, p Process) error {
	switch {
	case o.SOPS:
		return o.sops(ctx, p)
	case o.Reencrypt:
		return o.reencrypt(ctx, p)
	case o.Raw:
		return o.raw(ctx, p)
	}
	sealedSecrets, err := o.seal(ctx, p)
	if err != nil {
		return err
	}
	if o.MergeInto == "" {
		return o.print(p.Out, sealedSecrets)
	}
	return o.merge(sealedSecrets)
}

// seal returns the SealedSecrets of the Secrets in the files.
func (o *Seal) seal(ctx context.Context, p Process) ([]*unstructured.Unstructured, error) {
	secrets, err := readObjects(p, o.Files)
	if err != nil {
		return nil, err
	}
	if len(secrets) == 0 {
		return nil, fault.New(fault.Invalid, "there is no Secret to seal").WithHint("name a file with -f FILE, or pipe one in")
	}
	if o.MergeInto != "" && len(secrets) > 1 {
		return nil, fault.New(fault.Invalid, "one Secret at a time is merged")
	}
	cert, err := o.certificate(ctx)
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	for _, s := range secrets {
		scope, err := o.place(s)
		if err != nil {
			return nil, err
		}
		one, err := sealed.Seal(cert, s, scope)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// place gives s its namespace, and, where it is to be merged, the place of what is
// there, and returns its scope.
func (o *Seal) place(s *unstructured.Unstructured) (sealed.Scope, error) {
	scope, err := sealed.ParseScope(o.Scope)
	if o.Scope == "" {
		scope = sealed.ScopeOf(s.GetAnnotations())
	}
	if o.MergeInto != "" {
		into, err := o.target()
		if err != nil {
			return scope, err
		}
		s.SetName(into.GetName())
		s.SetNamespace(into.GetNamespace())
		if o.Scope == "" {
			scope = sealed.ScopeOf(into.GetAnnotations())
		}
	}
	switch {
	case err != nil:
		return scope, err
	case s.GetNamespace() == "":
		s.SetNamespace(o.defaultNamespace())
	case o.Namespace != "" && s.GetNamespace() != o.Namespace:
		return scope, fault.New(fault.Invalid, "the Secret is in namespace %s, and -n says %s", s.GetNamespace(), o.Namespace).
			On("Secret/" + s.GetNamespace() + "/" + s.GetName())
	}
	return scope, nil
}

// defaultNamespace is that of -n, or of the context, or default.
func (o *Seal) defaultNamespace() string {
	if o.Namespace != "" {
		return o.Namespace
	}
	return o.contextNamespace()
}

// target reads the SealedSecret to merge into.
func (o *Seal) target() (*unstructured.Unstructured, error) {
	objects, err := readObjects(Process{}, []string{o.MergeInto})
	if err != nil {
		return nil, err
	}
	if len(objects) != 1 || !sealed.IsSealedSecret(objects[0]) {
		return nil, fault.New(fault.Invalid, "it does not hold one SealedSecret, and nothing else").At(o.MergeInto, 0)
	}
	return objects[0], nil
}

func (o *Seal) merge(more []*unstructured.Unstructured) error {
	into, err := o.target()
	if err != nil {
		return err
	}
	if err := sealed.Merge(into, more[0]); err != nil {
		return err
	}
	return rewrite(o.MergeInto, []*unstructured.Unstructured{into})
}

// rewrite replaces what is in a file, in the format that its name says.
func rewrite(file string, objects []*unstructured.Unstructured) error {
	format := "yaml"
	if strings.HasSuffix(file, ".json") {
		format = "json"
	}
	var b bytes.Buffer
	if err := writeObjects(&b, format, objects); err != nil {
		return err
	}
	return replaceFile(file, b.Bytes())
}

func (o *Seal) print(w io.Writer, objects []*unstructured.Unstructured) error {
	return writeObjects(w, o.Output, objects)
}

func writeObjects(w io.Writer, format string, objects []*unstructured.Unstructured) error {
	for i, one := range objects {
		if format == "yaml" && i > 0 {
			fmt.Fprintln(w, "---")
		}
		if err := encode(w, format, one.Object); err != nil {
			return err
		}
	}
	return nil
}

func (o *Seal) raw(ctx context.Context, p Process) error {
	scope, err := sealed.ParseScope(o.Scope)
	if err != nil {
		return err
	}
	if scope == sealed.Strict && o.Name == "" {
		return fault.New(fault.Invalid, "a value of strict scope needs the name of its Secret").WithHint("give it with --name, or a wider --scope")
	}
	value, err := readFile(p, o.Files[0])
	if err != nil {
		return err
	}
	cert, err := o.certificate(ctx)
	if err != nil {
		return err
	}
	text, err := sealed.SealValue(cert, value, scope, o.defaultNamespace(), o.Name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.Out, text)
	return err
}

// sops seals a file by the rules of the nearest .sops.yaml.
func (o *Seal) sops(ctx context.Context, p Process) error {
	file := o.Files[0]
	if file == "-" {
		return fault.New(fault.Invalid, "--sops needs a file: its path chooses the rule").WithHint("name it with -f FILE")
	}
	content, err := readFile(p, file)
	if err != nil {
		return err
	}
	if sops.Sealed(file, content) {
		return fault.New(fault.Invalid, "it is sealed already").At(file, 0).
			WithHint("change it with `sops edit`, or its recipients with `sops updatekeys`")
	}
	rules, relative, err := sopsRules(file)
	if err != nil {
		return err
	}
	out, err := (*sops.Keys)(nil).Encrypt(ctx, relative, content, rules)
	if err != nil {
		return err
	}
	if o.InPlace {
		return replaceFile(file, out)
	}
	_, err = p.Out.Write(out)
	return err
}

const sopsConfig = ".sops.yaml"

// sopsRules returns the nearest .sops.yaml above a file, and the path of the file from
// there, as its rules see it.
func sopsRules(file string) (rules []byte, relative string, err error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, "", fault.New(fault.Invalid, "the file has no place: %s", err).At(file, 0)
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		at := filepath.Join(dir, sopsConfig)
		if _, err := os.Stat(at); err == nil {
			rules, err := readFile(Process{}, at)
			if err != nil {
				return nil, "", err
			}
			relative, err := filepath.Rel(dir, path)
			return rules, filepath.ToSlash(relative), err
		}
		if dir == filepath.Dir(dir) {
			return nil, "", fault.New(fault.NotFound, "there is no %s in its directory or above", sopsConfig).At(file, 0).
				WithHint("write one with creation_rules that name the recipients")
		}
	}
}

// replaceFile writes a file beside another and puts it in its place, with its mode.
func replaceFile(name string, content []byte) error {
	info, err := os.Stat(name)
	if err != nil {
		return fault.New(fault.NotFound, "the file is gone").At(name, 0)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fault.New(fault.Invalid, "cannot write beside it: %s", err).At(name, 0)
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is gone if all went well
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(info.Mode().Perm())
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fault.New(fault.Invalid, "cannot write it: %s", err).At(name, 0)
	}
	return nil
}
