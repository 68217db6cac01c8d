package health_test

import (
	"testing"

	"github.com/holdfastcd/holdfast/internal/health"
)

// The suites of what makes Secrets, by the rules of Argo CD.
var (
	externalSecrets = suite{"apiVersion: external-secrets.io/v1\nkind: ExternalSecret\n", []row{
		{"nobody has looked at it yet", "spec: {}", health.Progressing, "not looked at it"},
		{"a status without conditions says nothing", "status: {refreshTime: null}", health.Progressing, "not looked at it"},
		{"another condition does not count", `status: {conditions: [{type: Deleted, status: "False", reason: SecretDeleted}]}`, health.Progressing, "not looked at it"},
		{"the provider did not give it", `status: {conditions: [{type: Ready, status: "False", reason: SecretSyncedError, message: could not get secret data from provider}]}`, health.Degraded, "could not get secret data"},
		{"without a message the reason tells", `status: {conditions: [{type: Ready, status: "False", reason: SecretSyncedError}]}`, health.Degraded, "SecretSyncedError"},
		{"unknown is not there yet", `status: {conditions: [{type: Ready, status: Unknown, message: m}]}`, health.Progressing, "m"},
		{"the Secret is made", `status: {conditions: [{type: Ready, status: "True", reason: SecretSynced, message: secret synced}]}`, health.Healthy, "secret synced"},
		{"the spec that was fetched is the latest", "metadata: {generation: 2}\nstatus: {syncedResourceVersion: 2-abc, " + isReady + "}", health.Healthy, ""},
		{"what was fetched is of an older spec", "metadata: {generation: 3}\nstatus: {syncedResourceVersion: 2-abc, " + isReady + "}", health.Progressing, "observed"},
		{"a failure is told whatever was fetched before", "metadata: {generation: 3}\nstatus: {syncedResourceVersion: 2-abc, conditions: [{type: Ready, status: \"False\", message: m}]}", health.Degraded, "m"},
		{"one that is fetched once stays with its first spec", "metadata: {generation: 3}\nspec: {refreshPolicy: CreatedOnce}\nstatus: {syncedResourceVersion: 1-abc, " + isReady + "}", health.Healthy, ""},
		{"so does one without an interval", "metadata: {generation: 3}\nspec: {refreshInterval: 0h0m0s}\nstatus: {syncedResourceVersion: 1-abc, " + isReady + "}", health.Healthy, ""},
		{"but not where a change is a reason", "metadata: {generation: 3}\nspec: {refreshPolicy: OnChange, refreshInterval: 0s}\nstatus: {syncedResourceVersion: 1-abc, " + isReady + "}", health.Progressing, "observed"},
		{"an interval makes it follow", "metadata: {generation: 3}\nspec: {refreshInterval: 1h0m0s}\nstatus: {syncedResourceVersion: 1-abc, " + isReady + "}", health.Progressing, "observed"},
		{"what names no generation is believed", "metadata: {generation: 3}\nstatus: {syncedResourceVersion: abc, " + isReady + "}", health.Healthy, ""},
		{"deleted for the provider has it no more: Ready, as the operator says", `status: {conditions: [{type: Ready, status: "True", reason: SecretDeleted, message: secret deleted due to DeletionPolicy=Delete}]}`, health.Healthy, "DeletionPolicy"},
	}}
	secretStores = suite{"apiVersion: external-secrets.io/v1beta1\nkind: SecretStore\n", []row{
		{"a store without status was not tried yet", "spec: {}", health.Progressing, "not looked at it"},
		{"a provider that cannot be reached", `status: {conditions: [{type: Ready, status: "False", reason: InvalidProviderConfig, message: unable to validate store}]}`, health.Degraded, "unable to validate"},
		{"a provider that answers", "status: {capabilities: ReadWrite, " + isReady + "}", health.Healthy, ""},
		{"stores have no generation: the condition is believed", "metadata: {generation: 7}\nstatus: {" + isReady + "}", health.Healthy, ""},
	}}
	clusterSecretStores = suite{"apiVersion: external-secrets.io/v1\nkind: ClusterSecretStore\n", secretStores.rows}
	pushSecrets         = suite{"apiVersion: external-secrets.io/v1alpha1\nkind: PushSecret\n", []row{
		{"not pushed yet", "spec: {}", health.Progressing, "not looked at it"},
		{"refused by the provider", `status: {conditions: [{type: Ready, status: "False", reason: Errored, message: m}]}`, health.Degraded, "m"},
		{"pushed", "metadata: {generation: 1}\nstatus: {syncedResourceVersion: 1-a, " + isReady + "}", health.Healthy, ""},
		{"it follows its spec without an interval, too", "metadata: {generation: 2}\nspec: {refreshInterval: 0s}\nstatus: {syncedResourceVersion: 1-a, " + isReady + "}", health.Progressing, "observed"},
	}}
	clusterExternalSecrets = suite{"apiVersion: external-secrets.io/v1\nkind: ClusterExternalSecret\n", []row{
		{"not copied yet", "spec: {}", health.Progressing, "not looked at it"},
		{"copied everywhere", "status: {provisionedNamespaces: [a], conditions: [{type: Ready, status: \"True\"}]}", health.Healthy, ""},
		{
			"the namespaces are named, what they say is not repeated", "status: {failedNamespaces: [{namespace: a, reason: r}, {namespace: b}], conditions: [{type: Ready, status: \"False\", message: one or more namespaces failed}]}",
			health.Degraded, "one or more namespaces failed (a, b)",
		},
		{"as versions before 0.9 say it", "status: {conditions: [{type: PartiallyReady, status: \"True\", message: m}]}", health.Degraded, "m"},
	}}
	clusterPushSecrets = suite{"apiVersion: external-secrets.io/v1alpha1\nkind: ClusterPushSecret\n", clusterExternalSecrets.rows[:3]}
	sealedSecrets      = suite{"apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\n", []row{
		{"not opened yet", "spec: {}", health.Progressing, "opened"},
		{"opened", "metadata: {generation: 1}\nstatus: {observedGeneration: 1, conditions: [{type: Synced, status: \"True\"}]}", health.Healthy, ""},
		{"what was opened is of an older spec", "metadata: {generation: 2}\nstatus: {observedGeneration: 1, conditions: [{type: Synced, status: \"True\"}]}", health.Progressing, "observed"},
		{"no key fits", "metadata: {generation: 1}\nstatus: {observedGeneration: 1, conditions: [{type: Synced, status: \"False\", message: no key could decrypt secret}]}", health.Degraded, "no key"},
		{"a status that does not say counts as opened", "status: {observedGeneration: 1}", health.Healthy, ""},
	}}
)

const isReady = `conditions: [{type: Ready, status: "True", reason: SecretSynced, message: secret synced}]`

// kstatus takes what is not ready for something that is not there yet, and knows
// nothing of the condition Synced.
func TestExternalUnderKstatus(t *testing.T) {
	tests := map[string]struct {
		suite  suite
		differ map[string]health.Status // by reason, where kstatus has another status
	}{
		"ExternalSecret": {externalSecrets, map[string]health.Status{
			"the provider did not give it": health.Progressing, "without a message the reason tells": health.Progressing,
			"a failure is told whatever was fetched before": health.Progressing,
		}},
		"SecretStore":        {secretStores, map[string]health.Status{"a provider that cannot be reached": health.Progressing}},
		"ClusterSecretStore": {clusterSecretStores, map[string]health.Status{"a provider that cannot be reached": health.Progressing}},
		"PushSecret":         {pushSecrets, map[string]health.Status{"refused by the provider": health.Progressing}},
		"ClusterExternalSecret": {clusterExternalSecrets, map[string]health.Status{
			"the namespaces are named, what they say is not repeated": health.Progressing, "as versions before 0.9 say it": health.Progressing,
		}},
		"SealedSecret": {sealedSecrets, map[string]health.Status{"not opened yet": health.Healthy, "no key fits": health.Healthy}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, r := range tc.suite.rows {
				want, differs := tc.differ[r.reason]
				if !differs {
					want = r.want
				}
				got, ok := health.Options{Kstatus: true}.Judge(object(t, tc.suite.head+r.fields))
				if !ok || got.Status != want {
					t.Errorf("%s: want %s, got %+v", r.reason, want, got)
				}
				delete(tc.differ, r.reason)
			}
			for reason := range tc.differ {
				t.Errorf("there is no case %q", reason)
			}
		})
	}
}
