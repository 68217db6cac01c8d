package commit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

func teamOf(t testing.TB) []trust.Authority {
	return []trust.Authority{
		{Name: "gpg", GPG: shared.keys(t, "alice", "bob", "carol")},
		{Name: "ssh", SSH: []byte(shared.line(t, "alice@example.com", "", "alice") + shared.line(t, "bob@example.com", `valid-before="20260301"`, "bob"))},
	}
}

// TestReplayed puts the signature of one commit onto another, and changes what was
// signed in ways that a reader may not see.
func TestReplayed(t *testing.T) {
	f := newForge(t)
	for _, by := range []string{"gpg:alice", "ssh:alice"} {
		good := f.content("commit", f.commit(made{by: by}))
		other := f.content("commit", f.commit(made{by: by, at: day2026(2, 2)}))
		head, rest, _ := strings.Cut(good, "gpgsig ")
		signature, message, _ := strings.Cut(rest, "\n\n")
		sig := "gpgsig " + signature + "\n"
		otherHead, otherRest, _ := strings.Cut(other, "gpgsig ")
		_, otherMessage, _ := strings.Cut(otherRest, "\n\n")
		for name, tc := range map[string]struct {
			reason, raw, want string
		}{
			"as it was":           {"it is right", good, ""},
			"another commit":      {"a right signature, but of another", otherHead + sig + "\n" + otherMessage, "the signature is wrong"},
			"another tree":        {"what is delivered is another tree", strings.Replace(good, head[5:45], strings.Repeat("1", 40), 1), "the signature is wrong"},
			"another message":     {"one word more", head + sig + "\n" + message + "more\n", "the signature is wrong"},
			"another parent":      {"it is put on top of something else", strings.Replace(good, "\nauthor", "\nparent "+strings.Repeat("2", 40)+"\nauthor", 1), "the signature is wrong"},
			"two signatures":      {"readers differ in which one counts", head + sig + sig + "\n" + message, "two signatures"},
			"gpgsig-sha256":       {"a signature of the other kind of repository", head + strings.Replace(sig, "gpgsig", "gpgsig-sha256", 1) + "\n" + message, "gpgsig-sha256"},
			"both":                {"and beside one of this kind", head + sig + strings.Replace(sig, "gpgsig", "gpgsig-sha256", 1) + "\n" + message, "behind its signature"},
			"header behind":       {"git writes none there", head + sig + "encoding UTF-8\n\n" + message, "behind its signature"},
			"carriage return":     {"a line that ends elsewhere for others", strings.Replace(good, "\ncommitter", "\r\ncommitter", 1), "carriage return"},
			"crlf signature":      {"also in the signature", head + strings.ReplaceAll(sig, "\n", "\r\n") + "\n" + message, "carriage return"},
			"NUL in the message":  {"git does not show what follows", head + sig + "\n" + message + "\x00hidden", "NUL byte"},
			"NUL in the head":     {"nor here", strings.Replace(good, "author alice", "author al\x00ice", 1), "NUL byte"},
			"two authors":         {"readers differ in which one counts", strings.Replace(good, "\ncommitter", "\nauthor bob <bob@example.com> 1 +0000\ncommitter", 1), "its committer cannot be read"},
			"author twice around": {"two addresses in one line", strings.Replace(good, "<alice@example.com>", "<alice@example.com> <bob@example.com>", 1), "author cannot be read"},
			"late parent":         {"a parent where git expects none", strings.Replace(good, "gpgsig", "parent "+strings.Repeat("2", 40)+"\ngpgsig", 1), "in the wrong place"},
			"empty signature":     {"there is a header, and nothing in it", head + "gpgsig \n\n" + message, "of kind unknown"},
			"text before":         {"an armour with something before it", head + strings.Replace(sig, "gpgsig ", "gpgsig x\n ", 1) + "\n" + message, "of kind unknown"},
			"endless author":      {"a name as long as a book, which would be told and recorded", strings.Replace(good, " <alice@example.com>", strings.Repeat("e", maxIdent)+" <alice@example.com>", 1), "author cannot be read"},
			"text behind":         {"and behind it", head + strings.TrimSuffix(sig, "\n") + "\n behind\n\n" + message, "malformed"},
			"two in one":          {"an armour twice", head + sig + " " + strings.TrimPrefix(strings.TrimSuffix(sig, "\n"), "gpgsig ") + "\n\n" + message, "malformed"},
		} {
			id := f.raw("commit", tc.raw)
			r := source.Revision{Commit: id, Branch: "main", URL: "fleet", History: &fixed{commits: map[string]string{id: tc.raw}}}
			v, err := newVerifier().Verify(t.Context(), r, demand(trust.Commits{Authorities: teamOf(t)}), "")
			check(t, by+": "+name+": "+tc.reason, v, err, tc.want)
		}
	}
}

// fixed is a history of given bytes.
type fixed struct {
	commits map[string]string
	tagID   string
	tag     string
	err     error
	since   []string
	asked   atomic.Int64
}

func (h *fixed) Commit(_ context.Context, id string) ([]byte, error) {
	h.asked.Add(1)
	if h.err != nil {
		return nil, h.err
	}
	return []byte(h.commits[id]), nil
}

func (h *fixed) Tag(context.Context) (string, []byte, error) { return h.tagID, []byte(h.tag), h.err }

func (h *fixed) Since(context.Context, string, bool) ([]string, error) {
	return h.since, h.err
}

func (h *fixed) Contains(_ context.Context, id string) (bool, error) {
	return h.commits[id] != "", h.err
}

// TestOtherBytes has the history give bytes that its id does not stand for.
func TestOtherBytes(t *testing.T) {
	f := newForge(t)
	raw := f.content("commit", f.commit(made{by: "gpg:alice"}))
	id := strings.Repeat("1", 40)
	r := source.Revision{Commit: id, History: &fixed{commits: map[string]string{id: raw}}}
	if _, err := newVerifier().Verify(t.Context(), r, demand(trust.Commits{Authorities: teamOf(t)}), ""); fault.KindOf(err) != fault.Internal || err == nil {
		t.Errorf("error is %v", err)
	}
}

// TestTags delivers tags that git made, and others that it did not.
func TestTags(t *testing.T) {
	f := newForge(t)
	unsigned := f.commit(made{})
	signed := f.commit(made{by: "gpg:alice"})
	elsewhere := f.commit(made{at: day2026(2, 5)})
	f.tag(made{by: "gpg:alice"}, "gpg", unsigned)
	f.tag(made{by: "ssh:alice"}, "ssh", unsigned)
	f.tag(made{}, "plain", unsigned)
	f.tag(made{}, "plain-signed", signed)
	f.git(nil, "", "update-ref", "refs/tags/light", unsigned)
	f.git(nil, "", "update-ref", "refs/tags/light-signed", signed)
	f.tag(made{by: "gpg:stranger"}, "stranger", unsigned)
	f.tag(made{by: "ssh:bob", at: day2026(4, 1)}, "expired", unsigned)
	f.git(nil, "", "update-ref", "refs/tags/renamed", f.git(nil, "", "rev-parse", "refs/tags/gpg"))
	f.tag(made{by: "gpg:alice"}, "nested", f.git(nil, "", "rev-parse", "refs/tags/plain"))
	raw := f.content("tag", f.git(nil, "", "rev-parse", "refs/tags/gpg"))
	moved := strings.Replace(raw, unsigned, elsewhere, 1)
	f.git(nil, "", "update-ref", "refs/tags/moved", f.raw("tag", strings.Replace(moved, "tag gpg\n", "tag moved\n", 1)))
	begin := strings.Index(raw, "-----BEGIN")
	named := strings.Replace(raw[:begin], "tag gpg\n", "tag %s\n", 1)
	f.git(nil, "", "update-ref", "refs/tags/twice", f.raw("tag", fmt.Sprintf(named, "twice")+raw[begin:]+raw[begin:]))
	f.git(nil, "", "update-ref", "refs/tags/behind", f.raw("tag", fmt.Sprintf(named, "behind")+raw[begin:]+"and more\n"))
	f.git(nil, "", "update-ref", "refs/tags/headed", f.raw("tag", strings.Replace(fmt.Sprintf(named, "headed"), "\n\n", "\nmore headers\n\n", 1)+raw[begin:]))

	for tag, tc := range map[string]struct{ reason, want string }{
		"gpg":          {"the tag is signed, its commit is not", ""},
		"ssh":          {"the same with SSH", ""},
		"plain":        {"neither is signed", "is not signed"},
		"plain-signed": {"the commit is signed, its tag is not", ""},
		"light":        {"there is no tag to be signed", "is not signed"},
		"light-signed": {"a name for a commit that is signed", ""},
		"stranger":     {"signed by nobody's key", "belongs to no authority"},
		"expired":      {"signed after the key was valid", "not valid after 2026-03-01"},
		"renamed":      {"a tag that was signed under another name: an old release as a new one", `calls itself "gpg"`},
		"nested":       {"a signed tag of a tag", "points to a tag"},
		"moved":        {"signed for another commit", "the signature is wrong"},
		"twice":        {"two signatures", "two signatures"},
		"behind":       {"text behind the signature", "malformed"},
		"headed":       {"a header that git does not write", "header \"more\""},
	} {
		v, err := newVerifier().Verify(t.Context(), f.fetch("", tag), demand(trust.Commits{Authorities: teamOf(t), AuthorMatches: true}), "")
		check(t, tag+": "+tc.reason, v, err, tc.want)
	}

	// A server that shows a tag whose object is not the commit that it peels to.
	r := f.fetch("", "gpg")
	h := &fixed{commits: map[string]string{elsewhere: f.content("commit", elsewhere)}, tag: raw, tagID: f.git(nil, "", "rev-parse", "refs/tags/gpg")}
	r.Commit, r.History = elsewhere, h
	v, err := newVerifier().Verify(t.Context(), r, demand(trust.Commits{Authorities: teamOf(t)}), "")
	check(t, "a tag of another commit", v, err, "points to another commit")
}

// TestRange judges lines of commits, linear and merged.
func TestRange(t *testing.T) {
	f := newForge(t)
	root := f.commit(made{})
	last := f.commit(made{by: "gpg:alice", parents: []string{root}})
	next := f.commit(made{by: "ssh:alice", parents: []string{last}, at: day2026(2, 2)})
	good := f.commit(made{by: "gpg:bob", parents: []string{next}, at: day2026(2, 3)})
	gap := f.commit(made{parents: []string{last}, at: day2026(2, 2)})
	covered := f.commit(made{by: "gpg:bob", parents: []string{gap}, at: day2026(2, 3)})
	side := f.commit(made{parents: []string{root}, at: day2026(2, 2)})
	merged := f.commit(made{by: "gpg:webflow", author: "alice", parents: []string{good, side}, at: day2026(2, 4)})
	signedSide := f.commit(made{by: "gpg:alice", parents: []string{root}, at: day2026(2, 2)})
	clean := f.commit(made{by: "gpg:webflow", author: "alice", parents: []string{good, signedSide}, at: day2026(2, 4)})
	forged := f.commit(made{by: "gpg:webflow", author: "alice", parents: []string{good}, at: day2026(2, 4)})
	stale := f.commit(made{by: "gpg:carol", parents: []string{good}, at: day2026(1, 20)})
	dated := f.commit(made{by: "gpg:alice", parents: []string{good}, at: now.Add(time.Hour)})
	forge := []trust.Authority{{Name: "forge", GPG: shared.keys(t, "webflow")}}

	cases := []struct {
		reason string
		head   string
		last   string
		from   string
		change func(*trust.Commits)
		want   string
		judged int
	}{
		{"all are signed", good, last, "", nil, "", 2},
		{"nothing is new", last, last, "", nil, "", 0},
		{"one in between is not", covered, last, "", nil, gap, 2},
		{"nobody was proven yet: the first to trust is named", good, "", root, nil, "", 3},
		{"none is named: the first of all counts, too", good, "", "", nil, "name the first commit to trust", 4},
		{"the first to trust is delivered itself", root, "", root, nil, "", 0},
		{"the first to trust is elsewhere", good, "", gap, nil, "the first commit to trust", 0},
		{"it was named later than the last delivery", covered, last, gap, nil, "", 1},
		{"a merge of the forge, on its line", merged, last, "", func(c *trust.Commits) { c.Forge = forge }, "", 3},
		{"with the author's match for the others", merged, last, "", func(c *trust.Commits) { c.Forge, c.AuthorMatches = forge, true }, "", 3},
		{"the forge is not known", merged, last, "", nil, "belongs to no authority", 3},
		{"what was merged is judged as well", merged, last, "", func(c *trust.Commits) { c.Forge, c.All = forge, true }, side, 4},
		{"and is signed", clean, last, "", func(c *trust.Commits) { c.Forge, c.All = forge, true }, "", 4},
		{"the forge may sign nothing but merges", forged, last, "", func(c *trust.Commits) { c.Forge = forge }, "belongs to no authority", 3},
		{"a commit of the past on top of what is there, by a key that has expired", stale, good, "", nil, "had expired, or was revoked, by 2026-02-03", 1},
		{"a commit of tomorrow", dated, good, "", nil, "a clock is wrong", 1},
	}
	for _, tc := range cases {
		c := trust.Commits{Range: true, Authorities: teamOf(t)}
		if tc.change != nil {
			tc.change(&c)
		}
		r := f.fetch(tc.head, "")
		if tc.from != "" {
			c.From = map[string]string{r.URL: tc.from}
		}
		v, err := newVerifier().Verify(t.Context(), r, demand(c), tc.last)
		check(t, tc.reason, v, err, tc.want)
		if got := v.Evidence().Judged; got != tc.judged {
			t.Errorf("%s: %d commits judged, want %d", tc.reason, got, tc.judged)
		}
		if tc.want == "" && v.Evidence().Judged > 0 && v.Evidence().Commits[0].ID != tc.head {
			t.Errorf("%s: the first commit told is not the newest", tc.reason)
		}
	}
	// In head mode the commit that was delivered last bounds its age, too.
	v, err := newVerifier().Verify(t.Context(), f.fetch(stale, ""), demand(trust.Commits{Authorities: teamOf(t)}), good)
	check(t, "a commit of the past, alone", v, err, "had expired, or was revoked, by 2026-02-03")
}

// TestRewind delivers a branch that lost the commit that was delivered last.
func TestRewind(t *testing.T) {
	f := newForge(t)
	first := f.commit(made{by: "gpg:alice"})
	last := f.commit(made{by: "gpg:alice", parents: []string{first}})
	other := f.commit(made{by: "gpg:alice", parents: []string{first}, at: day2026(2, 2)})
	r := f.fetch(other, "")
	commits := &trust.Commits{Range: true, Authorities: teamOf(t)}
	for _, tc := range []struct {
		reason   string
		policies []trust.Policy
		want     string
		unproven int
	}{
		{"nobody minds, and it is told", nil, "", 0},
		{"a policy about something else protects it, too", []trust.Policy{{Name: "a"}}, "was rewound", 0},
		{"one permits it", []trust.Policy{{Name: "a", Rewind: true}}, "", 0},
		{"one of two permits it", []trust.Policy{{Name: "a", Rewind: true}, {Name: "b"}}, `policy "b"`, 0},
		{"one only audits", []trust.Policy{{Name: "a", Rewind: true}, {Name: "b", Audit: true}}, "", 1},
		{"it is permitted, and all is judged again", []trust.Policy{{Name: "a", Rewind: true, Commits: commits}}, "", 0},
	} {
		v, err := newVerifier().Verify(t.Context(), r, trust.NewDemands(tc.policies...), last)
		check(t, tc.reason, v, err, tc.want)
		e := v.Evidence()
		if !e.Rewound || len(e.Unproven) != tc.unproven || err == nil && v.Revision().Commit != other {
			t.Errorf("%s: evidence is %+v", tc.reason, e)
		}
	}
	for _, before := range []string{"", first, other} {
		v, err := newVerifier().Verify(t.Context(), r, trust.NewDemands(trust.Policy{Name: "a"}), before)
		if err != nil || v.Evidence().Rewound {
			t.Errorf("after %q: %+v, %v", before, v.Evidence(), err)
		}
	}
}

// TestPolicies has several policies, broken ones, and ones that cannot be asked.
func TestPolicies(t *testing.T) {
	f := newForge(t)
	r := f.fetch(f.commit(made{by: "gpg:alice"}), "")
	gpg := &trust.Commits{Authorities: []trust.Authority{{Name: "g", GPG: shared.keys(t, "alice")}}}
	ssh := &trust.Commits{Authorities: []trust.Authority{{Name: "s", SSH: []byte(shared.line(t, "*", "", "alice"))}}}
	down := fault.New(fault.Unreachable, "the server is down")
	for _, tc := range []struct {
		reason   string
		policies []trust.Policy
		r        source.Revision
		last     string
		kind     fault.Kind
		want     string
		unproven string
	}{
		{"nothing is demanded", nil, r, "", 0, "", ""},
		{"two that hold", []trust.Policy{{Name: "a", Commits: gpg}, {Name: "b", Commits: gpg}}, r, "", 0, "", ""},
		{"one of two holds", []trust.Policy{{Name: "a", Commits: gpg}, {Name: "b", Commits: ssh}}, r, "", fault.Refused, `policy "b"`, ""},
		{"the other one only audits", []trust.Policy{{Name: "a", Commits: gpg}, {Name: "b", Commits: ssh, Audit: true}}, r, "", 0, "", `policy "b"`},
		{"a broken one proves nothing", []trust.Policy{{Name: "a", Broken: "its key is gone"}}, r, "", fault.Refused, "its key is gone", ""},
		{"a broken one that audits", []trust.Policy{{Name: "a", Broken: "its key is gone", Audit: true}}, r, "", 0, "", "its key is gone"},
		{"nobody may sign", []trust.Policy{{Name: "a", Commits: &trust.Commits{}}}, r, "", fault.Refused, "names nobody", ""},
		{
			"a key that cannot be read",
			[]trust.Policy{{Name: "a", Commits: &trust.Commits{Authorities: []trust.Authority{{Name: "x", SSH: []byte("a option ssh-ed25519 x")}}}}},
			r, "", fault.Refused, `the option "option" is not supported`, "",
		},
		{"a source without commits", []trust.Policy{{Name: "a", Commits: gpg}}, source.Revision{Commit: r.Commit}, "", fault.Refused, "this source has none", ""},
		{"history is down", []trust.Policy{{Name: "a", Commits: gpg}}, source.Revision{Commit: r.Commit, History: &fixed{err: down}}, "", fault.Unreachable, "the server is down", ""},
		{"history is down, for the rewind", []trust.Policy{{Name: "a"}}, source.Revision{Commit: r.Commit, History: &fixed{err: down}}, "1", fault.Unreachable, "the server is down", ""},
		{"history is down, and nobody asks", nil, source.Revision{Commit: r.Commit, History: &fixed{err: down}}, "1", 0, "", ""},
	} {
		v, err := newVerifier().Verify(t.Context(), tc.r, trust.NewDemands(tc.policies...), tc.last)
		if tc.want != "" && (err == nil || fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.want)) || tc.want == "" && err != nil {
			t.Errorf("%s: error is %v (%v)", tc.reason, err, fault.KindOf(err))
		}
		by, _ := errors.AsType[trust.RefusedError](err)
		for _, p := range tc.policies {
			named := slices.Contains(by, p.Name)
			if named && p.Audit || !named && tc.kind == fault.Refused && strings.Contains(tc.want, `policy "`+p.Name+`"`) {
				t.Errorf("%s: it is refused by %v", tc.reason, by)
			}
		}
		if tc.kind == fault.Refused && len(by) == 0 {
			t.Errorf("%s: no policy refuses", tc.reason)
		}
		if got := strings.Join(v.Evidence().Unproven, "\n"); (tc.unproven == "") != (got == "") || !strings.Contains(got, tc.unproven) {
			t.Errorf("%s: unproven is %q", tc.reason, got)
		}
		for _, p := range tc.policies {
			if slices.Contains(v.Evidence().UnprovenTo, p.Name) != (p.Audit && tc.unproven != "") {
				t.Errorf("%s: unproven to %q", tc.reason, v.Evidence().UnprovenTo)
			}
		}
	}
}

// TestEvidence tells what was proven: bounded, and with what is missing.
func TestEvidence(t *testing.T) {
	f := newForge(t)
	r := f.fetch(f.commit(made{by: "gpg:alice"}), "")
	v, err := newVerifier().Verify(t.Context(), r, demand(trust.Commits{Authorities: teamOf(t)}), "")
	if err != nil {
		t.Fatal(err)
	}
	want := trust.Evidence{Judged: 1, Commits: []trust.Commit{{
		ID: r.Commit, Author: "alice <alice@example.com>",
		Signer: &trust.Signer{Policy: "production", Authority: "gpg", Kind: "gpg", Fingerprint: shared.gpg["alice"], Identity: "alice@example.com"},
	}}}
	if diff := cmp.Diff(want, v.Evidence()); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
	told := make([]trust.Commit, 300)
	for i := range told {
		told[i].ID = fmt.Sprint(i)
	}
	got := tell(nil, told, told[200:])
	if len(got) != maxEvidence || !slices.ContainsFunc(got, func(c trust.Commit) bool { return c.ID == "200" }) {
		t.Errorf("%d commits are told, the missing one among them: %v", len(got), got[len(got)-1])
	}
}

// TestRemembered verifies once what was verified before, until the keys change.
func TestRemembered(t *testing.T) {
	f := newForge(t)
	r := f.fetch(f.commit(made{by: "ssh:alice"}), "")
	v := newVerifier()
	d := demand(trust.Commits{Authorities: []trust.Authority{{Name: "s", SSH: []byte(shared.line(t, "*", "", "alice"))}}})
	for range 3 {
		if _, err := v.Verify(t.Context(), r, d, ""); err != nil {
			t.Fatal(err)
		}
	}
	if len(v.results) != 1 {
		t.Errorf("%d results are remembered, want 1", len(v.results))
	}
	d = demand(trust.Commits{Authorities: []trust.Authority{{Name: "s", SSH: []byte(shared.line(t, "*", `valid-before="20260101"`, "alice"))}}})
	if _, err := v.Verify(t.Context(), r, d, ""); err == nil {
		t.Error("the line was changed, and what was remembered of the old one counts")
	}
}

// TestRememberedRange has many deliveries ask for the same range at once: it is judged
// once, and for another policy anew.
func TestRememberedRange(t *testing.T) {
	f := newForge(t)
	base := f.commit(made{by: "ssh:alice"})
	head := f.commit(made{by: "ssh:alice", parents: []string{base}, at: day2026(2, 2)})
	r := f.fetch(head, "")
	counted := &fixed{commits: map[string]string{head: f.content("commit", head), base: f.content("commit", base)}}
	counted.since = []string{head}
	r.History = counted
	v := newVerifier()
	d := demand(trust.Commits{Range: true, Authorities: teamOf(t)})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			verified, err := v.Verify(t.Context(), r, d, base)
			if err != nil || verified.Evidence().Judged != 1 || len(verified.Evidence().Commits) != 1 {
				t.Errorf("%+v, %v", verified.Evidence(), err)
			}
		})
	}
	all.Wait()
	if got := counted.asked.Load(); got != 2 {
		t.Errorf("%d commits were read, want those of one range", got)
	}
	if _, err := v.Verify(t.Context(), r, demand(trust.Commits{Range: true, Authorities: teamOf(t)[:1]}), base); err == nil {
		t.Error("what was proven to one policy counts for another")
	}
}

// sizeEnv has TestSpeed judge the whole range: HOLDFAST_HISTORY=full.
const sizeEnv = "HOLDFAST_HISTORY"

// TestSpeed judges a long range by one signature of each kind, copied as often.
func TestSpeed(t *testing.T) {
	n := 12
	if os.Getenv(sizeEnv) == "full" {
		n = 1000
	}
	f := newForge(t)
	for _, by := range []string{"gpg:alice", "gpg:bob", "ssh:alice"} {
		base := f.commit(made{by: by})
		head := base
		for i := range n {
			head = f.commit(made{by: by, parents: []string{head}, at: day2026(2, 1).Add(time.Duration(i) * time.Minute)})
		}
		r := f.fetch(head, "")
		v := newVerifier()
		d := demand(trust.Commits{Range: true, Authorities: teamOf(t)})
		for _, way := range []string{"with its history fetched", "again"} {
			start, spent := time.Now(), processorTime(t)
			verified, err := v.Verify(t.Context(), r, d, base)
			if err != nil || verified.Evidence().Judged != n {
				t.Fatalf("%s: %d commits judged, %v", by, verified.Evidence().Judged, err)
			}
			t.Logf("%s: %d commits %s: %s, %s of processor time", by, n, way,
				time.Since(start).Round(time.Microsecond), (processorTime(t) - spent).Round(time.Microsecond))
		}
	}
}

// processorTime is what this process has used, without those that it started.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
