package git

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// depths are how far history is fetched, step by step, to find a commit in it.
var depths = []int{50, 1000, allHistory}

const (
	allHistory = 0x7fffffff // what Git's protocol takes for "no limit"
	maxHaves   = 256
	maxCommit  = 1 << 20
	maxWalk    = 5_000_000
	maxKnown   = 10_000
	maxTold    = 4 << 10
	maxTime    = 253_402_300_799 // the end of the year 9999
	// maxTips is how many refs are followed to find a commit: more than servers and
	// we can hold for everybody at once.
	maxTips = 20_000
)

// revision returns the tree of the commit that a request wants. When the store
// turns out to be damaged, it starts anew, once.
func (r *repo) revision(ctx context.Context, c *connection, want target, req source.Request) (*snapshot, error) {
	s, err := r.tryRevision(ctx, c, want, req)
	if err == nil || !r.broken.Load() {
		return s, err
	}
	if !r.beginsAnew(cmp.Or(want.tip, want.commit)) {
		r.broken.Store(false)
		return nil, err
	}
	if err := r.reset(); err != nil {
		return nil, err
	}
	return r.tryRevision(ctx, c, want, req)
}

func (r *repo) tryRevision(ctx context.Context, c *connection, want target, req source.Request) (*snapshot, error) {
	commit, err := r.bring(ctx, c, want)
	if err == nil {
		var s *snapshot
		if s, err = r.snapshot(commit, req); err == nil {
			return s, nil
		}
	}
	if errors.Is(err, errCorrupt) || errors.Is(err, errMissing) {
		r.broken.Store(true)
	}
	return nil, err
}

// bring makes the wanted commit available and returns it.
func (r *repo) bring(ctx context.Context, c *connection, want target) (plumbing.Hash, error) {
	if !want.tip.IsZero() {
		id, err := r.ensure(ctx, c, want.tip)
		if err != nil || want.commit.IsZero() || id == want.commit {
			return id, err
		}
	}
	for _, tips := range want.groups {
		if len(tips) > maxTips {
			return plumbing.ZeroHash, fault.New(fault.Limit, "the repository has more than %d branches and tags to look for a commit in", maxTips).
				WithHint("name the branch that it is on, or a tag")
		}
	}
	if want.prefix != "" {
		return r.expand(ctx, c, slices.Concat(want.groups...), want.prefix)
	}
	for _, tips := range want.groups {
		if slices.Contains(tips, want.commit) {
			return r.ensure(ctx, c, want.commit)
		}
		found, err := r.reaches(ctx, c, tips, want.commit)
		if found || err != nil {
			return want.commit, err
		}
	}
	// The same answer whether the commit exists elsewhere or not at all.
	if want.branch != "" {
		return plumbing.ZeroHash, fault.New(fault.NotFound, "branch %q does not contain commit %s", want.branch, want.commit)
	}
	return plumbing.ZeroHash, fault.New(fault.NotFound, "no branch or tag contains commit %s", want.commit)
}

// ensure fetches what a ref points to, if it is not here, and returns the commit.
func (r *repo) ensure(ctx context.Context, c *connection, tip plumbing.Hash) (plumbing.Hash, error) {
	if !slices.Contains(r.state.Tips, tip) {
		if err := r.download(ctx, c, []plumbing.Hash{tip}, 1); err != nil {
			return tip, err
		}
	}
	return r.peel(tip)
}

// peel follows tags to a commit.
func (r *repo) peel(id plumbing.Hash) (plumbing.Hash, error) {
	for range 10 {
		kind, content, err := r.object(id, maxCommit)
		if err != nil {
			return id, err
		}
		if kind == plumbing.CommitObject {
			return id, nil
		}
		if kind != plumbing.TagObject || !parseID(content, "object ", &id) {
			break
		}
	}
	return id, fault.New(fault.NotFound, "the ref does not lead to a commit")
}

// reaches reports whether one of the tips leads to commit. It fetches history
// when what is here does not suffice to tell, more of it each time: most often
// somebody pins, or goes back to, what was there lately.
func (r *repo) reaches(ctx context.Context, c *connection, tips []plumbing.Hash, commit plumbing.Hash) (bool, error) {
	for _, tip := range tips {
		if r.known[ancestry{tip, commit}] {
			return true, nil
		}
	}
	for _, depth := range append([]int{0}, depths...) {
		if depth > 0 {
			if err := r.download(ctx, c, tips, depth); err != nil {
				return false, err
			}
		}
		var from plumbing.Hash
		whole, err := r.walk(ctx, tips, func(tip, id plumbing.Hash) bool {
			if id == commit {
				from = tip
			}
			return id != commit
		})
		if err != nil {
			return false, err
		}
		if !from.IsZero() {
			r.remember(ancestry{from, commit})
			return true, nil
		}
		if whole {
			break
		}
	}
	return false, nil
}

// expand returns the one commit among the ancestors of tips whose id begins with
// prefix. It looks at all of them: who takes the first one can be given another
// commit by whoever manages to push one of a like id. Errors: NotFound, Invalid
// (several commits).
func (r *repo) expand(ctx context.Context, c *connection, tips []plumbing.Hash, prefix string) (plumbing.Hash, error) {
	key := abbreviation{prefix, digestOf(tips)}
	if id, ok := r.expanded[key]; ok {
		return id, nil
	}
	var found []plumbing.Hash
	look := func() (bool, error) {
		found = nil
		return r.walk(ctx, tips, func(_, id plumbing.Hash) bool {
			if strings.HasPrefix(id.String(), prefix) {
				found = append(found, id)
			}
			return true
		})
	}
	whole, err := look()
	if err == nil && !whole {
		if err = r.download(ctx, c, tips, allHistory); err == nil {
			_, err = look()
		}
	}
	switch {
	case err != nil:
		return plumbing.ZeroHash, err
	case len(found) == 0:
		return plumbing.ZeroHash, fault.New(fault.NotFound, "the repository has no branch, tag, version or commit %q", prefix)
	case len(found) > 1:
		return plumbing.ZeroHash, fault.New(fault.Invalid, "several commits have an id that begins with %q", prefix).WithHint("write all of its 40 hexadecimal digits")
	}
	if r.expanded == nil || len(r.expanded) >= maxKnown {
		r.expanded = map[abbreviation]plumbing.Hash{}
	}
	r.expanded[key] = found[0]
	return found[0], nil
}

// digestOf stands for a list of refs.
func digestOf(tips []plumbing.Hash) [sha256.Size]byte {
	h := sha256.New()
	for _, t := range tips {
		h.Write(t[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// walk shows the ancestors of tips that are here to visit, each once, until that
// returns false. whole says that it got to see all, and that none was missing.
func (r *repo) walk(ctx context.Context, tips []plumbing.Hash, visit func(tip, id plumbing.Hash) bool) (whole bool, err error) {
	whole = true
	seen := map[plumbing.Hash]bool{}
	for _, tip := range tips {
		next, err := r.start(tip, &whole)
		if err != nil {
			return false, err
		}
		for len(next) > 0 {
			id := next[len(next)-1]
			next = next[:len(next)-1]
			if seen[id] {
				continue
			}
			seen[id] = true
			parents, here, err := r.parents(ctx, id, len(seen))
			if err != nil {
				return false, err
			}
			if !here {
				whole = false
				continue
			}
			if !visit(tip, id) {
				return false, nil
			}
			next = append(next, parents...)
		}
	}
	return whole, nil
}

// start returns the commit that a ref points to, as a list: none if it is not here.
func (r *repo) start(tip plumbing.Hash, whole *bool) ([]plumbing.Hash, error) {
	id, err := r.peel(tip)
	if errors.Is(err, errMissing) {
		*whole = false
		return nil, nil
	}
	if fault.KindOf(err) == fault.NotFound {
		return nil, nil // a tag of something else than a commit
	}
	return []plumbing.Hash{id}, err
}

func (r *repo) parents(ctx context.Context, id plumbing.Hash, walked int) (parents []plumbing.Hash, here bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	if walked > maxWalk {
		return nil, false, fault.New(fault.Limit, "the repository has more than %d commits", maxWalk)
	}
	kind, content, err := r.object(id, maxCommit)
	if errors.Is(err, errMissing) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if kind != plumbing.CommitObject {
		return nil, false, errNoCommit()
	}
	c, err := parseCommit(content)
	return c.parents, true, err
}

// remember keeps what was proven: that a commit has an ancestor never changes.
func (r *repo) remember(a ancestry) {
	if r.known == nil || len(r.known) >= maxKnown {
		r.known = map[ancestry]bool{}
	}
	r.known[a] = true
}

// download fetches the wanted tips with as many commits of their history, and
// without what is here already.
func (r *repo) download(ctx context.Context, c *connection, wants []plumbing.Hash, depth int) error {
	st := r.state
	req := r.request(c, wants, depth)
	if req.IsEmpty() {
		return nil
	}
	res, err := c.upload.UploadPack(ctx, req)
	if errors.Is(err, transport.ErrEmptyUploadPackRequest) {
		return fault.New(fault.Unreachable, "the Git server sent an empty answer").Because(err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = res.Close() }() // what matters was read by then
	p, err := r.install(ctx, demultiplex(req, res), r.store.opts.MaxPack)
	if errors.Is(err, errCorrupt) { // the server's fault, not the store's
		return fault.New(fault.Unreachable, "the Git server sent damaged data")
	}
	if err != nil {
		return err
	}
	st.Tips = union(st.Tips, wants)
	whole := setOf(res.Unshallows)
	st.Shallow = slices.DeleteFunc(union(st.Shallow, res.Shallows), func(h plumbing.Hash) bool { return whole[h] })
	return r.add(p, st)
}

func (r *repo) request(c *connection, wants []plumbing.Hash, depth int) *packp.UploadPackRequest {
	st := r.state
	supported := c.refs.Capabilities
	req := packp.NewUploadPackRequestFromCapabilities(supported)
	req.Wants = slices.Clone(wants)
	req.Haves = slices.Clone(st.Tips[max(0, len(st.Tips)-maxHaves):])
	if supported.Supports(capability.NoProgress) {
		_ = req.Capabilities.Set(capability.NoProgress) // takes no argument: cannot fail
	}
	if !supported.Supports(capability.Shallow) {
		return req
	}
	_ = req.Capabilities.Set(capability.Shallow) // nor can this
	// Between commits without history, git compares trees for a thin pack only;
	// otherwise it would send every file again. go-git never mentions this
	// capability because its own parser cannot complete such a pack.
	_ = req.Capabilities.Set(capability.ThinPack)
	if r.filter != "" && supported.Supports(capability.Filter) {
		_ = req.Capabilities.Set(capability.Filter)
		req.Filter = r.filter
	}
	req.Shallows = slices.Clone(st.Shallow)
	if depth < allHistory || len(st.Shallow) > 0 {
		req.Depth = packp.DepthCommits(depth)
	}
	return req
}

// demultiplex takes the pack out of the messages that it comes in.
func demultiplex(req *packp.UploadPackRequest, res io.Reader) io.Reader {
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, res)
	case req.Capabilities.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, res)
	}
	return res
}

// union appends to a what of b is not in it, without touching a's array.
func union(a, b []plumbing.Hash) []plumbing.Hash {
	out, known := slices.Clone(a), setOf(a)
	for _, h := range b {
		if !known[h] {
			known[h] = true
			out = append(out, h)
		}
	}
	return out
}

func setOf(list []plumbing.Hash) map[plumbing.Hash]bool {
	set := make(map[plumbing.Hash]bool, len(list))
	for _, h := range list {
		set[h] = true
	}
	return set
}

// commit is the part of a commit that matters here.
type commit struct {
	tree    plumbing.Hash
	parents []plumbing.Hash
	rest    []byte // from the author on
}

// errNoCommit is about an object that has the content that its id stands for, so
// that it is no use to fetch it again.
func errNoCommit() error {
	return fault.New(fault.Invalid, "the repository has a commit that Git would not have made")
}

// parseCommit reads a commit whose content was checked against its id. Errors: Invalid.
func parseCommit(content []byte) (commit, error) {
	var c commit
	if !parseID(content, "tree ", &c.tree) {
		return c, errNoCommit()
	}
	for {
		_, rest, ok := bytes.Cut(content, []byte("\n"))
		var parent plumbing.Hash
		if !ok || !parseID(rest, "parent ", &parent) {
			c.rest = rest
			return c, nil
		}
		c.parents = append(c.parents, parent)
		content = rest
	}
}

// told is what a commit says for people. It is a stranger's text.
type told struct {
	author, committer, message string
	date                       time.Time
}

// tell reads the headers and the message of a commit (git's commit-object format:
// lines "author Name <address> seconds zone" and "committer …", an empty line,
// the message). What is not as it should be is left out.
func (c commit) tell() told {
	var out told
	headers, message, _ := bytes.Cut(c.rest, []byte("\n\n"))
	out.message = text(message)
	for line := range bytes.Lines(headers) {
		key, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		end := bytes.LastIndexByte(value, '>')
		if end < 0 {
			continue
		}
		switch string(key) {
		case "author":
			out.author = text(value[:end+1])
		case "committer":
			out.committer = text(value[:end+1])
			seconds, _, _ := bytes.Cut(bytes.TrimSpace(value[end+1:]), []byte(" "))
			if n, err := strconv.ParseInt(string(seconds), 10, 64); err == nil && n >= 0 && n <= maxTime {
				out.date = time.Unix(n, 0).UTC()
			}
		}
	}
	return out
}

// text is the beginning of what a commit says, as valid UTF-8.
func text(b []byte) string {
	return strings.ToValidUTF8(string(b[:min(len(b), maxTold)]), "")
}

// parseID reads a line of the form "key id" at the beginning of content.
func parseID(content []byte, key string, id *plumbing.Hash) bool {
	rest, ok := bytes.CutPrefix(content, []byte(key))
	if !ok || len(rest) < 2*hashSize+1 || rest[2*hashSize] != '\n' {
		return false
	}
	_, err := hex.Decode(id[:], rest[:2*hashSize])
	return err == nil
}
