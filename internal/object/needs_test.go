package object

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What the cases below are made of.
const (
	storeDoc   = "{apiVersion: external-secrets.io/v1, kind: SecretStore, metadata: {namespace: a, name: store}, spec: {provider: {vault: {server: 'https://vault.example.org'}}}}"
	dbDoc      = "{apiVersion: external-secrets.io/v1, kind: ExternalSecret, metadata: {namespace: a, name: db}, spec: {secretStoreRef: {name: store}, target: {name: db-login}}}"
	ownDoc     = "{apiVersion: external-secrets.io/v1beta1, kind: ExternalSecret, metadata: {namespace: a, name: own}, spec: {secretStoreRef: {name: store}}}"
	sealedDoc  = "{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {namespace: a, name: sealed}, spec: {encryptedData: {}}}"
	serviceDoc = "{apiVersion: v1, kind: Service, metadata: {namespace: a, name: vault}, spec: {selector: {app: web}}}"
)

// deploy is a Deployment a/web whose Pods have spec.
func deploy(spec string) string {
	return "{apiVersion: apps/v1, kind: Deployment, metadata: {namespace: a, name: web}, spec: {template: {metadata: {labels: {app: web, tier: x}}, spec: " + spec + "}}}"
}

// mounts is the specification of Pods that need the Secret of a name.
func mounts(name string) string { return "{volumes: [{secret: {secretName: " + name + "}}]}" }

func parseAll(t *testing.T, docs []string) []Object {
	t.Helper()
	var objects []Object
	for _, doc := range docs {
		objects = append(objects, Object{Unstructured: *parse(t, doc)})
	}
	return objects
}

// told renders needs: who needs which Secret of whom, in which field, and through what
// its maker needs it.
func told(all map[ID][]Need) string {
	var b strings.Builder
	for _, id := range slices.SortedFunc(maps.Keys(all), Compare) {
		for _, n := range all[id] {
			fmt.Fprintf(&b, "%s/%s: %s/%s of %s %s", id.Kind, id.Name, n.Secret.Namespace, n.Secret.Name, n.Maker.Kind, n.Maker.Name)
			if n.Through != (ID{}) {
				fmt.Fprintf(&b, " through %s %s", n.Through.Kind, n.Through.Name)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func TestNeeds(t *testing.T) {
	const one = "Deployment/web: a/db-login of ExternalSecret db\n"
	tests := map[string]struct {
		reason string
		docs   []string
		want   string
	}{
		"nobody makes it": {reason: "what nobody here makes is not waited for", docs: []string{deploy(mounts("elsewhere"))}},
		"others are made": {reason: "nor beside one that is made", docs: []string{dbDoc, deploy(mounts("elsewhere"))}},
		"target":          {reason: "a target may have its own name", docs: []string{storeDoc, dbDoc, deploy(mounts("db-login"))}, want: one},
		"own name":        {reason: "or that of the ExternalSecret", docs: []string{ownDoc, deploy(mounts("own"))}, want: "Deployment/web: a/own of ExternalSecret own\n"},
		"not its name":    {reason: "but not both", docs: []string{dbDoc, deploy(mounts("db"))}},
		"other namespace": {reason: "Secrets stay in their namespace", docs: []string{strings.Replace(dbDoc, "namespace: a", "namespace: b", 1), deploy(mounts("db-login"))}},
		"sealed":          {reason: "a SealedSecret is opened under its name", docs: []string{sealedDoc, deploy(mounts("sealed"))}, want: "Deployment/web: a/sealed of SealedSecret sealed\n"},
		"opened here": {
			reason: "a Secret that is itself delivered is there in time",
			docs:   []string{sealedDoc, "{apiVersion: v1, kind: Secret, metadata: {namespace: a, name: sealed}}", deploy(mounts("sealed"))},
		},
		"merge":  {reason: "Merge fills what others make", docs: []string{strings.Replace(dbDoc, "target: {", "target: {creationPolicy: Merge, ", 1), deploy(mounts("db-login"))}},
		"none":   {reason: "None makes nothing", docs: []string{strings.Replace(dbDoc, "target: {", "target: {creationPolicy: None, ", 1), deploy(mounts("db-login"))}},
		"orphan": {reason: "Orphan makes one", docs: []string{strings.Replace(dbDoc, "target: {", "target: {creationPolicy: Orphan, ", 1), deploy(mounts("db-login"))}, want: one},
		"manifest": {
			reason: "one that makes a ConfigMap makes no Secret",
			docs:   []string{strings.Replace(dbDoc, "target: {", "target: {manifest: {apiVersion: v1, kind: ConfigMap}, ", 1), deploy(mounts("db-login"))},
		},
		"optional": {
			reason: "what is optional is not needed",
			docs: []string{dbDoc, deploy("{volumes: [{secret: {secretName: db-login, optional: true}}, {projected: {sources: [{secret: {name: db-login, optional: true}}]}}], " +
				"containers: [{envFrom: [{secretRef: {name: db-login, optional: true}}], env: [{valueFrom: {secretKeyRef: {name: db-login, key: k, optional: true}}}]}]}")},
		},
		"not optional elsewhere": {
			reason: "unless another place needs it",
			docs:   []string{dbDoc, deploy("{volumes: [{secret: {secretName: db-login, optional: true}}], containers: [{envFrom: [{secretRef: {name: db-login, optional: false}}]}]}")},
			want:   one,
		},
		"env":        {reason: "a variable", docs: []string{dbDoc, deploy("{containers: [{env: [{name: A, value: b}, {name: K, valueFrom: {secretKeyRef: {name: db-login, key: k}}}]}]}")}, want: one},
		"env from":   {reason: "all variables", docs: []string{dbDoc, deploy("{initContainers: [{envFrom: [{configMapRef: {name: db-login}}, {secretRef: {name: db-login}}]}]}")}, want: one},
		"config map": {reason: "a ConfigMap of the name is another thing", docs: []string{dbDoc, deploy("{containers: [{envFrom: [{configMapRef: {name: db-login}}]}], volumes: [{configMap: {name: db-login}}]}")}},
		"projected":  {reason: "a projected volume", docs: []string{dbDoc, deploy("{volumes: [{projected: {sources: [{configMap: {name: x}}, {secret: {name: db-login}}]}}]}")}, want: one},
		"driver":     {reason: "a volume's driver", docs: []string{dbDoc, deploy("{volumes: [{csi: {driver: d, nodePublishSecretRef: {name: db-login}}}]}")}, want: one},
		"pull":       {reason: "images are pulled with it", docs: []string{dbDoc, deploy("{imagePullSecrets: [{name: other}, {name: db-login}]}")}, want: one},
		"account": {
			reason: "also by way of the ServiceAccount",
			docs:   []string{dbDoc, "{apiVersion: v1, kind: ServiceAccount, metadata: {namespace: a, name: runner}, imagePullSecrets: [{name: db-login}]}", deploy("{serviceAccountName: runner}")},
			want:   one,
		},
		"default account": {
			reason: "which is one of a fixed name where none is given",
			docs:   []string{dbDoc, "{apiVersion: v1, kind: ServiceAccount, metadata: {namespace: a, name: default}, imagePullSecrets: [{name: db-login}]}", deploy("{containers: []}")},
			want:   one,
		},
		"account overruled": {
			reason: "Pods with pull secrets of their own do not get those of the account",
			docs:   []string{dbDoc, "{apiVersion: v1, kind: ServiceAccount, metadata: {namespace: a, name: runner}, imagePullSecrets: [{name: db-login}]}", deploy("{serviceAccount: runner, imagePullSecrets: [{name: other}]}")},
		},
		"kinds": {
			reason: "whatever runs Pods, and nothing else",
			docs: []string{
				ownDoc,
				"{apiVersion: v1, kind: Pod, metadata: {namespace: a, name: pod}, spec: " + mounts("own") + "}",
				"{apiVersion: v1, kind: PodTemplate, metadata: {namespace: a, name: template}, template: {spec: " + mounts("own") + "}}",
				"{apiVersion: batch/v1, kind: Job, metadata: {namespace: a, name: job}, spec: {template: {spec: " + mounts("own") + "}}}",
				"{apiVersion: batch/v1, kind: CronJob, metadata: {namespace: a, name: cron}, spec: {jobTemplate: {spec: {template: {spec: " + mounts("own") + "}}}}}",
				"{apiVersion: apps/v1, kind: StatefulSet, metadata: {namespace: a, name: set}, spec: {template: {spec: " + mounts("own") + "}}}",
				"{apiVersion: apps/v1, kind: DaemonSet, metadata: {namespace: a, name: daemon}, spec: {template: {spec: " + mounts("own") + "}}}",
				"{apiVersion: v1, kind: ConfigMap, metadata: {namespace: a, name: config}, spec: " + mounts("own") + "}",
			},
			want: "Pod/pod: a/own of ExternalSecret own\nDaemonSet/daemon: a/own of ExternalSecret own\nStatefulSet/set: a/own of ExternalSecret own\n" +
				"CronJob/cron: a/own of ExternalSecret own\nJob/job: a/own of ExternalSecret own\n",
		},
		"named namespaces": {
			reason: "a ClusterExternalSecret makes one in each namespace that it names",
			docs: []string{
				"{apiVersion: external-secrets.io/v1, kind: ClusterExternalSecret, metadata: {name: c}, spec: {namespaces: [a, b], externalSecretName: es, externalSecretSpec: {secretStoreRef: {name: store}}}}",
				deploy(mounts("es")),
			},
			want: "Deployment/web: a/es of ClusterExternalSecret c\n",
		},
		"selected namespaces": {
			reason: "and in those that it selects among the delivery's own, whose labels are known",
			docs: []string{
				"{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {team: x}}}",
				"{apiVersion: external-secrets.io/v1, kind: ClusterExternalSecret, metadata: {name: c}, spec: {namespaceSelectors: [{matchLabels: {team: x}}], externalSecretSpec: {target: {name: t}}}}",
				deploy(mounts("t")),
			},
			want: "Deployment/web: a/t of ClusterExternalSecret c\n",
		},
		"unknown namespaces": {
			reason: "of a namespace that is not delivered nobody knows the labels",
			docs: []string{
				"{apiVersion: external-secrets.io/v1, kind: ClusterExternalSecret, metadata: {name: c}, spec: {namespaceSelectors: [{matchLabels: {team: x}}], externalSecretSpec: {target: {name: t}}}}",
				deploy(mounts("t")),
			},
		},
		"odd": {
			reason: "what has another form is left to the API server",
			docs: []string{
				"{apiVersion: external-secrets.io/v1, kind: ExternalSecret, metadata: {namespace: a, name: odd}, spec: text}",
				"{apiVersion: external-secrets.io/v1, kind: ClusterExternalSecret, metadata: {name: c}, spec: {namespaces: a, namespaceSelector: 7, namespaceSelectors: [x]}}",
				deploy("{volumes: text, containers: [7, {env: {a: b}}], imagePullSecrets: [{name: 7}]}"),
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, told(Needs(parseAll(t, tt.docs)))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func TestNeedsInCircles(t *testing.T) {
	at := func(address string) string { return strings.Replace(storeDoc, "https://vault.example.org", address, 1) }
	const through = "Deployment/web: a/db-login of ExternalSecret db through SecretStore store\n"
	tests := map[string]struct {
		reason string
		docs   []string
		want   string
	}{
		"elsewhere":      {"a provider outside of the delivery needs nothing of it", []string{storeDoc, serviceDoc, dbDoc, deploy(mounts("db-login"))}, strings.TrimSuffix(through, " through SecretStore store\n") + "\n"},
		"full name":      {"the store asks the workload itself", []string{at("http://vault.a.svc.cluster.local:8200"), serviceDoc, dbDoc, deploy(mounts("db-login"))}, through},
		"short name":     {"within the namespace", []string{at("http://vault:8200"), serviceDoc, dbDoc, deploy(mounts("db-login"))}, through},
		"without scheme": {"as host and port", []string{at("vault.a.svc:8200"), serviceDoc, dbDoc, deploy(mounts("db-login"))}, through},
		"a word":         {"a word that is also a Service's name is no address", []string{at("vault"), serviceDoc, dbDoc, deploy(mounts("db-login"))}, strings.TrimSuffix(through, " through SecretStore store\n") + "\n"},
		"another workload": {
			"a Service of others leads to others",
			[]string{at("http://vault:8200"), strings.Replace(serviceDoc, "app: web", "app: other", 1), dbDoc, deploy(mounts("db-login"))},
			strings.TrimSuffix(through, " through SecretStore store\n") + "\n",
		},
		"login of the store": {
			"the Secret that the store is authorised with is made by way of the workload",
			[]string{
				"{apiVersion: external-secrets.io/v1, kind: SecretStore, metadata: {namespace: a, name: store}, spec: {provider: {vault: {auth: {tokenSecretRef: {name: own, key: t}}}}}}",
				"{apiVersion: external-secrets.io/v1, kind: SecretStore, metadata: {namespace: a, name: first}, spec: {provider: {webhook: {url: 'http://vault.a.svc/x'}}}}",
				strings.Replace(ownDoc, "name: store", "name: first", 1), serviceDoc, dbDoc, deploy(mounts("db-login")),
			},
			through,
		},
		"two that wait for each other": {
			"both go on",
			[]string{
				at("http://other.a.svc"), dbDoc, deploy(mounts("db-login")),
				"{apiVersion: v1, kind: Service, metadata: {namespace: a, name: other}, spec: {selector: {app: other}}}",
				"{apiVersion: apps/v1, kind: StatefulSet, metadata: {namespace: a, name: other}, spec: {template: {metadata: {labels: {app: other}}, spec: " + mounts("own") + "}}}",
				"{apiVersion: external-secrets.io/v1, kind: ClusterSecretStore, metadata: {name: back}, spec: {provider: {vault: {server: 'http://vault.a'}}}}",
				strings.Replace(ownDoc, "name: store", "name: back, kind: ClusterSecretStore", 1), serviceDoc,
			},
			through + "StatefulSet/other: a/own of ExternalSecret own through ClusterSecretStore back\n",
		},
		"generator": {
			"a generator may ask the workload, too",
			[]string{
				"{apiVersion: generators.external-secrets.io/v1alpha1, kind: Webhook, metadata: {namespace: a, name: gen}, spec: {url: 'https://vault.a.svc/token'}}", serviceDoc,
				"{apiVersion: external-secrets.io/v1, kind: ExternalSecret, metadata: {namespace: a, name: db}, spec: {target: {name: db-login}, dataFrom: [{sourceRef: {generatorRef: {kind: Webhook, name: gen}}}]}}",
				deploy(mounts("db-login")),
			},
			"Deployment/web: a/db-login of ExternalSecret db through Webhook gen\n",
		},
		"the operator itself": {
			"who makes the Secret cannot wait for it",
			[]string{storeDoc, dbDoc, deploy("{imagePullSecrets: [{name: db-login}], containers: [{image: 'registry.example.org/external-secrets/external-secrets:v1'}]}")},
			"Deployment/web: a/db-login of ExternalSecret db through Deployment web\n",
		},
		"the other operator": {
			"nor who opens it",
			[]string{sealedDoc, deploy("{imagePullSecrets: [{name: sealed}], containers: [{image: 'docker.io/bitnami/sealed-secrets-controller:0.38.4'}]}")},
			"Deployment/web: a/sealed of SealedSecret sealed through Deployment web\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, told(Needs(parseAll(t, tt.docs)))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

// A tenant may write a set in which everything leads everywhere.
func TestNeedsAreBounded(t *testing.T) {
	const n = 400
	var addresses []string
	docs := []string{ownDoc}
	for i := range n {
		addresses = append(addresses, fmt.Sprintf("'http://s%d.a.svc'", i))
		docs = append(docs, fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {namespace: a, name: s%d}, spec: {selector: {app: web}}}", i),
			strings.Replace(deploy(mounts("own")), "name: web", fmt.Sprintf("name: web%d", i), 1))
	}
	docs = append(docs, "{apiVersion: external-secrets.io/v1, kind: SecretStore, metadata: {namespace: a, name: store}, spec: {urls: ["+strings.Join(addresses, ", ")+"]}}")
	objects := parseAll(t, docs)
	start := time.Now()
	if got := len(Needs(objects)); got != n {
		t.Errorf("%d objects have needs, want %d", got, n)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestOrderOfWhatMakesSecrets(t *testing.T) {
	ids := []ID{
		{Group: "apps", Kind: "Deployment", Name: "web"},
		{Group: external, Kind: "PushSecret", Name: "p"},
		{Group: external, Kind: "ExternalSecret", Name: "e"},
		{Group: external, Kind: "ClusterSecretStore", Name: "c"},
		{Group: generators, Kind: "Grafana", Name: "g"},
		{Group: "grafana.integreatly.org", Kind: "Grafana", Name: "dashboard"},
		{Kind: "Secret", Name: "s"},
		{Kind: "ServiceAccount", Name: "a"},
		{Group: bitnami, Kind: "SealedSecret", Name: "x"},
		{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding", Name: "r"},
		{Group: external, Kind: "SecretStore", Name: "t"},
	}
	slices.SortFunc(ids, CompareRank)
	var got []string
	for _, id := range ids {
		got = append(got, fmt.Sprintf("%s %d", id.Name, Step(id)))
	}
	want := []string{"a 0", "x 1", "s 0", "r 0", "t 2", "g 2", "c 2", "e 3", "p 3", "web 0", "dashboard 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order and steps (-want +got):\n%s", diff)
	}
}
