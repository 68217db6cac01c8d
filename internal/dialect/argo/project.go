package argo

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"strings"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// Project is an AppProject made ready to judge by. It is immutable.
type Project struct {
	name string
	// rules judge the objects of an Application.
	rules        policy.Rules
	repos        []glob
	destinations []destination
	accounts     []account
	open         bool   // of everything; only [Open] makes one
	warning      string // what the project asks for in vain, harmlessly
}

type destination struct{ server, name, namespace glob }

type account struct {
	server, namespace glob
	name              string
}

// projectFields are the fields of a project that are honoured, or that concern
// only the API and its users. What is missing here would narrow what may be
// delivered, so that to ignore it would be to permit what was forbidden.
var projectFields = fields("description", "sourceRepos", "destinations", "roles", "sourceNamespaces",
	"clusterResourceWhitelist", "clusterResourceBlacklist",
	"namespaceResourceWhitelist", "namespaceResourceBlacklist",
	"destinationServiceAccounts", "orphanedResources")

// Compile makes rules of an AppProject. Errors are *fault.Error: Unsupported for a
// field whose neglect would permit too much (signatureKeys, sourceIntegrity,
// syncWindows, permitOnlyProjectScopedClusters), Invalid for a malformed pattern.
func Compile(p *api.AppProject) (*Project, error) {
	refused, err := unsupported(p.Spec, projectFields)
	if err != nil {
		return nil, err
	}
	if len(refused) > 0 {
		return nil, notYet(refused).On("AppProject " + p.Name)
	}
	out := &Project{name: p.Name}
	if p.Spec.OrphanedResources != nil {
		out.warning = "spec.orphanedResources of AppProject " + p.Name + " is not supported yet; nobody looks for orphans"
	}
	c := compiler{}
	for _, repo := range p.Spec.SourceRepos {
		out.repos = append(out.repos, c.glob(repoPattern(repo), true))
	}
	for _, d := range p.Spec.Destinations {
		out.destinations = append(out.destinations, destination{c.glob(d.Server, false), c.glob(d.Name, false), c.glob(d.Namespace, false)})
	}
	for _, a := range p.Spec.DestinationServiceAccounts {
		if strings.HasPrefix(a.Server, "!") || strings.HasPrefix(a.Namespace, "!") {
			return nil, fault.New(fault.Invalid, "destinationServiceAccounts cannot deny").On("AppProject " + p.Name)
		}
		out.accounts = append(out.accounts, account{c.glob(a.Server, false), c.glob(a.Namespace, false), a.DefaultServiceAccount})
	}
	out.rules = c.rules(p, out)
	if c.err != nil {
		return nil, fault.New(fault.Invalid, "%s", c.err).On("AppProject " + p.Name)
	}
	return out, nil
}

// Open returns a project that permits everything, for a preview without a
// cluster and for a permissive controller.
func Open(name string) *Project { return &Project{name: name, open: true} }

// compiler keeps the first error, so that a broken pattern stops the project.
type compiler struct{ err error }

func (c *compiler) glob(pattern string, separator bool) glob {
	g, err := compileGlob(pattern, separator)
	if err != nil && c.err == nil {
		c.err = err
	}
	return g
}

func (c *compiler) kind(group, kind, name string) policy.GroupKind {
	for _, pattern := range []string{group, kind, name} {
		if _, err := path.Match(pattern, ""); err != nil && c.err == nil {
			c.err = fault.New(fault.Invalid, "the pattern %q is malformed", pattern)
		}
	}
	return policy.GroupKind{Group: group, Kind: kind, Name: name}
}

func (c *compiler) rules(p *api.AppProject, out *Project) policy.Rules {
	r := policy.Rules{Project: p.Name, Version: version(p), Namespaces: func(ns string) bool { return out.permits(ns) }}
	for _, k := range p.Spec.ClusterResourceWhitelist {
		r.ClusterAllow = append(r.ClusterAllow, c.kind(k.Group, k.Kind, k.Name))
	}
	for _, k := range p.Spec.ClusterResourceBlacklist {
		r.ClusterDeny = append(r.ClusterDeny, c.kind(k.Group, k.Kind, k.Name))
	}
	if p.Spec.NamespaceResourceWhitelist != nil {
		r.NamespaceAllow = []policy.GroupKind{} // present and empty permits none
	}
	for _, k := range p.Spec.NamespaceResourceWhitelist {
		r.NamespaceAllow = append(r.NamespaceAllow, c.kind(k.Group, k.Kind, ""))
	}
	for _, k := range p.Spec.NamespaceResourceBlacklist {
		r.NamespaceDeny = append(r.NamespaceDeny, c.kind(k.Group, k.Kind, ""))
	}
	return r
}

// version names the state of a project's rules, and nothing else of the project:
// a token that is added to a role must not have everything judged again.
func version(p *api.AppProject) string {
	spec := p.Spec
	spec.Roles, spec.Description = nil, ""
	b, err := json.Marshal(spec)
	if err != nil {
		return p.ResourceVersion
	}
	sum := sha256.Sum256(b)
	return p.Name + "@" + hex.EncodeToString(sum[:12])
}

// PermitsSource reports whether Applications of the project may fetch from url:
// a rule permits it and none denies it.
func (p *Project) PermitsSource(url string) bool {
	if p.open {
		return true
	}
	permitted := false
	for _, g := range p.repos {
		if !g.match(repoPattern(url)) {
			continue
		}
		if g.denies {
			return false
		}
		permitted = true
	}
	return permitted
}

// repoPattern writes a repository's address, or a pattern of them, in the one
// form in which both are compared. Unlike [source.NormalizeURL] it keeps the
// scheme: who permits https did not permit http.
func repoPattern(url string) string {
	url = strings.ToLower(strings.TrimSpace(url))
	return strings.TrimSuffix(strings.TrimRight(url, "/"), ".git")
}

// permits reports whether the project permits a namespace of the cluster: one rule
// does, and none denies it.
func (p *Project) permits(namespace string) bool {
	permitted := p.open
	for _, d := range p.destinations {
		allows, denies := d.judge(namespace)
		if denies {
			return false
		}
		permitted = permitted || allows
	}
	return permitted
}

// judge says what one rule has to say about a namespace. One that denies a server
// or a namespace does so where the rest of the rule matches; one that denies a
// cluster by name does so whatever its namespace says, as with Argo CD. A rule
// that denies permits nothing.
func (d destination) judge(namespace string) (allows, denies bool) {
	server, name, ns := d.server.match(Server), d.name.match(ServerName), d.namespace.match(namespace)
	switch {
	case d.name.denies && name:
		return false, true
	case d.server.denies || d.name.denies:
		return false, d.server.denies && server && ns
	}
	matches := ns && (server || name)
	return matches && !d.namespace.denies, matches && d.namespace.denies
}

// Account returns who writes for an Application with this destination namespace,
// which stands in namespace home. The zero account, Holdfast's own identity, is
// returned only if permissive says so. The error, *fault.Error of kind Refused,
// says what to add to the project.
func (p *Project) Account(namespace, home string, permissive bool) (cluster.Account, error) {
	where := namespace
	if where == "" {
		where = home
	}
	for _, a := range p.accounts {
		if !a.server.match(Server) || !a.namespace.match(namespace) {
			continue
		}
		ns, name, qualified := strings.Cut(a.name, ":")
		if !qualified {
			ns, name = where, a.name
		}
		if ns == "" || name == "" || strings.ContainsAny(ns+name, ":*/ ") {
			return cluster.Account{}, fault.New(fault.Invalid, "defaultServiceAccount %q is not a name or namespace:name", a.name).
				On("AppProject " + p.name)
		}
		return cluster.ServiceAccount(ns, name), nil
	}
	if permissive || p.open {
		return cluster.Account{}, nil
	}
	return cluster.Account{}, fault.New(fault.Refused, "project %s names no service account for namespace %q", p.name, where).
		WithHint("add to the AppProject: spec: {destinationServiceAccounts: [{server: %q, namespace: %q, defaultServiceAccount: <name>}]}", Server, namespace)
}

// permitsNamespaceObject reports whether the project permits to create a namespace.
func (p *Project) permitsNamespaceObject(name string) bool {
	return p.rules.Permits(object.ID{Kind: "Namespace", Name: name}, false) == nil
}
