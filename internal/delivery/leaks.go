package delivery

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Leaks searches files for secrets that nobody sealed; *leak.Scanner is one.
type Leaks interface {
	// Search returns what is open in files, and in those that look finds for them.
	// Errors are *fault.Error.
	Search(ctx context.Context, files []leak.File, look leak.Look, salt []byte) ([]leak.Finding, error)
}

const (
	// rulePlaintext is how verdicts name the rule.
	rulePlaintext = "secrets/plaintext"
	// AlertExpiring tells that a finding is allowed for a few days only.
	AlertExpiring = "AllowanceExpiring"
)

// plaintext is what was found open in what a delivery reads, and what policies said of
// it. nil: no policy asks, and nothing was searched.
type plaintext struct {
	list     tree.Digest // of the repository's list of what is allowed; "" for none
	until    time.Time   // when the verdicts change by themselves; zero: never
	verdicts []policy.Verdict
	notices  []string
	err      *fault.Error
}

// stands reports whether p answers for a spec that reads what it read.
func (p *plaintext) stands(spec Spec, now time.Time) bool {
	if !asksForPlaintext(spec.Trust) {
		return true
	}
	return p != nil && p.err == nil && p.list == allowDigest(spec.Revision.Tree) && (p.until.IsZero() || now.Before(p.until))
}

func asksForPlaintext(d trust.Demands) bool {
	return slices.ContainsFunc(d.Policies, func(p trust.Policy) bool { return p.Plaintext != nil })
}

// allowDigest identifies the repository's own list.
func allowDigest(t tree.Tree) tree.Digest {
	if t == nil {
		return ""
	}
	e, err := t.Stat(leak.AllowFile)
	if err != nil {
		return ""
	}
	return e.Digest
}

// plain has what a spec read searched for secrets that nobody sealed, as they are
// committed, and judges what is found by the policies that ask. What was searched
// before is known. Errors are refusals of trust.
func (e *Engine) plain(spec Spec, st *state) func(ctx context.Context, rendered render.Result) error {
	return func(ctx context.Context, rendered render.Result) error {
		if !asksForPlaintext(spec.Trust) {
			st.plaintext = nil
			return nil
		}
		before := st.plaintext
		st.plaintext = nil
		p, err := searchPlain(ctx, e.Leaks, spec, rendered, e.Clock())
		if err != nil {
			return untrusted(err)
		}
		st.plaintext = p
		for _, text := range p.notices {
			if before == nil || !slices.Contains(before.notices, text) {
				st.alerts = append(st.alerts, Alert{AlertExpiring, text})
			}
		}
		for _, text := range p.unproven() {
			if !slices.Contains(before.unproven(), text) {
				st.alerts = append(st.alerts, Alert{AlertUnproven, text})
			}
		}
		if p.err != nil {
			return untrusted(p.err.Because(policy.RefusedBy(p.verdicts)))
		}
		return nil
	}
}

func searchPlain(ctx context.Context, l Leaks, spec Spec, rendered render.Result, now time.Time) (*plaintext, error) {
	if l == nil {
		return nil, fault.New(fault.Internal, "files cannot be searched for secrets here")
	}
	t := spec.Revision.Tree
	own, listed := repositoryList(t, now)
	files := readFiles(rendered.Trace, t)
	look := func(_ int, path string) (leak.File, bool) {
		entry, err := t.Stat(path)
		return fileOf(t, path, entry.Digest), err == nil && entry.Kind.IsFile()
	}
	found, err := l.Search(ctx, files, look, own.Salt)
	if err != nil {
		return nil, err
	}
	found = append(found, leak.Standing(valuesOf(rendered), files, found, own.Salt)...)
	leak.Sort(found)
	p := &plaintext{list: allowDigest(t)}
	for _, demand := range spec.Trust.Policies {
		if demand.Plaintext != nil {
			p.judge(demand, found, own, listed, now)
		}
	}
	return p, nil
}

// JudgePlaintext says what the policies of spec say of secrets that nobody sealed in
// what it reads, with the code of [Engine.Deliver]: a verdict for each policy that asks.
// Nothing has to be proven for it, and no cluster is asked. Errors are *fault.Error of
// rendering and searching, and hold no value that was opened.
func JudgePlaintext(ctx context.Context, l Leaks, r render.Renderer, spec Spec, now time.Time) ([]policy.Verdict, error) {
	mask := &secret.Mask{}
	rendered, err := spec.source(ctx, stages{render: r, mask: mask}, spec.Revision.Tree)
	if err != nil {
		return nil, mask.Error(err)
	}
	p, err := searchPlain(ctx, l, spec, rendered, now)
	if err != nil {
		return nil, mask.Error(err)
	}
	return p.verdicts, nil
}

// repositoryList reads the repository's own list of what is allowed; an error says why
// it cannot be honoured. Its salt serves either way.
func repositoryList(t tree.Tree, now time.Time) (leak.AllowList, error) {
	const most = 1 << 20
	content, err := t.ReadFile(leak.AllowFile, most)
	if errors.Is(err, tree.ErrNotExist) {
		return leak.AllowList{}, nil
	}
	if err != nil {
		return leak.AllowList{}, err
	}
	return leak.ParseAllowList(content, now)
}

// readFiles lists the files behind a rendering, as they are committed.
func readFiles(trace tree.Trace, t tree.Tree) []leak.File {
	var files []leak.File
	for _, r := range trace {
		if r.Op == tree.OpFile {
			files = append(files, fileOf(t, r.Path, r.Digest))
		}
	}
	return files
}

func fileOf(t tree.Tree, path string, digest tree.Digest) leak.File {
	return leak.File{Path: path, Digest: digest, Read: func(limit int64) ([]byte, error) { return t.ReadFile(path, limit) }}
}

// valuesOf lists the values of rendered Secrets.
func valuesOf(rendered render.Result) []leak.Value {
	var all []leak.Value
	for i := range rendered.Objects {
		o := &rendered.Objects[i]
		if !isSecret(o.ID()) {
			continue
		}
		id := o.ID().String()
		data, _, _ := unstructured.NestedMap(o.Object, "data")
		for key, v := range data {
			encoded, _ := v.(string)
			if plain, err := base64.StdEncoding.DecodeString(encoded); err == nil {
				all = append(all, leak.Value{Object: id, Key: key, Text: string(plain)})
			}
		}
		written, _, _ := unstructured.NestedMap(o.Object, "stringData")
		for key, v := range written {
			if text, ok := v.(string); ok {
				all = append(all, leak.Value{Object: id, Key: key, Text: text})
			}
		}
	}
	slices.SortFunc(all, func(a, b leak.Value) int { return strings.Compare(a.Object+"\x00"+a.Key, b.Object+"\x00"+b.Key) })
	return all
}

// judge adds what one policy says of what was found.
func (p *plaintext) judge(by trust.Policy, found []leak.Finding, own leak.AllowList, listed error, now time.Time) {
	list, err := allowedBy(by, own, listed, now)
	if err != nil {
		p.verdict(by, fault.From(err).Msg, fault.From(err))
		return
	}
	judged := list.Judge(found, now)
	p.notices = append(p.notices, judged.Notices...)
	if !judged.Until.IsZero() && (p.until.IsZero() || judged.Until.Before(p.until)) {
		p.until = judged.Until
	}
	if len(judged.Findings) == 0 {
		p.verdicts = append(p.verdicts, policy.Verdict{Policy: by.Name, Rule: rulePlaintext, Outcome: policy.Pass})
		return
	}
	first := judged.Findings[0]
	p.verdict(by, tellPlain(judged.Findings), fault.New(fault.Refused, "").At(first.File, first.Line).
		WithHint("seal what is secret and replace it, for it is known now; or allow it, with a reason and a date, in the policy or in %s", leak.AllowFile))
}

// verdict adds that a policy refuses, or only tells; like holds what an error has
// besides its message.
func (p *plaintext) verdict(by trust.Policy, message string, like *fault.Error) {
	v := policy.Verdict{Policy: by.Name, Rule: rulePlaintext, Outcome: policy.Fail, Message: message}
	if by.Audit {
		v.Outcome = policy.Audit
	}
	p.verdicts = append(p.verdicts, v)
	if by.Audit || p.err != nil {
		return
	}
	refusal := *like
	refusal.Kind, refusal.Msg = fault.Refused, v.String()
	p.err = &refusal
}

// allowedBy is what a policy excuses.
func allowedBy(by trust.Policy, own leak.AllowList, listed error, now time.Time) (leak.AllowList, error) {
	if by.Broken != "" {
		return leak.AllowList{}, fault.New(fault.Refused, "it cannot be judged: %s", by.Broken)
	}
	var list leak.AllowList
	for i, a := range by.Plaintext.Allow {
		entry := leak.Allowance(a)
		if err := entry.Check(now); err != nil {
			return list, fault.New(fault.Refused, "it cannot be judged: spec.secrets.allow[%d]: %s", i, fault.From(err).Msg)
		}
		list.Entries = append(list.Entries, entry)
	}
	if !by.Plaintext.Repository {
		return list, nil
	}
	list.Entries = append(list.Entries, own.Entries...)
	return list, listed
}

// tellPlain names findings, never values.
func tellPlain(all []leak.Finding) string {
	const most = 5
	var parts []string
	for _, f := range all[:min(len(all), most)] {
		text := fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Rule)
		if f.Inline {
			text += " (gitleaks:allow on its line does not count here)"
		}
		parts = append(parts, text)
	}
	if more := len(all) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return "what is secret stands in plaintext: " + strings.Join(parts, "; ")
}

// unproven are the verdicts that policies which only audit would refuse.
func (p *plaintext) unproven() []string {
	if p == nil {
		return nil
	}
	var lines []string
	for _, v := range p.verdicts {
		if v.Outcome == policy.Audit {
			lines = append(lines, v.String())
		}
	}
	return lines
}
