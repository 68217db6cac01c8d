package commit

import (
	"context"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// judge is one policy about the commits of one revision.
type judge struct {
	*source.Revision

	v           *Verifier
	policy      string
	version     string // of all that is demanded; "" if that has none
	demand      trust.Commits
	authorities []*authority
	forge       []*authority
	now         time.Time
}

// judge returns why a policy does not hold. Its evidence is added.
func (v *Verifier) judge(ctx context.Context, r source.Revision, p trust.Policy, version, last string, e *trust.Evidence) error {
	switch {
	case p.Broken != "":
		return fault.New(fault.Refused, "policy %q cannot be judged: %s", p.Name, p.Broken).WithHint("correct the TrustPolicy, or what it refers to")
	case e.Rewound && !p.Rewind:
		return fault.New(fault.Refused, "policy %q: the branch was rewound: commit %s does not contain the commit that was delivered last", p.Name, r.Commit).
			WithHint("push a commit on top of the one that was delivered, or set spec.history.rewind of the TrustPolicy to allow")
	case p.Commits == nil:
		return nil
	case r.History == nil:
		return fault.New(fault.Refused, "policy %q demands signed commits, and this source has none", p.Name).WithHint("deliver from a Git repository")
	}
	j, err := v.newJudge(r, p, version)
	if err != nil {
		return err
	}
	if p.Commits.Range {
		return j.span(ctx, last, e)
	}
	return j.head(ctx, last, e)
}

func (v *Verifier) newJudge(r source.Revision, p trust.Policy, version string) (*judge, error) {
	j := &judge{Revision: &r, v: v, policy: p.Name, version: version, demand: *p.Commits, now: v.now()}
	for _, group := range []struct {
		from []trust.Authority
		to   *[]*authority
	}{{p.Commits.Authorities, &j.authorities}, {p.Commits.Forge, &j.forge}} {
		for _, a := range group.from {
			read, err := v.authority(a)
			if err != nil {
				f := fault.From(err)
				return nil, fault.New(fault.Refused, "policy %q cannot be judged: %s", p.Name, f.Msg).WithHint("%s", f.Hint)
			}
			*group.to = append(*group.to, read)
		}
	}
	if len(j.authorities) == 0 {
		return nil, fault.New(fault.Refused, "policy %q cannot be judged: it names nobody who may sign commits", p.Name).WithHint("add an authority")
	}
	return j, nil
}

// head judges the revision's commit, or the tag that it was found by. What is behind
// the commit that was delivered last tells no more than that it is not older.
func (j *judge) head(ctx context.Context, last string, e *trust.Evidence) error {
	if j.Commit == j.demand.From[j.URL] {
		e.Base = j.Commit
		return nil
	}
	c, err := j.read(ctx, j.Commit)
	if err != nil {
		return err
	}
	if last != "" && last != j.Commit {
		before, err := j.read(ctx, last)
		if err != nil {
			return err
		}
		c.floor = before.made
	}
	told := []trust.Commit{j.examine(c)}
	if told[0].Signer == nil {
		if tag, ok, err := j.examineTag(ctx, c.floor); err != nil {
			return err
		} else if ok {
			told = append(told, tag)
		}
	}
	e.Judged++
	return j.conclude(told, e)
}
