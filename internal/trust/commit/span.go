package commit

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// The bounds of ranges.
const (
	maxRange = 50_000 // commits judged at once
	maxSpans = 1_000  // remembered
)

// span is a range of commits as one policy judges it. Ids stand for all that is
// behind them, so that what was proven of one stays so under the same policy.
type span struct{ commit, base, policy, version string }

// proven is what is kept of a range: how many commits it has, and those to tell.
type proven struct {
	told   []trust.Commit
	judged int
}

// span judges every commit since the last one that was proven, or else since the one
// that is named as the first to trust.
func (j *judge) span(ctx context.Context, last string, e *trust.Evidence) error {
	base := cmp.Or(last, j.demand.From[j.URL])
	key := span{j.Commit, base, j.policy, j.version}
	known, done, err := j.v.wait(ctx, key)
	if err != nil {
		return err
	}
	e.Base = base
	if done == nil {
		e.Judged += known.judged
		e.Commits = tell(e.Commits, known.told, nil)
		return nil
	}
	defer done()
	told, err := j.examineSpan(ctx, base, last)
	if err != nil {
		return err
	}
	e.Judged += len(told)
	if err := j.conclude(told, e); err != nil {
		return err
	}
	if j.version != "" {
		j.v.remember(key, proven{slices.Clone(told[:min(len(told), maxEvidence)]), len(told)})
	}
	return nil
}

// wait returns what was proven of a range. If nothing was yet, done is not nil: the
// caller judges it, and others who ask for the same wait until it calls done. Errors:
// Unreachable, if the context ends.
func (v *Verifier) wait(ctx context.Context, key span) (known proven, done func(), err error) {
	for {
		v.mu.Lock()
		known, ok := v.spans[key]
		running := v.busy[key]
		if !ok && running == nil {
			v.busy[key] = make(chan struct{})
		}
		v.mu.Unlock()
		switch {
		case ok:
			return known, nil, nil
		case running == nil:
			return proven{}, func() { v.leave(key) }, nil
		}
		select {
		case <-running:
		case <-ctx.Done():
			return proven{}, nil, fault.New(fault.Unreachable, "the commits were not verified in time").Because(ctx.Err())
		}
	}
}

func (v *Verifier) leave(key span) {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.busy[key])
	delete(v.busy, key)
}

func (v *Verifier) remember(key span, p proven) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.spans) >= maxSpans {
		clear(v.spans)
	}
	v.spans[key] = p
}

// examineSpan judges the commits since base.
func (j *judge) examineSpan(ctx context.Context, base, last string) ([]trust.Commit, error) {
	ids, err := j.since(ctx, base)
	if err != nil {
		return nil, err
	}
	told, err := j.examineAll(ctx, base, ids)
	if err != nil {
		return nil, err
	}
	first := j.demand.From[j.URL]
	if first != "" && last != "" && first != last && slices.ContainsFunc(told, unproven) {
		told = j.behindFirst(ctx, first, told)
	}
	return told, nil
}

func unproven(c trust.Commit) bool { return c.Signer == nil }

// since lists the commits to judge. Errors: Refused if base is not among the ancestors.
func (j *judge) since(ctx context.Context, base string) ([]string, error) {
	ids, err := j.History.Since(ctx, base, !j.demand.All)
	switch {
	case err != nil && fault.KindOf(err) == fault.NotFound:
		return nil, fault.New(fault.Refused, "policy %q: commit %s does not contain %s, the first commit to trust", j.policy, j.Commit, base).
			WithHint("name one that the branch contains, in the TrustPolicy's spec.commits.from for %s", j.URL)
	case err != nil:
		return nil, err
	case len(ids) > maxRange:
		return nil, fault.New(fault.Refused, "policy %q: there are %d commits to judge, %d are allowed at once", j.policy, len(ids), maxRange).
			WithHint("name a later first commit to trust, in the TrustPolicy's spec.commits.from for %s", j.URL)
	}
	return ids, nil
}

// behindFirst drops what is behind the first commit to trust, where that was named
// later than the last delivery was proven.
func (j *judge) behindFirst(ctx context.Context, first string, told []trust.Commit) []trust.Commit {
	ids, err := j.History.Since(ctx, first, !j.demand.All)
	if err != nil {
		return told // it is elsewhere, or cannot be found out: then nothing is spared
	}
	wanted := map[string]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	return slices.DeleteFunc(told, func(c trust.Commit) bool { return !wanted[c.ID] })
}

// examineAll judges commits that are listed children first, and finds out for each how
// old it can be at most, by its ancestors in the list and the base.
func (j *judge) examineAll(ctx context.Context, base string, ids []string) ([]trust.Commit, error) {
	youngest := map[string]time.Time{} // of a commit and its ancestors
	if base != "" && len(ids) > 0 {
		b, err := j.read(ctx, base)
		if err != nil {
			return nil, err
		}
		youngest[base] = b.made
	}
	told := make([]trust.Commit, len(ids))
	for i, id := range slices.Backward(ids) {
		c, err := j.read(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, p := range c.parents {
			c.floor = latest(c.floor, youngest[p])
		}
		youngest[id] = latest(c.floor, c.made)
		told[i] = j.examine(c)
	}
	return told, nil
}
