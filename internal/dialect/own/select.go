package own

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/idna"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// The kind and the project of an Application that names none.
const (
	kindApplication = "Application"
	defaultProject  = "default"
)

// selector is a compiled [api.Select]. Where it cannot tell, it selects: a delivery
// that is judged without need is seen, one that is not judged is not.
type selector struct {
	namespaces, projects []string // globs; nil: any
	labels               labels.Selector
	repositories         []pattern
	restricted           bool // repositories are named
}

// compileSelect compiles what a policy selects. A part that is malformed is a
// problem, and selects everything.
func (c *compiler) compileSelect(s api.Select) selector {
	var out selector
	out.namespaces = c.globs("spec.select.namespaces", s.Namespaces)
	out.projects = c.globs("spec.select.projects", s.Projects)
	if s.Labels != nil {
		l, err := metav1.LabelSelectorAsSelector(s.Labels)
		if err != nil {
			c.problemf(ReasonInvalid, "spec.select.labels: %s", err)
		}
		out.labels = l // nil if it is malformed: every label
	}
	for i, text := range s.Repositories {
		p, err := compilePattern(text)
		if err != nil {
			c.problemf(ReasonInvalid, "spec.select.repositories[%d]: %s", i, err)
			return out
		}
		out.repositories = append(out.repositories, p)
	}
	out.restricted = len(out.repositories) > 0
	return out
}

// globs checks globs over names; nil if one is malformed.
func (c *compiler) globs(field string, globs []string) []string {
	for i, g := range globs {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			c.problemf(ReasonInvalid, "%s[%d]: %q is no pattern of *, ? and [sets]", field, i, g)
			return nil
		}
	}
	return globs
}

func (s selector) selects(subject trust.Subject) bool {
	project := subject.Project
	if project == "" && subject.Kind == kindApplication {
		project = defaultProject
	}
	return anyGlob(s.namespaces, subject.Namespace) &&
		(len(s.projects) == 0 || project != "" && anyGlob(s.projects, project)) &&
		(s.labels == nil || s.labels.Matches(labels.Set(subject.Labels))) &&
		(!s.restricted || s.repository(subject.Repository))
}

func anyGlob(globs []string, name string) bool {
	for _, g := range globs {
		if ok, err := path.Match(g, name); ok && err == nil {
			return true
		}
	}
	return len(globs) == 0
}

// repository reports whether an address is one of those selected; true if nobody
// can tell what it is the address of.
func (s selector) repository(raw string) bool {
	at, ok := addressOf(raw)
	if !ok {
		return true
	}
	for _, p := range s.repositories {
		if p.matches(at) {
			return true
		}
	}
	return false
}

// address is where a repository is, whatever way leads there.
type address struct {
	port string // "" for those that are usual
	path string // host and path, lower case, unescaped
}

// addressOf reads an address as its server will: without scheme, user, .git and
// escapes. Case does not count, because it does not to many servers. ok is false
// if it cannot be read.
func addressOf(raw string) (address, bool) {
	normal := source.NormalizeURL(raw)
	if normal == "" || strings.HasPrefix(normal, "/") {
		return address{}, false
	}
	if local, ok := strings.CutPrefix(normal, "file://"); ok {
		return address{path: "file:/" + strings.ToLower(local)}, true
	}
	host, rest, _ := strings.Cut(normal, "/")
	port := ""
	if at := strings.LastIndexByte(host, ':'); at > strings.LastIndexByte(host, ']') {
		host, port = host[:at], host[at+1:]
	}
	ascii, err := idna.Lookup.ToASCII(host)
	switch {
	case strings.HasPrefix(host, "[") || plainHost(host):
		ascii = host
	case err != nil:
		return address{}, false
	}
	rest, err = url.PathUnescape(rest)
	if err != nil {
		return address{}, false
	}
	rest = strings.TrimPrefix(path.Clean("/"+strings.ToLower(rest)), "/")
	for strings.HasSuffix(rest, ".git") {
		rest = strings.TrimRight(strings.TrimSuffix(rest, ".git"), "/")
	}
	return address{port: port, path: strings.TrimRight(strings.ToLower(ascii), ".") + "/" + rest}, true
}

// plainHost reports whether a host means itself: names of machines may hold what
// those of domains may not.
func plainHost(host string) bool {
	return strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789.-_*") == ""
}

// pattern is a glob over addresses. One that names no port is for every port: a
// server has others for SSH.
type pattern address

// compilePattern compiles a glob that is written like an address, in any of its
// forms. A host alone is everything on it.
func compilePattern(text string) (pattern, error) {
	if text == "*" || text == "**" {
		return pattern{path: "**"}, nil
	}
	if strings.ContainsAny(text, "?#{}\\") {
		return pattern{}, fmt.Errorf("%q has a character that is no part of an address; patterns have * and **", text)
	}
	at, ok := addressOf(text)
	if !ok {
		return pattern{}, fmt.Errorf("%q is no address of a repository", text)
	}
	if strings.HasSuffix(at.path, "/") {
		at.path += "**"
	}
	return pattern(at), nil
}

func (p pattern) matches(at address) bool {
	return (p.port == "" || p.port == at.port) && object.Wild(p.path, at.path)
}
