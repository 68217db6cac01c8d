package own

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/commit"
	"github.com/holdfastcd/holdfast/internal/trust/image"
)

// The reasons of a policy's conditions.
const (
	ReasonEnforced = "Enforced"     // it is judged by, and refuses
	ReasonAudited  = "Audited"      // it is judged by, and tells
	ReasonReading  = "ReadingKeys"  // what it names has not been read yet
	ReasonUnknown  = "UnknownField" // a field that nobody knows
	ReasonInvalid  = "InvalidSpec"  // a value that does not fit
	ReasonMissing  = "MissingKey"   // a ConfigMap, a Secret or a key of one is not there
	ReasonKey      = "InvalidKey"   // what it holds is not what it should be
	ReasonDenied   = "AccessDenied" // it may not be read
)

// Ref names a ConfigMap or a Secret.
type Ref struct {
	Kind            string // ConfigMap or Secret
	Namespace, Name string
}

// String renders "Kind namespace/name".
func (r Ref) String() string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// Content is what a ConfigMap or Secret holds.
type Content struct {
	Data    map[string][]byte
	Version string         // differs where Data does; without secrets
	Writer  []audit.Person // who wrote it last, as managedFields claim
}

// Read returns what a reference names. Errors are *fault.Error: NotFound where it
// does not exist, Rejected where it may not be read, Waiting where that has not
// been tried yet.
type Read func(Ref) (Content, error)

// Compiled is a TrustPolicy in one state, with the keys that it names.
type Compiled struct {
	// Policy is what is judged by; Broken where that is not possible.
	Policy trust.Policy
	// Reason is why, as a condition has it.
	Reason string
	// Waiting: something that it names has not been read yet, and nothing can be
	// said of what it selects.
	Waiting bool
	// Refs are the ConfigMaps and Secrets that it names.
	Refs []Ref

	selector selector
	print    string // of everything that counts, selection included
}

// Selects reports whether the policy is for a delivery.
func (c Compiled) Selects(s trust.Subject) bool { return c.selector.selects(s) }

// Compile turns a TrustPolicy, as it is written, into what is judged by. It never
// fails: a policy that cannot be read is Broken, and says why and what to do; what
// it selects is still what it says, or everything if it does not say that either.
func Compile(u *unstructured.Unstructured, read Read) Compiled {
	c := &compiler{read: read}
	spec := decode[api.TrustPolicy](c, u).Spec
	p := trust.Policy{Name: u.GetName(), Audit: spec.Mode == api.ModeAudit}
	switch spec.Mode {
	case "", api.ModeEnforce, api.ModeAudit:
	default:
		c.problemf(ReasonInvalid, "spec.mode: %q is not known; write enforce or audit", spec.Mode)
	}
	if spec.Commits == nil && spec.History == nil && spec.Images == nil && spec.Secrets == nil && !spec.Strict && len(c.problems) == 0 {
		c.problemf(ReasonInvalid, "spec demands nothing; set commits, history, images, secrets or strict")
	}
	out := Compiled{selector: c.compileSelect(spec.Select)}
	p.Commits = c.commits(spec.Commits)
	p.Images = c.images(spec.Images)
	p.Plaintext = c.plaintext(spec.Secrets)
	p.Rewind = c.rewind(spec)
	p.Strict = spec.Strict && !p.Audit
	p.Broken, out.Reason = c.verdict(p.Audit)
	out.Policy, out.Waiting, out.Refs = p, c.unread > 0 && p.Broken == "", c.refs
	if out.Waiting {
		out.Reason = ReasonReading
	}
	out.print = fingerprint(spec.Select, p)
	return out
}

// fingerprint digests what a policy demands, and of whom.
func fingerprint(s api.Select, p trust.Policy) string {
	text, err := json.Marshal(s)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %v %s", text, err, trust.NewDemands(p).Version))
	return hex.EncodeToString(sum[:16])
}

// compiler gathers what is wrong with a policy.
type compiler struct {
	read     Read
	problems []string
	reason   string
	unread   int // of what it names
	refs     []Ref
}

// flaws counts what stands against judging by what was compiled so far.
func (c *compiler) flaws() int { return len(c.problems) + c.unread }

func (c *compiler) problemf(reason, format string, args ...any) {
	if c.reason == "" {
		c.reason = reason
	}
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// maxProblems bounds what is told of one policy.
const maxProblems = 5

func (c *compiler) verdict(audit bool) (broken, reason string) {
	switch {
	case len(c.problems) > maxProblems:
		rest := len(c.problems) - maxProblems
		return fmt.Sprintf("%s; and %d more", strings.Join(c.problems[:maxProblems], "; "), rest), c.reason
	case len(c.problems) > 0:
		return strings.Join(c.problems, "; "), c.reason
	case audit:
		return "", ReasonAudited
	}
	return "", ReasonEnforced
}

// decode reads the spec of an object. Fields that nobody knows are problems; what can be
// read beside a problem is returned.
func decode[T any](c *compiler, u *unstructured.Unstructured) T {
	var whole, rest, none T
	spec, ok := u.Object["spec"].(map[string]any)
	if !ok {
		c.problemf(ReasonInvalid, "spec is missing")
		return none
	}
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(map[string]any{"spec": spec}, &whole, true)
	if strict, is := runtime.AsStrictDecodingError(err); is {
		for _, e := range strict.Errors() {
			c.problemf(ReasonUnknown, "%s; correct its name or remove it", e)
		}
		return whole
	}
	if err == nil {
		return whole
	}
	c.problemf(ReasonInvalid, "the spec cannot be read: %s", because[T](spec, err))
	// Whom it is for, and how, may be readable without the rest.
	some := map[string]any{"mode": spec["mode"], "select": spec["select"]}
	if runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"spec": some}, &rest) != nil {
		return none
	}
	return rest
}

// because says why a spec cannot be read: encoding/json names the field, which the
// converter does not.
func because[T any](spec map[string]any, err error) error {
	text, failed := json.Marshal(map[string]any{"spec": spec})
	if failed != nil {
		return err
	}
	if named := json.Unmarshal(text, new(T)); named != nil {
		return named
	}
	return err
}

// rewind: who demands something of commits wants none of them to vanish, unless he
// says so; who demands nothing of them says nothing about it.
func (c *compiler) rewind(spec api.TrustPolicySpec) bool {
	if spec.History == nil {
		return spec.Commits == nil
	}
	switch spec.History.Rewind {
	case "", api.RewindRefuse:
		return false
	case api.RewindAllow:
		return true
	}
	c.problemf(ReasonInvalid, "spec.history.rewind: %q is not known; write refuse or allow", spec.History.Rewind)
	return false
}

func (c *compiler) commits(in *api.Commits) *trust.Commits {
	if in == nil {
		return nil
	}
	const at = "spec.commits"
	out := &trust.Commits{AuthorMatches: in.AuthorMatches, From: map[string]string{}}
	out.Range = c.choice(at+".verify", in.Verify, api.VerifyHead, api.VerifyRange)
	out.All = c.choice(at+".line", in.Line, api.LineFirstParent, api.LineAll)
	if !out.Range && (in.Line != "" || len(in.From) > 0) {
		c.problemf(ReasonInvalid, "%s: line and from are for verify: range; set that, or remove them", at)
	}
	for i, f := range in.From {
		repository := source.NormalizeURL(f.Repository)
		switch _, twice := out.From[repository]; {
		case repository == "":
			c.problemf(ReasonInvalid, "%s.from[%d].repository: it is no address", at, i)
		case twice:
			c.problemf(ReasonInvalid, "%s.from[%d].repository: it is named twice", at, i)
		case !commitID.MatchString(f.Commit):
			c.problemf(ReasonInvalid, "%s.from[%d].commit: %q is no full commit id", at, i, f.Commit)
		}
		out.From[repository] = f.Commit
	}
	if len(in.Authorities) == 0 {
		c.problemf(ReasonInvalid, "%s.authorities names nobody who may sign", at)
	}
	out.Authorities = commitAuthorities(c, at+".authorities", in.Authorities)
	out.Forge = commitAuthorities(c, at+".forge", in.Forge)
	return out
}

var commitID = regexp.MustCompile(`\A(?:[0-9a-f]{40}|[0-9a-f]{64})\z`)

// choice reads one of two words, of which the first is meant by none; it reports
// whether it is the second.
func (c *compiler) choice(field, value, first, second string) bool {
	if value != "" && value != first && value != second {
		c.problemf(ReasonInvalid, "%s: %q is not known; write %s or %s", field, value, first, second)
	}
	return value == second
}

func commitAuthorities(c *compiler, field string, list []api.CommitAuthority) []trust.Authority {
	var out []trust.Authority
	for i := range list {
		in := &list[i]
		at := fmt.Sprintf("%s[%d]", field, i)
		before := c.flaws()
		a := c.terms(at, in.Name, in.Terms)
		c.exactlyOne(at, "gpg, ssh, x509 and sigstore", in.GPG != nil, in.SSH != nil, in.X509 != nil, in.Sigstore != nil)
		a.GPG = c.keys(at+".gpg", in.GPG)
		a.SSH = c.keys(at+".ssh", in.SSH)
		a.X509 = c.keys(at+".x509", in.X509)
		a.Sigstore = c.sigstore(at+".sigstore", in.Sigstore)
		if c.flaws() == before {
			c.judgeable(at, commit.Check(a))
		}
		out = append(out, a)
	}
	c.unique(field, out)
	return out
}

// judgeable takes in what those who will judge by an authority say of its keys: they may
// be none, too weak, or of a kind that is not known.
func (c *compiler) judgeable(field string, err error) {
	if err != nil {
		c.problemf(ReasonKey, "%s: %s", field, fault.From(err).Msg)
	}
}

func imageAuthorities(c *compiler, field string, list []api.ImageAuthority) []trust.Authority {
	var out []trust.Authority
	for i := range list {
		in := &list[i]
		at := fmt.Sprintf("%s[%d]", field, i)
		before := c.flaws()
		a := c.terms(at, in.Name, in.Terms)
		c.exactlyOne(at, "key, sigstore and notation", in.Key != nil, in.Sigstore != nil, in.Notation != nil)
		a.Key = c.keys(at+".key", in.Key)
		a.Notation = c.keys(at+".notation", in.Notation)
		a.Sigstore = c.sigstore(at+".sigstore", in.Sigstore)
		if c.flaws() == before {
			c.judgeable(at, image.Check(a))
		}
		out = append(out, a)
	}
	c.unique(field, out)
	return out
}

func (c *compiler) exactlyOne(field, of string, set ...bool) {
	n := 0
	for _, is := range set {
		if is {
			n++
		}
	}
	if n != 1 {
		c.problemf(ReasonInvalid, "%s: set exactly one of %s", field, of)
	}
}

func (c *compiler) unique(field string, list []trust.Authority) {
	var names []string
	for _, a := range list {
		if slices.Contains(names, a.Name) {
			c.problemf(ReasonInvalid, "%s: the name %q is used twice", field, a.Name)
		}
		names = append(names, a.Name)
	}
}

// terms is the part of an authority that all kinds of keys have.
func (c *compiler) terms(field, name string, in api.Terms) trust.Authority {
	if name == "" {
		c.problemf(ReasonInvalid, "%s.name is missing", field)
	}
	a := trust.Authority{Name: name, Identities: c.globs(field+".identities", in.Identities)}
	a.NotBefore, a.NotAfter = timeOf(in.NotBefore), timeOf(in.NotAfter)
	if !a.NotAfter.IsZero() && a.NotAfter.Before(a.NotBefore) {
		c.problemf(ReasonInvalid, "%s: notAfter is before notBefore", field)
	}
	for i, r := range in.Revoked {
		if strings.TrimSpace(r.Fingerprint) == "" {
			c.problemf(ReasonInvalid, "%s.revoked[%d].fingerprint is missing", field, i)
		}
		a.Revoked = append(a.Revoked, trust.Revocation{Fingerprint: strings.TrimSpace(r.Fingerprint), Since: timeOf(r.Since)})
	}
	return a
}

func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func (c *compiler) sigstore(field string, in *api.Sigstore) *trust.Sigstore {
	if in == nil {
		return nil
	}
	out := &trust.Sigstore{IgnoreLog: in.IgnoreLog}
	if len(in.Identities) == 0 {
		c.problemf(ReasonInvalid, "%s.identities names nobody: anybody can have a certificate", field)
	}
	for i, id := range in.Identities {
		at := fmt.Sprintf("%s.identities[%d]", field, i)
		c.exactlyOne(at, "issuer and issuerRegexp", id.Issuer != "", id.IssuerRegexp != "")
		c.exactlyOne(at, "subject and subjectRegexp", id.Subject != "", id.SubjectRegexp != "")
		c.regexp(at+".issuerRegexp", id.IssuerRegexp)
		c.regexp(at+".subjectRegexp", id.SubjectRegexp)
		out.Identities = append(out.Identities, trust.Identity{
			Issuer: id.Issuer, IssuerRegexp: id.IssuerRegexp, Subject: id.Subject, SubjectRegexp: id.SubjectRegexp,
		})
	}
	out.TrustedRoot = c.keys(field+".trustedRoot", &in.TrustedRoot)
	return out
}

func (c *compiler) regexp(field, expression string) {
	if _, err := regexp.Compile(expression); err != nil {
		c.problemf(ReasonInvalid, "%s: %s", field, err)
	}
}

// keys reads keys from where they are; nil if they are not there, which is a problem.
func (c *compiler) keys(field string, in *api.Keys) []byte {
	if in == nil {
		return nil
	}
	c.exactlyOne(field, "inline, configMapRef and secretRef", in.Inline != "", in.ConfigMapRef != nil, in.SecretRef != nil)
	switch {
	case in.Inline != "":
		return []byte(in.Inline)
	case in.ConfigMapRef != nil:
		return c.key(field+".configMapRef", "ConfigMap", in.ConfigMapRef)
	case in.SecretRef != nil:
		return c.key(field+".secretRef", "Secret", in.SecretRef)
	}
	return nil
}

// maxKeys bounds the content of one key.
const maxKeys = 1 << 20

// key reads one key of a ConfigMap or Secret; nil if it is not there.
func (c *compiler) key(field, kind string, ref *api.KeyRef) []byte {
	r := Ref{Kind: kind, Namespace: ref.Namespace, Name: ref.Name}
	content, ok := c.content(field, r)
	if !ok {
		return nil
	}
	value, ok := content.Data[ref.Key]
	switch {
	case !ok || len(value) == 0:
		c.problemf(ReasonMissing, "%s: %s has no key %q; add it, or name another", field, r, ref.Key)
		return nil
	case len(value) > maxKeys:
		c.problemf(ReasonKey, "%s: the key %q of %s has more than %d bytes", field, ref.Key, r, maxKeys)
		return nil
	}
	return value
}

// content reads a ConfigMap or Secret.
func (c *compiler) content(field string, r Ref) (Content, bool) {
	if r.Namespace == "" || r.Name == "" {
		c.problemf(ReasonInvalid, "%s: namespace and name are both needed", field)
		return Content{}, false
	}
	if !slices.Contains(c.refs, r) {
		c.refs = append(c.refs, r)
	}
	content, err := c.read(r)
	switch kind := fault.KindOf(err); {
	case err == nil:
		return content, true
	case kind == fault.Waiting:
		c.unread++
	case kind == fault.NotFound:
		c.problemf(ReasonMissing, "%s: %s does not exist; create it, or name another", field, r)
	case kind == fault.Rejected, kind == fault.Unauthorized:
		c.problemf(ReasonDenied, "%s: %s may not be read: permit list and watch of it", field, r)
	default:
		c.problemf(ReasonMissing, "%s: %s cannot be read: %s", field, r, fault.From(err).Msg)
	}
	return Content{}, false
}

// imagePatterns checks patterns on the names of images.
func (c *compiler) imagePatterns(field string, patterns []string) []string {
	for i, p := range patterns {
		if _, err := object.ParseImagePattern(p); err != nil {
			c.problemf(ReasonInvalid, "%s[%d]: %s", field, i, err)
		}
	}
	return patterns
}

// addresses checks patterns on builders and repositories, of * and ** alone: what
// other globs have besides would stand for itself, and match nothing.
func (c *compiler) addresses(field string, patterns []string) []string {
	for i, p := range patterns {
		if strings.TrimSpace(p) == "" || strings.ContainsAny(p, `?[]\ `) {
			c.problemf(ReasonInvalid, "%s[%d]: %q is no pattern; the wildcards are * (up to a slash) and **", field, i, p)
		}
	}
	return patterns
}
