package commit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// object is one commit or tag to be judged.
type object struct {
	id    string
	raw   []byte
	floor time.Time
	tag   bool

	signed

	malformed error
}

// read returns a commit, whose bytes are those that Git hashed.
func (j *judge) read(ctx context.Context, id string) (object, error) {
	raw, err := j.History.Commit(ctx, id)
	if err != nil {
		return object{}, err
	}
	if !hashes("commit", id, raw) {
		return object{}, fault.New(fault.Internal, "commit %s has other content than its id stands for", id)
	}
	o := object{id: id, raw: raw}
	o.signed, o.malformed = parseCommit(raw)
	return o, nil
}

// examineTag judges the annotated tag by which the revision was found; false if there is none.
func (j *judge) examineTag(ctx context.Context, floor time.Time) (trust.Commit, bool, error) {
	id, raw, err := j.History.Tag(ctx)
	if err != nil || id == "" {
		return trust.Commit{}, false, err
	}
	if !hashes("tag", id, raw) {
		return trust.Commit{}, false, fault.New(fault.Internal, "tag %s has other content than its id stands for", id)
	}
	o := object{id: id, raw: raw, tag: true, floor: floor}
	switch o.signed, o.malformed = parseTag(raw); {
	case o.malformed != nil: // which is what is told of it
	case o.kind != "commit":
		o.malformed = fmt.Errorf("it points to a %.20s: only tags of commits are judged", o.kind)
	case o.target != j.Commit:
		o.malformed = errors.New("it points to another commit than the one that is delivered")
	case o.name != j.Tag:
		o.malformed = fmt.Errorf("it calls itself %.80q, and was found as %.80q", o.name, j.Tag)
	}
	return j.examine(o), true, nil //nolint:nilerr // what is wrong with a tag is said of it
}

// examine says who signed an object, or why that is not proven.
func (j *judge) examine(o object) trust.Commit {
	c := trust.Commit{ID: o.id, Tag: o.tag, Author: o.by.String()}
	if o.by == (ident{}) {
		c.Author = "somebody"
	}
	err := o.malformed
	if err == nil && len(o.signature) == 0 {
		err = errUnsigned
	}
	if t := latest(o.made, o.floor); err == nil && t.After(j.now.Add(trust.Skew)) {
		err = fmt.Errorf("it is dated %s, or follows what is, and now it is %s: a clock is wrong, theirs or ours", stamp(t), stamp(j.now))
	}
	if err != nil {
		c.Problem = err.Error()
		return c
	}
	author := ""
	if j.demand.AuthorMatches {
		author = o.by.address
		if author == "" {
			c.Problem = "its author has no address, and must be the signer"
			return c
		}
	}
	if c.Signer, c.SignedAt, err = j.signer(o, j.authorities, author); err == nil {
		return c
	}
	if len(o.parents) > 1 && len(j.forge) > 0 {
		signer, at, other := j.signer(o, j.forge, "")
		if other == nil {
			c.Signer, c.SignedAt = signer, at
			return c
		}
		err = telling(err, other)
	}
	c.Problem = err.Error()
	return c
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// signer returns the first of the authorities who signed.
func (j *judge) signer(o object, authorities []*authority, author string) (*trust.Signer, time.Time, error) {
	var refusal error
	for _, a := range authorities {
		found, err := j.v.verify(a, o, j.now)
		if err != nil {
			refusal = telling(refusal, err)
			continue
		}
		for _, f := range found {
			if err := a.accept(f, author); err != nil {
				refusal = telling(refusal, err)
				continue
			}
			return a.signer(j.policy, f, o.by.address), f.proven, nil
		}
	}
	return nil, time.Time{}, refusal
}

// telling returns that of two refusals which says more than that a key is unknown.
func telling(a, b error) error {
	var unknown unknownError
	if a == nil || errors.As(a, &unknown) {
		return b
	}
	return a
}
