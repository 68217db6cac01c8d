package sops

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// Bounds of a sealed file. The library has none, and walks what it reads by recursion.
const (
	maxFile       = 5 << 20 // as Flux has it
	maxDepth      = 100     // levels of mappings and lists
	maxItems      = 100_000 // keys, values and lines
	maxDocuments  = 1000
	maxKeyNames   = 4000 // of one mapping, each of which YAML's reader compares with all others
	maxGroups     = 32
	maxRecipients = 100
	maxSealedKey  = 16 << 10 // bytes of a data key as it is sealed for one recipient
	maxKeyName    = 1 << 10  // bytes of a flattened name in the metadata of dotenv and INI
	maxMatching   = 10 << 20 // instructions of regular expressions compiled for one file
	dataKeySize   = 32       // AES-256
)

// open opens a file that is sealed.
func (k *Keys) open(ctx context.Context, file string, content []byte) (secret.Opened, bool, error) {
	f := formatOf(file, content)
	if f == formatYAML {
		return k.openYAML(ctx, content)
	}
	if err := bounded(f, content); err != nil {
		return secret.Opened{}, true, err
	}
	if f == formatJSON && leftSealed(content) {
		return secret.Opened{}, false, nil
	}
	tree, values, err := k.decrypt(ctx, f, content)
	if err != nil {
		return secret.Opened{}, true, err
	}
	plain, err := emit(f, tree.Branches)
	if err != nil {
		return secret.Opened{}, true, err
	}
	return secret.Opened{Content: secret.Hide(plain), Values: values}, true, nil
}

// openYAML opens a file of YAML documents. Those that were sealed together, which
// share one MAC, are opened together; between them may stand others, sealed apart or
// not at all.
func (k *Keys) openYAML(ctx context.Context, content []byte) (secret.Opened, bool, error) {
	docs, err := documents(content)
	if err != nil {
		return secret.Opened{}, true, err
	}
	var opened secret.Opened
	done := map[string]bool{}
	plain := make([][]byte, len(docs))
	for i, d := range docs {
		plain[i] = d.text
	}
	for _, d := range docs {
		if !d.sealed || done[d.mac] {
			continue
		}
		done[d.mac] = true
		values, err := k.openGroup(ctx, docs, d.mac, plain)
		if err != nil {
			return secret.Opened{}, true, err
		}
		opened.Values = append(opened.Values, values...)
	}
	if len(done) == 0 {
		return secret.Opened{}, true, noMetadata()
	}
	for i, d := range docs {
		if d.sealed && d.left {
			plain[i] = d.text
		}
	}
	if allLeft(docs) {
		return secret.Opened{}, false, nil
	}
	opened.Content = secret.Hide(bytes.Join(plain, nil))
	return opened, true, nil
}

func allLeft(docs []document) bool {
	for _, d := range docs {
		if d.sealed && !d.left {
			return false
		}
	}
	return true
}

// openGroup opens the documents with one MAC, and puts them into plain. A group that
// is to be left sealed as a whole needs no key.
func (k *Keys) openGroup(ctx context.Context, docs []document, mac string, plain [][]byte) ([]secret.Text, error) {
	var group []int
	var text []byte
	left := true
	for i, d := range docs {
		if !d.sealed || d.mac != mac {
			continue
		}
		if len(group) > 0 && !separator.Match(d.text) {
			return nil, fault.New(fault.Invalid, "documents of a sealed file are parted by lines of \"---\"")
		}
		group, left = append(group, i), left && d.left
		text = append(text, d.text...)
	}
	if left {
		return nil, nil
	}
	tree, values, err := k.decrypt(ctx, formatYAML, text)
	if err != nil {
		return nil, err
	}
	if len(tree.Branches) != len(group) {
		return nil, fault.New(fault.Invalid, "the documents of the sealed file cannot be told apart")
	}
	for j, i := range group {
		body, err := emit(formatYAML, sops.TreeBranches{tree.Branches[j]})
		if err != nil {
			return nil, err
		}
		if separator.Match(docs[i].text) {
			body = append([]byte("---\n"), body...)
		}
		plain[i] = body
	}
	return values, nil
}

func noMetadata() *fault.Error {
	return fault.New(fault.Refused, "the file has sealed values, but no sops metadata").WithHint("restore it as it was sealed")
}

// bounded holds a file that is no YAML to the bounds, before the library reads it.
func bounded(f format, content []byte) error {
	if f != formatJSON && f != formatBinary {
		return boundedLines(content)
	}
	if !json.Valid(content) {
		return fault.New(fault.Invalid, "the file is sealed, and cannot be read as JSON")
	}
	depth, items := 0, 0
	decoder := json.NewDecoder(bytes.NewReader(content))
	for {
		token, err := decoder.Token()
		if err != nil {
			return nil //nolint:nilerr // the end: the content is valid
		}
		items++
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxDepth {
			return fault.New(fault.Limit, "the sealed file nests deeper than %d levels", maxDepth)
		}
		if items > maxItems {
			return fault.New(fault.Limit, "the sealed file has more than %d values", maxItems)
		}
	}
}

func boundedLines(content []byte) error {
	items := 0
	for line := range bytes.Lines(content) {
		if items++; items > maxItems/10 {
			return fault.New(fault.Limit, "the sealed file has more than %d lines", maxItems/10)
		}
		name, _, _ := bytes.Cut(line, []byte("="))
		if bytes.Contains(name, []byte("__")) && len(name) > maxKeyName {
			return fault.New(fault.Limit, "a name in the sealed file has more than %d bytes", maxKeyName)
		}
	}
	return nil
}

// leftSealed reports whether a JSON object is to stay sealed.
func leftSealed(content []byte) bool {
	d, err := parseDocument(content)
	return err == nil && d.left
}

// decrypt has the library open a file whose shape is bounded, and verifies its MAC.
// The library panics on some of what nobody would write by accident, such as a null in
// the context of a KMS key.
func (k *Keys) decrypt(ctx context.Context, f format, content []byte) (tree sops.Tree, values []secret.Text, err error) {
	defer func() {
		if recover() != nil { // what it says may hold a value
			tree, values, err = sops.Tree{}, nil, fault.New(fault.Invalid, "the file is sealed, and the SOPS library cannot read it")
		}
	}()
	tree, loadErr := f.store(config.NewStoresConfig()).LoadEncryptedFile(content)
	if loadErr != nil {
		return tree, nil, unreadable(f, loadErr)
	}
	if err := boundedMetadata(tree); err != nil {
		return tree, nil, err
	}
	key, err := k.dataKey(ctx, &tree.Metadata)
	if err != nil {
		return tree, nil, err
	}
	recorder := &recorder{cipher: aes.NewCipher()}
	mac, walkErr := tree.Decrypt(key, recorder)
	if walkErr != nil {
		return tree, nil, recorder.refusal()
	}
	if err := verify(tree.Metadata, key, mac); err != nil {
		return tree, nil, err
	}
	return tree, recorder.values, nil
}

// unreadable reduces an error of the library, which may quote the file, to what may
// be told of it.
func unreadable(f format, err error) *fault.Error {
	if err == sops.MetadataNotFound { //nolint:errorlint // a constant, returned as it is
		return noMetadata()
	}
	return syntaxOf(f, err)
}

// boundedMetadata holds what the file says of its recipients and rules to the bounds.
func boundedMetadata(tree sops.Tree) error {
	recipients := 0
	for _, group := range tree.Metadata.KeyGroups {
		for _, key := range group {
			if recipients++; len(key.EncryptedDataKey()) > maxSealedKey {
				return fault.New(fault.Limit, "a data key of the sealed file has more than %d bytes", maxSealedKey)
			}
		}
	}
	if recipients > maxRecipients || len(tree.Metadata.KeyGroups) > maxGroups {
		return fault.New(fault.Limit, "the file is sealed for more than %d recipients, or %d groups of them", maxRecipients, maxGroups)
	}
	return boundedRules(tree)
}

// boundedRules bounds the regular expressions, which the library compiles once for
// every name on the way to every value, and has them be valid, which it does not.
func boundedRules(tree sops.Tree) error {
	cost := 0
	m := tree.Metadata
	for _, rule := range []string{m.UnencryptedRegex, m.EncryptedRegex, m.UnencryptedCommentRegex, m.EncryptedCommentRegex} {
		if rule == "" {
			continue
		}
		parsed, err := syntax.Parse(rule, syntax.Perl)
		if err != nil {
			return fault.New(fault.Invalid, "a regular expression in the sops metadata is not valid")
		}
		program, err := syntax.Compile(parsed.Simplify())
		if err != nil {
			return fault.New(fault.Invalid, "a regular expression in the sops metadata is not valid")
		}
		cost += len(rule) + len(program.Inst)
	}
	if cost == 0 {
		return nil
	}
	names := 0
	for _, branch := range tree.Branches {
		names += steps(branch, 1)
	}
	if names > maxMatching/cost {
		return fault.New(fault.Limit, "the rules in the sops metadata are too much work for a file of this size")
	}
	return nil
}

// steps counts how often a rule is applied: once for every name above every value,
// and for every comment that may concern it.
func steps(v any, depth int) int {
	n := 0
	switch v := v.(type) {
	case sops.TreeBranch:
		for _, item := range v {
			if _, ok := item.Key.(sops.Comment); ok {
				depth++
			}
			n += depth + steps(item.Value, depth+1)
		}
	case []any:
		for _, item := range v {
			if _, ok := item.(sops.Comment); ok {
				depth++
			}
			n += depth + steps(item, depth+1)
		}
	default:
		return depth
	}
	return n
}

// dataKey returns the key that the values are sealed with. Errors are those of
// [secret.Opener.Open].
func (k *Keys) dataKey(ctx context.Context, m *sops.Metadata) ([]byte, error) {
	s := &service{ctx: ctx, keys: k}
	key, err := m.GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{keyservice.NewCustomLocalClient(s)}, sops.DefaultDecryptionOrder)
	if err != nil {
		return nil, s.failure(m)
	}
	if len(key) != dataKeySize {
		return nil, fault.New(fault.Refused, "the data key of the sealed file has %d bytes, not %d", len(key), dataKeySize).
			WithHint("the sops metadata were changed after sealing: restore the file as it was sealed")
	}
	return key, nil
}

// verify compares the MAC of what was opened with the one in the file.
func verify(m sops.Metadata, key []byte, computed string) error {
	sealed, err := aes.NewCipher().Decrypt(m.MessageAuthenticationCode, key, m.LastModified.Format(time.RFC3339))
	text, ok := sealed.(string)
	if err != nil || !ok || subtle.ConstantTimeCompare([]byte(text), []byte(computed)) != 1 {
		return fault.New(fault.Refused, "the file was changed after it was sealed: its MAC does not fit what is in it").
			WithHint("change sealed files with `sops edit` or `sops set`, or restore the file as it was sealed")
	}
	return nil
}

// recorder is the library's cipher, and keeps what came out of it.
type recorder struct {
	cipher aes.Cipher
	values []secret.Text
	failed string // where a value did not open; with a trailing colon
}

var _ sops.Cipher = (*recorder)(nil)

// Encrypt is not needed to open files.
func (r *recorder) Encrypt(any, []byte, string) (string, error) {
	return "", fault.New(fault.Internal, "a file that is opened is not sealed")
}

// Decrypt implements sops.Cipher.
func (r *recorder) Decrypt(ciphertext string, key []byte, where string) (any, error) {
	if strings.HasSuffix(ciphertext, ",type:bytes]") {
		// The library, which writes no such value, panics at it; the kind of a value is not
		// protected, so that anybody could have written it.
		r.failed = where
		return nil, fault.New(fault.Invalid, "values of kind bytes are not written by SOPS")
	}
	value, err := r.cipher.Decrypt(ciphertext, key, where)
	if err != nil {
		r.failed = where
		return nil, err
	}
	r.record(value, where)
	return value, nil
}

// record keeps a value as it would be printed. Truth values are no secrets: "true"
// would be masked in whatever is said.
func (r *recorder) record(value any, where string) {
	if _, ok := value.(bool); ok {
		return
	}
	text, err := sops.ToBytes(value)
	if err != nil || len(text) == 0 {
		return
	}
	r.values = append(r.values, secret.Hide(text))
	if !strings.HasPrefix(where, "data:") {
		return
	}
	// The data of a Secret are base64, and what they stand for is as secret.
	if raw, err := base64.StdEncoding.DecodeString(string(text)); err == nil && len(raw) > 0 {
		r.values = append(r.values, secret.Hide(raw))
	}
}

// refusal says which value did not open: names are not sealed, values are not told.
func (r *recorder) refusal() *fault.Error {
	const hint = "change sealed files with `sops edit` or `sops set`, or restore the file as it was sealed"
	if r.failed == "" {
		return fault.New(fault.Refused, "a value of the file that should be sealed is not").WithHint(hint)
	}
	// Where a file is damaged, sealed text may have become part of a name.
	where, _, _ := strings.Cut(strings.TrimSuffix(r.failed, ":"), "ENC[")
	return fault.New(fault.Refused, "the sealed value at %s was damaged, moved, or never sealed",
		shown(strings.TrimSpace(strings.ReplaceAll(where, ":", ".")))).WithHint(hint)
}

// emit writes what was opened in the format it came in.
func emit(f format, branches sops.TreeBranches) ([]byte, error) {
	if f == formatJSON {
		return emitJSON(branches)
	}
	plain, err := f.store(config.NewStoresConfig()).EmitPlainFile(branches)
	if err != nil {
		return nil, fault.New(fault.Invalid, "what the file holds cannot be written as %s", f)
	}
	return plain, nil
}
