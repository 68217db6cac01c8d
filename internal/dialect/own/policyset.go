package own

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/installed"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// The reasons of a PolicySet's conditions, beside those of a TrustPolicy.
const (
	ReasonWarns    = "Warned"            // it is judged by, and tells
	ReasonSources  = "ReadingSources"    // its sources have not been read yet
	ReasonSource   = "SourceFailed"      // one cannot be had, or not be read
	ReasonPolicies = "InvalidPolicy"     // a policy cannot be judged by
	ReasonExpiring = "ExceptionExpiring" // an exception ends within a week, or has ended
)

// SetSource is where a set's policies are kept: a repository by its address, or by the
// GitRepository that fetches it; an artifact, or a bucket.
type SetSource struct {
	URL        string // of a Git repository, as the set names it
	Place      string // of an artifact or a bucket, instead of URL
	Ref        source.Ref
	Secret     types.NamespacedName // with credentials; zero: none
	Repository types.NamespacedName // a GitRepository, instead of URL
	Path       string
	Interval   time.Duration
}

// String names a source, without what its address may hold of credentials.
func (s SetSource) String() string {
	at := source.NormalizeURL(s.URL)
	switch {
	case s.Repository.Name != "":
		at = "GitRepository " + s.Repository.String()
	case source.IsArtifact(s.Place):
		at = "artifact " + source.NormalizeURL(s.Place)
	case s.Place != "":
		at = "bucket " + source.NormalizeURL(s.Place)
	}
	if s.Path != "" {
		at += " at " + s.Path
	}
	return at
}

// CompiledSet is a PolicySet in one state, without what its sources hold.
type CompiledSet struct {
	// Set has what the object itself holds; Broken where it cannot be judged by.
	Set     policy.Set
	Sources []SetSource
	Cluster []string // kinds of policies in the cluster that are taken in
	Reason  string   // why, as a condition has it

	selector selector
}

// Selects reports whether the set is for a delivery.
func (c CompiledSet) Selects(s trust.Subject) bool { return c.selector.selects(s) }

// The bounds of exceptions and of polling.
const (
	longestException = 366 * 24 * time.Hour
	defaultInterval  = 5 * time.Minute
	minInterval      = 10 * time.Second
	defaultRegion    = "us-east-1"
)

// CompilePolicySet turns a PolicySet, as it is written, into what is judged by: the same
// for one in the cluster and one in a file. It never fails: a set that cannot be read is
// Broken, and says why and what to do; what it selects is still what it says, or
// everything if it does not say that either.
func CompilePolicySet(u *unstructured.Unstructured, now time.Time) CompiledSet {
	c := &compiler{}
	spec := decode[api.PolicySet](c, u).Spec
	out := CompiledSet{Cluster: spec.Cluster, Set: policy.Set{Name: u.GetName(), Warn: spec.Mode == api.ModeWarn}}
	switch spec.Mode {
	case "", api.ModeEnforce, api.ModeWarn:
	default:
		c.problemf(ReasonInvalid, "spec.mode: %q is not known; write enforce or warn", spec.Mode)
	}
	if len(spec.Sources)+len(spec.Inline)+len(spec.Builtin)+len(spec.Cluster) == 0 && len(c.problems) == 0 {
		c.problemf(ReasonInvalid, "spec has no policies; set sources, inline, builtin or cluster")
	}
	out.selector = c.compileSelect(spec.Select)
	for i := range spec.Sources {
		out.Sources = append(out.Sources, c.setSource(fmt.Sprintf("spec.sources[%d]", i), &spec.Sources[i]))
	}
	out.Set.Documents = c.inline(spec.Inline)
	out.Set.Builtins = c.builtins(spec.Builtin)
	c.cluster(spec.Cluster)
	for i := range spec.Exceptions {
		out.Set.Exceptions = append(out.Set.Exceptions, c.exception(fmt.Sprintf("spec.exceptions[%d]", i), &spec.Exceptions[i], now))
	}
	out.Set.Broken, out.Reason = c.verdict(false)
	if out.Reason == ReasonEnforced && out.Set.Warn {
		out.Reason = ReasonWarns
	}
	return out
}

// builtins takes what is switched on by name. Which names there are, the policies say
// themselves.
func (c *compiler) builtins(in []api.BuiltinPolicy) []policy.Builtin {
	var all []policy.Builtin
	for i, b := range in {
		if b.Name == "" {
			c.problemf(ReasonInvalid, "spec.builtin[%d].name is missing", i)
		}
		builtin := policy.Builtin{Name: b.Name}
		if b.Parameters != nil {
			builtin.Parameters = b.Parameters.Raw
		}
		all = append(all, builtin)
	}
	return all
}

func (c *compiler) cluster(names []string) {
	for i, k := range names {
		if installed.Kinds(k) == nil {
			c.problemf(ReasonInvalid, "spec.cluster[%d]: %q is not known; write %s, %s or %s", i, k,
				api.ClusterValidatingAdmissionPolicy, api.ClusterKyverno, api.ClusterGatekeeper)
		}
	}
}

// inline takes the files that the object holds.
func (c *compiler) inline(in []api.InlinePolicy) []policy.Document {
	var all []policy.Document
	seen := map[string]bool{}
	for i, d := range in {
		switch {
		case !isPolicy(d.Name) || strings.Contains(d.Name, "/"):
			c.problemf(ReasonInvalid, "spec.inline[%d].name: %q is no name of a file with policies; end it in .rego, .yaml, .yml or .json", i, d.Name)
		case seen[d.Name]:
			c.problemf(ReasonInvalid, "spec.inline[%d].name: %q is used twice", i, d.Name)
		case strings.TrimSpace(d.Content) == "":
			c.problemf(ReasonInvalid, "spec.inline[%d].content is empty", i)
		}
		seen[d.Name] = true
		all = append(all, policy.Document{File: "inline/" + d.Name, Content: []byte(d.Content)})
	}
	return all
}

// exception compiles an exception. It counts to the end of its last day.
func (c *compiler) exception(field string, in *api.PolicyException, now time.Time) policy.Exception {
	out := policy.Exception{
		Policy: in.Policy, Rule: in.Rule, Kind: in.Kind, Namespace: in.Namespace, Name: in.Name, Owner: in.Owner, Reason: in.Reason,
	}
	if in.Policy+in.Rule+in.Kind+in.Namespace+in.Name == "" {
		c.problemf(ReasonInvalid, "%s would excuse everything; set policy, rule, kind, namespace or name", field)
	}
	for name, glob := range map[string]string{"policy": in.Policy, "rule": in.Rule, "kind": in.Kind, "namespace": in.Namespace, "name": in.Name} {
		if glob != "" {
			c.globs(field+"."+name, []string{glob})
		}
	}
	day, err := time.Parse(time.DateOnly, in.Expires)
	switch {
	case strings.TrimSpace(in.Owner) == "", strings.TrimSpace(in.Reason) == "", in.Expires == "":
		c.problemf(ReasonInvalid, "%s: owner, reason and expires are all needed", field)
	case err != nil:
		c.problemf(ReasonInvalid, "%s.expires: %q is no date; write it as 2006-01-02", field, in.Expires)
	case day.Sub(now) > longestException:
		c.problemf(ReasonInvalid, "%s.expires: %s is more than a year ahead", field, in.Expires)
	}
	out.Expires = day.Add(24*time.Hour - time.Nanosecond)
	return out
}

// With returns the set with what its sources hold, which revision names; with none, the
// revision is a digest of what the object itself holds.
func (c CompiledSet) With(documents []policy.Document, revision string) policy.Set {
	s := c.Set
	s.Documents = slices.Concat(s.Documents, documents)
	s.Revision = revision
	if revision == "" {
		sum := sha256.New()
		for _, d := range s.Documents {
			fmt.Fprintf(sum, "%q %q\n", d.File, d.Content)
		}
		for _, b := range s.Builtins {
			fmt.Fprintf(sum, "%q %q\n", b.Name, b.Parameters)
		}
		s.Revision = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	}
	return s
}

// The bounds of one source.
const (
	maxPolicies    = installed.MaxPolicies
	maxPolicyFile  = 1 << 20
	maxPolicyBytes = installed.MaxBytes
	maxLooked      = 20_000
)

// ReadPolicies reads the files with policies below a path of a tree, or the one at it:
// *.rego but for tests of policies, *.yaml, *.yml and *.json, in the order of their names.
// Symlinks are not followed. Errors are *fault.Error: NotFound, Limit, and those of the
// tree; Invalid where there is no such file.
func ReadPolicies(t tree.Tree, at string) ([]policy.Document, error) {
	r := &policyReader{tree: t}
	entry, err := t.Stat(at)
	if err != nil {
		return nil, err
	}
	if err := r.take(at, entry); err != nil {
		return nil, err
	}
	if len(r.all) == 0 {
		return nil, fault.New(fault.Invalid, "it holds no file with policies: *.rego, *.yaml, *.yml or *.json").At(at, 0).WithHint("see to its path")
	}
	return r.all, nil
}

type policyReader struct {
	tree   tree.Tree
	all    []policy.Document
	looked int
	size   int64
}

func (r *policyReader) take(at string, entry tree.Entry) error {
	if r.looked++; r.looked > maxLooked {
		return fault.New(fault.Limit, "it holds more than %d files", maxLooked).WithHint("name a directory of its own for policies in path")
	}
	switch {
	case entry.Kind == tree.Dir:
		return r.list(at)
	case entry.Kind.IsFile() && isPolicy(at):
		return r.read(at)
	}
	return nil
}

func (r *policyReader) list(at string) error {
	entries, err := r.tree.ReadDir(at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name, ".") {
			continue
		}
		if err := r.take(path.Join(at, e.Name), e); err != nil {
			return err
		}
	}
	return nil
}

func (r *policyReader) read(at string) error {
	content, err := r.tree.ReadFile(at, maxPolicyFile)
	if err != nil {
		return err
	}
	if r.size += int64(len(content)); r.size > maxPolicyBytes || len(r.all) == maxPolicies {
		return fault.New(fault.Limit, "the policies are more than %d files or %d MiB", maxPolicies, maxPolicyBytes>>20).At(at, 0)
	}
	r.all = append(r.all, policy.Document{File: at, Content: content})
	return nil
}

// isPolicy reports whether a file may hold policies, by its name.
func isPolicy(name string) bool {
	switch path.Ext(name) {
	case ".rego":
		return fs.ValidPath(name) && !strings.HasSuffix(name, "_test.rego")
	case ".yaml", ".yml", ".json":
		return fs.ValidPath(name)
	}
	return false
}
