package argo

import (
	"os"
	"strings"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/source"
)

// env are the build variables of a source: what Argo CD puts into parameters that
// ask for it. The environment of the process is never part of them.
type env map[string]func() string

// environment returns the build variables of an Application at a revision.
func environment(app *api.Application, revision source.Revision, o Options) env {
	is := func(v string) func() string { return func() string { return v } }
	first := func(n int) func() string { return is(revision.Commit[:min(n, len(revision.Commit))]) }
	e := env{
		"ARGOCD_APP_NAME":             is(app.Name),
		"ARGOCD_APP_NAMESPACE":        is(app.Spec.Destination.Namespace),
		"ARGOCD_APP_PROJECT_NAME":     is(projectName(app)),
		"ARGOCD_APP_REVISION":         is(revision.Commit),
		"ARGOCD_APP_REVISION_SHORT":   first(7),
		"ARGOCD_APP_REVISION_SHORT_8": first(8),
		"KUBE_VERSION":                func() string { return strings.TrimPrefix(o.capabilities().KubeVersion, "v") },
		"KUBE_API_VERSIONS":           func() string { return strings.Join(o.capabilities().APIVersions, ",") },
	}
	if s := app.Spec.Source; s != nil {
		e["ARGOCD_APP_SOURCE_PATH"] = is(s.Path)
		e["ARGOCD_APP_SOURCE_REPO_URL"] = is(s.RepoURL)
		e["ARGOCD_APP_SOURCE_TARGET_REVISION"] = is(s.TargetRevision)
	}
	return e
}

// expand replaces $NAME and ${NAME} by build variables, and $$ by a dollar. A
// variable that does not exist is empty, as with Argo CD.
func (e env) expand(text string) string {
	if !strings.Contains(text, "$") {
		return text
	}
	return os.Expand(text, func(name string) string {
		if name == "$" {
			return "$"
		}
		if value, ok := e[name]; ok {
			return value()
		}
		return ""
	})
}

// all expands the values of a map.
func (e env) all(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = e.expand(v)
	}
	return out
}

func projectName(app *api.Application) string {
	if app.Spec.Project == "" {
		return defaultProject
	}
	return app.Spec.Project
}
