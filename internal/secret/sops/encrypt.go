package sops

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"
	"go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// libraryVersion is what sealed files are marked with: clients read from it which
// defects of older ones a file may have.
const libraryVersion = "3.13.3"

// Encrypt seals a file, whose path is relative to where the rules (.sops.yaml) are, as
// `sops encrypt` does: for the recipients of the first creation rule whose path_regex
// fits. Recipients are age keys, SSH keys among them; see [Keys.Encrypt] for others.
// Errors are *fault.Error: Invalid, Unsupported, NotFound (no rule fits), Limit.
func Encrypt(file string, content, rules []byte) ([]byte, error) {
	return (*Keys)(nil).Encrypt(context.Background(), file, content, rules)
}

// Encrypt is [Encrypt] for recipients that take more than their name, too: OpenPGP
// keys, of which k holds the public half, and key services that k has credentials for.
// Errors are those of Encrypt, and Unreachable and Unauthorized.
func (k *Keys) Encrypt(ctx context.Context, file string, content, rules []byte) ([]byte, error) {
	quiet()
	if k == nil {
		k = &Keys{limit: defaultTimeout}
	}
	ctx, cancel := context.WithTimeout(ctx, max(k.limit, time.Second))
	defer cancel()
	sealed, err := k.seal(ctx, file, content, rules)
	if err != nil {
		f := fault.From(err)
		if f.File == "" {
			f = f.At(file, f.Line)
		}
		return nil, f
	}
	return sealed, nil
}

func (k *Keys) seal(ctx context.Context, file string, content, rules []byte) (sealed []byte, err error) {
	defer func() {
		if recover() != nil {
			sealed, err = nil, fault.New(fault.Invalid, "the SOPS library cannot seal the file")
		}
	}()
	if len(content) > maxFile || len(rules) > maxFile {
		return nil, fault.New(fault.Limit, "the file has more than %d bytes", maxFile)
	}
	if Sealed(file, content) {
		return nil, fault.New(fault.Invalid, "the file is sealed already").WithHint("change it with `sops edit`")
	}
	parsed, err := parseRules(rules)
	if err != nil {
		return nil, err
	}
	rule, err := parsed.find(file)
	if err != nil {
		return nil, err
	}
	metadata, err := rule.metadata()
	if err != nil {
		return nil, err
	}
	f := cmpOr(byName(file), formatBinary)
	store := f.store(&parsed.Stores)
	branches, err := load(f, store, content)
	if err != nil {
		return nil, err
	}
	tree := sops.Tree{Branches: branches, Metadata: metadata}
	if err := k.sealTree(ctx, &tree); err != nil {
		return nil, err
	}
	out, err := store.EmitEncryptedFile(tree)
	if err != nil {
		return nil, fault.New(fault.Invalid, "what the file holds cannot be sealed as %s", f)
	}
	if bytes.Count(out, []byte(secret.SOPS)) < 2 { // its MAC alone: stock SOPS calls that sealed
		return nil, fault.New(fault.Invalid, "the creation rule seals nothing in the file: no name in it fits").
			WithHint("give the file a rule of its own in .sops.yaml, such as one without encrypted_regex")
	}
	return out, nil
}

// load reads a file that is to be sealed.
func load(f format, store sops.Store, content []byte) (sops.TreeBranches, error) {
	if f == formatYAML {
		// The library follows aliases without an end; decoding them here does not.
		for _, part := range split(content) {
			if err := yaml.Unmarshal(part, &map[string]any{}); err != nil {
				return nil, fault.New(fault.Invalid, "the file cannot be read as YAML: SOPS seals mappings").At("", syntaxOf(f, err).Line)
			}
		}
	}
	branches, err := store.LoadPlainFile(content)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the file cannot be read as %s, of which SOPS seals mappings of names to values", f)
	}
	empty := true
	for _, b := range branches {
		if store.HasSopsTopLevelKey(b) {
			return nil, fault.New(fault.Invalid, "the file has a key \"sops\", where SOPS keeps its metadata")
		}
		empty = empty && len(b) == 0
	}
	if empty {
		return nil, fault.New(fault.Invalid, "there is nothing in the file to seal")
	}
	return branches, nil
}

// sealTree seals values, and the key that they are sealed with for every recipient.
func (k *Keys) sealTree(ctx context.Context, tree *sops.Tree) error {
	s := &service{ctx: ctx, keys: k}
	key, errs := tree.GenerateDataKeyWithKeyServices([]keyservice.KeyServiceClient{keyservice.NewCustomLocalClient(s)})
	if len(errs) > 0 {
		if len(s.failed) > 0 {
			return s.failed[0]
		}
		return fault.New(fault.Invalid, "the recipients, their groups and the Shamir threshold of the rule do not fit")
	}
	cipher := aes.NewCipher()
	mac, err := tree.Encrypt(key, cipher)
	if err != nil {
		return fault.New(fault.Invalid, "a value of the file is of a kind that SOPS does not seal")
	}
	tree.Metadata.LastModified = time.Now().UTC()
	tree.Metadata.MessageAuthenticationCode, err = cipher.Encrypt(mac, key, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		return fault.New(fault.Internal, "the MAC of the file cannot be sealed")
	}
	return nil
}

// Encrypt implements keyservice.KeyServiceServer.
func (s *service) Encrypt(_ context.Context, r *keyservice.EncryptRequest) (*keyservice.EncryptResponse, error) {
	sealed, err := s.encrypt(r.GetKey(), r.GetPlaintext())
	if err != nil {
		return nil, s.note(err)
	}
	return &keyservice.EncryptResponse{Ciphertext: sealed}, nil
}

func (s *service) encrypt(key *keyservice.Key, plain []byte) ([]byte, error) {
	switch key := key.GetKeyType().(type) {
	case *keyservice.Key_AgeKey:
		return sealAge(key.AgeKey.GetRecipient(), plain)
	case *keyservice.Key_PgpKey:
		return s.keys.sealPGP(key.PgpKey.GetFingerprint(), plain)
	case *keyservice.Key_VaultKey:
		return s.keys.sealVault(s.ctx, key.VaultKey, plain)
	case *keyservice.Key_KmsKey:
		return s.keys.sealAWS(s.ctx, key.KmsKey, plain)
	case *keyservice.Key_AzureKeyvaultKey:
		return s.keys.sealAzure(s.ctx, key.AzureKeyvaultKey, plain)
	case *keyservice.Key_GcpKmsKey:
		return s.keys.sealGCP(s.ctx, key.GcpKmsKey, plain)
	}
	return nil, fault.New(fault.Unsupported, "the recipient is of a kind that Holdfast does not seal for")
}

func sealAge(recipient string, plain []byte) ([]byte, error) {
	key, err := ageRecipient(recipient)
	if err != nil {
		return nil, err
	}
	if err := key.Encrypt(plain); err != nil {
		return nil, fault.New(fault.Invalid, "the age recipient %s cannot be sealed for", shown(recipient))
	}
	return key.EncryptedDataKey(), nil
}

// ageRecipient reads a recipient. Those of plugins have a name between two digits 1,
// and would have the library start a program.
func ageRecipient(recipient string) (*sopsage.MasterKey, error) {
	if strings.HasPrefix(recipient, "age1") && !strings.HasPrefix(recipient, "age1pq1") && strings.Count(recipient, "1") > 1 {
		return nil, fault.New(fault.Unsupported, "the age recipient %s is that of a plugin, which would be a program to start", shown(recipient)).
			WithHint("use the sops command to seal for it")
	}
	key, err := sopsage.MasterKeyFromRecipient(recipient)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is no age recipient", shown(recipient)).
			WithHint("recipients begin with age1 or ssh-; what begins with AGE-SECRET-KEY- is a private key and stays secret")
	}
	return key, nil
}

func (k *Keys) sealPGP(fingerprint string, plain []byte) ([]byte, error) {
	e := k.findPGP(fingerprint)
	if e == nil {
		return nil, fault.New(fault.NotFound, "the public key of PGP %s is not at hand", shown(fingerprint)).
			WithHint("give it as an entry *.asc: gpg --export --armor")
	}
	var out bytes.Buffer
	if err := writePGP(&out, e, plain); err != nil {
		return nil, fault.New(fault.Invalid, "PGP %s cannot be sealed for", shown(fingerprint)).WithHint("has it expired, or no key for encryption?")
	}
	return out.Bytes(), nil
}

func (k *Keys) findPGP(fingerprint string) *openpgp.Entity {
	for _, e := range append(append([]entity(nil), k.pgp...), k.public...) {
		if e.is(fingerprint) {
			return e.Entity
		}
	}
	return nil
}

func writePGP(out io.Writer, to *openpgp.Entity, plain []byte) error {
	armored, err := armor.Encode(out, "PGP MESSAGE", nil)
	if err != nil {
		return err
	}
	w, err := openpgp.Encrypt(armored, []*openpgp.Entity{to}, nil, &openpgp.FileHints{IsBinary: true}, nil)
	if err != nil {
		return err
	}
	if _, err := w.Write(plain); err != nil {
		return err
	}
	return errors.Join(w.Close(), armored.Close())
}

// ruleFile is .sops.yaml. Its other half, rules of `sops publish`, is not read.
type ruleFile struct {
	CreationRules    []rule              `yaml:"creation_rules"`
	DestinationRules yaml.Node           `yaml:"destination_rules"`
	Stores           config.StoresConfig `yaml:"stores"`
}

// rule is a creation rule, as the library reads it.
type rule struct {
	PathRegex               string  `yaml:"path_regex"`
	Age                     list    `yaml:"age"`
	PGP                     list    `yaml:"pgp"`
	KMS                     list    `yaml:"kms"`
	AWSProfile              string  `yaml:"aws_profile"`
	GCPKMS                  list    `yaml:"gcp_kms"`
	HCKMS                   list    `yaml:"hckms"`
	AzureKeyVault           list    `yaml:"azure_keyvault"`
	Vault                   list    `yaml:"hc_vault_transit_uri"`
	KeyGroups               []group `yaml:"key_groups"`
	ShamirThreshold         int     `yaml:"shamir_threshold"`
	UnencryptedSuffix       string  `yaml:"unencrypted_suffix"`
	EncryptedSuffix         string  `yaml:"encrypted_suffix"`
	UnencryptedRegex        string  `yaml:"unencrypted_regex"`
	EncryptedRegex          string  `yaml:"encrypted_regex"`
	UnencryptedCommentRegex string  `yaml:"unencrypted_comment_regex"`
	EncryptedCommentRegex   string  `yaml:"encrypted_comment_regex"`
	MACOnlyEncrypted        bool    `yaml:"mac_only_encrypted"`
}

// list is names in a list, or in one string, parted by commas.
type list []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (l *list) UnmarshalYAML(n *yaml.Node) error {
	var all []string
	if n.Kind != yaml.ScalarNode {
		return n.Decode((*[]string)(l))
	}
	for s := range strings.SplitSeq(n.Value, ",") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	*l = all
	return nil
}

func parseRules(rules []byte) (*ruleFile, error) {
	parsed := &ruleFile{Stores: *config.NewStoresConfig()}
	decoder := yaml.NewDecoder(bytes.NewReader(rules))
	decoder.KnownFields(true)
	if err := decoder.Decode(parsed); err != nil && !errors.Is(err, io.EOF) {
		// The text of such an error names fields and lines of a file that is no secret.
		return nil, fault.New(fault.Invalid, "the creation rules cannot be read: %s", shown(strings.TrimPrefix(err.Error(), "yaml: "))).At(".sops.yaml", 0)
	}
	return parsed, nil
}

// find returns the first rule that fits a file.
func (r *ruleFile) find(file string) (*rule, error) {
	for i := range r.CreationRules {
		c := &r.CreationRules[i]
		fits, err := regexp.MatchString(c.PathRegex, file)
		if err != nil {
			return nil, fault.New(fault.Invalid, "path_regex of creation rule %d is not valid", i+1).At(".sops.yaml", 0)
		}
		if fits {
			return c, nil
		}
	}
	return nil, fault.New(fault.NotFound, "no creation rule fits the file").WithHint("add one with a path_regex to .sops.yaml")
}

// metadata are those of a file that is sealed by the rule.
func (r *rule) metadata() (sops.Metadata, error) {
	m := sops.Metadata{
		UnencryptedSuffix: r.UnencryptedSuffix, EncryptedSuffix: r.EncryptedSuffix,
		UnencryptedRegex: r.UnencryptedRegex, EncryptedRegex: r.EncryptedRegex,
		UnencryptedCommentRegex: r.UnencryptedCommentRegex, EncryptedCommentRegex: r.EncryptedCommentRegex,
		MACOnlyEncrypted: r.MACOnlyEncrypted, ShamirThreshold: r.ShamirThreshold, Version: libraryVersion,
	}
	set := 0
	for _, s := range []string{m.UnencryptedSuffix, m.EncryptedSuffix, m.UnencryptedRegex, m.EncryptedRegex, m.UnencryptedCommentRegex, m.EncryptedCommentRegex} {
		if _, err := regexp.Compile(s); err != nil {
			return m, fault.New(fault.Invalid, "a regular expression of the creation rule is not valid").At(".sops.yaml", 0)
		}
		if s != "" {
			set++
		}
	}
	switch {
	case set > 1:
		return m, fault.New(fault.Invalid, "the creation rule says in more than one way what to seal").At(".sops.yaml", 0)
	case set == 0:
		m.UnencryptedSuffix = sops.DefaultUnencryptedSuffix
	}
	groups, err := r.groups()
	m.KeyGroups = groups
	return m, err
}
