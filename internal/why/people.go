package why

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// peopleLinks say who wrote, signed and asked for what was applied.
func peopleLinks(e remote.Found) []Link {
	links := authorLinks(e)
	links = append(links, signerLinks(e)...)
	for _, p := range e.Entry.Who {
		if p.Role == audit.RoleRequester {
			links = append(links, personLink(LinkRequest, p, entry(e)))
		}
	}
	return links
}

func personLink(name string, p audit.Person, by string) Link {
	l := Link{Name: name, State: Claimed, Text: []string{p.Name}, By: by + ", as it was claimed"}
	if p.Proven {
		l.State, l.By = Proven, by
		if p.By != "" {
			l.By = p.By
		}
	}
	return l
}

// authorLinks tell the author: who the commit says it is. It is proven only where the
// commit's signer has the author's address.
func authorLinks(e remote.Found) []Link {
	var links []Link
	for _, p := range e.Entry.Who {
		if p.Role == audit.RoleAuthor {
			links = append(links, personLink(LinkAuthor, p, ""))
		}
	}
	c := head(e)
	if len(links) == 0 && c != nil && c.Author != "" {
		links = append(links, personLink(LinkAuthor, audit.Person{Name: c.Author}, ""))
	}
	for i := range links {
		l := &links[i]
		switch {
		case l.State == Proven:
		case c != nil && !c.Tag && c.Signer != nil && addresses(l.Text[0], c.Signer.Identity):
			l.State, l.By = Proven, "the signer, who has the author's address"
		default:
			l.By = "the commit, in which anybody can be named"
		}
	}
	if len(links) == 0 {
		return []Link{{Name: LinkAuthor, State: Unproven, Text: []string{"The entry names no author."}}}
	}
	return links
}

// addresses reports whether the line of an author has the address of an identity.
func addresses(author, identity string) bool {
	return identity != "" && strings.HasSuffix(strings.ToLower(author), "<"+strings.ToLower(identity)+">")
}

// head returns the evidence about the delivered commit, or the tag that named it.
func head(e remote.Found) *trust.Commit {
	all := commits(e)
	for i, c := range all {
		if c.Tag || e.Entry.Source != nil && c.ID == e.Entry.Source.Commit {
			return &all[i]
		}
	}
	return nil
}

// commits returns what was proven of commits: all of them, where the entry had no
// room for all.
func commits(e remote.Found) []trust.Commit {
	if e.Record != nil && len(e.Record.Commits) > len(e.Entry.Commits) {
		return e.Record.Commits
	}
	return e.Entry.Commits
}

// signerLinks tell who signed the delivered commit, and how many more were judged.
func signerLinks(e remote.Found) []Link {
	c := head(e)
	if c == nil {
		return []Link{{
			Name: LinkSigner, State: Unproven, By: entry(e),
			Text: []string{"Nobody asked for a signature: no TrustPolicy selects the delivery, or none is about commits."},
		}}
	}
	links := []Link{signer(*c, entry(e))}
	var signed int
	var unsigned []string
	all := commits(e)
	for i := range all {
		other := &all[i]
		switch {
		case other == c:
		case other.Signer != nil:
			signed++
		default:
			unsigned = append(unsigned, short(other.ID))
		}
	}
	switch {
	case len(unsigned) > 0:
		links = append(links, Link{
			Name: LinkSigner, State: Unproven, By: entry(e),
			Text: []string{fmt.Sprintf("of %s since the last delivery, %d unproven", counted(signed+len(unsigned), "more commit"), len(unsigned)), strings.Join(first(unsigned, 8), ", ")},
		})
	case signed > 0:
		links = append(links, Link{
			Name: LinkSigner, State: Proven, By: entry(e),
			Text: []string{counted(signed, "more commit") + " since the last delivery, each signed"},
		})
	}
	return links
}

// signer tells who signed one commit or tag.
func signer(c trust.Commit, by string) Link {
	what := "commit " + short(c.ID)
	if c.Tag {
		what = "tag " + short(c.ID)
	}
	if c.Signer == nil {
		text := []string{what + ": no signature that counts"}
		if c.Problem != "" {
			text = append(text, c.Problem)
		}
		return Link{Name: LinkSigner, State: Unproven, Text: text, By: by}
	}
	text := []string{what + ": " + identity(*c.Signer)}
	text = append(text, key(*c.Signer))
	if !c.SignedAt.IsZero() {
		text = append(text, "signed "+stamp(c.SignedAt))
	}
	return Link{Name: LinkSigner, State: Proven, Text: text, By: vouched(*c.Signer)}
}

func identity(s trust.Signer) string {
	who := s.Identity
	if who == "" {
		who = s.Authority
	}
	if s.Issuer != "" {
		who += ", according to " + s.Issuer
	}
	return who
}

func key(s trust.Signer) string { return s.Kind + " " + s.Fingerprint }

func vouched(s trust.Signer) string {
	return "its signature, by authority " + s.Authority + " of TrustPolicy " + s.Policy
}

// short returns as much of an id as people compare.
func short(id string) string {
	prefix, digest, found := strings.Cut(id, ":")
	if !found {
		prefix, digest = "", id
	} else {
		prefix += ":"
	}
	return prefix + digest[:min(len(digest), 12)]
}

func first(list []string, n int) []string {
	if len(list) <= n {
		return list
	}
	return append(slices.Clone(list[:n]), fmt.Sprintf("and %d more", len(list)-n))
}
