package argo

import (
	"strings"
	"testing"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/test/harness"
	"github.com/holdfastcd/holdfast/test/sopsfile"
)

// refusal is a condition that contains all of some texts, and not the value.
func refusal(parts ...string) func(*api.Application) bool {
	return func(a *api.Application) bool {
		if len(a.Status.Conditions) == 0 {
			return false
		}
		for _, part := range parts {
			if !strings.Contains(a.Status.Conditions[0].Message, part) {
				return false
			}
		}
		return !strings.Contains(a.Status.Conditions[0].Message, "correct-horse")
	}
}

// What SOPS sealed is opened with the keys of the Application's project: plain files
// and values of a chart alike. Keys of another project open nothing. A new key, or a
// change of one, brings the pass.
func TestLiveSealedFiles(t *testing.T) {
	r := newRig(t)
	key, recipient := sopsfile.Key(t)
	head := r.remote.commit(map[string]string{
		"web/db.yaml":            sopsfile.YAML(t, sopsfile.Secret("correct-horse"), recipient),
		"chart/Chart.yaml":       "apiVersion: v2\nname: c\nversion: 1.0.0\n",
		"chart/values.yaml":      "data: {}\n",
		"chart/prod.yaml":        sopsfile.YAML(t, "data:\n    password: battery-staple\n", recipient),
		"chart/templates/s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: chart}\nstringData: {password: {{ .Values.data.password | quote }}}\n",
	})
	secret := func(name, project, entry, content string) {
		r.text(t, secrets, `{apiVersion: v1, kind: Secret, metadata: {name: `+name+`, labels: {holdfast.dev/secret-type: decryption}},
			stringData: {project: "`+project+`", `+entry+`: "`+strings.TrimSpace(content)+`"}}`)
	}
	r.app(t, "web", "web", healing)
	r.await(t, "web", "to be told what to create", refusal("web/db.yaml", "holdfast.dev/secret-type: decryption"))
	secret("others", "billing", "a.agekey", key)
	other, otherRecipient := sopsfile.Key(t)
	secret("own", "shop", "a.agekey", other)
	r.await(t, "web", "not to be opened with another project's key", refusal("web/db.yaml", recipient))
	secret("own", "shop", "b.agekey", key)
	r.await(t, "web", "to be synced", syncedAt(head))
	r.cluster.Await(t, secrets, r.ns, "db", "to be opened", harness.HasPassword("correct-horse"))

	r.app(t, "chart", "chart", healing)
	r.patch(t, applications, "chart", `{"spec":{"source":{"helm":{"valueFiles":["prod.yaml"]}}}}`)
	r.await(t, "chart", "to be synced", syncedAt(head))
	r.cluster.Await(t, secrets, r.ns, "chart", "to have opened values", harness.HasPassword("battery-staple"))

	// Rotation in Git needs no word: the project has both keys.
	head = r.remote.commit(map[string]string{"web/db.yaml": sopsfile.YAML(t, sopsfile.Secret("third"), otherRecipient)})
	r.patch(t, applications, "web", `{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"normal"}}}`)
	r.await(t, "web", "to be synced", syncedAt(head))
	r.cluster.Await(t, secrets, r.ns, "db", "to be opened", harness.HasPassword("third"))
}
