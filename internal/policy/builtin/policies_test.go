package builtin

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pinned is a digest.
var pinned = "@sha256:" + strings.Repeat("0a", 32)

// policyRow is objects before one policy.
type policyRow struct {
	policy, parameters, objects string
	want                        []string // kind/name: rule path
	reason                      string
}

// podWith is a Pod, p in namespace team, with a specification.
func podWith(spec string) string {
	return "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: team}, spec: {" + spec + "}}"
}

// image is a Pod with one container of an image.
func image(name string) string { return podWith(`containers: [{name: c, image: "` + name + `"}]`) }

// resources is a Pod with one container of what it asks for.
func resources(text string) string {
	return podWith(`containers: [{name: c, resources: {` + text + `}}]`)
}

func networkPolicy(spec string) string {
	return "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: team}, spec: {" + spec + "}}"
}

// from is a NetworkPolicy whose only rule lets in what peers says.
func from(peers string) string {
	return networkPolicy("podSelector: {}, ingress: [{from: [" + peers + "]}]")
}

func loadBalancer(rest string) string {
	return "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team}, spec: {type: LoadBalancer" + rest + "}}"
}

func role(rule string) string {
	return "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: team}, rules: [{" + rule + "}]}"
}

func clusterRole(rest string) string {
	return "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: r}, " + rest + "}"
}

func binding(kind, ref, subjects string) string {
	return "{apiVersion: rbac.authorization.k8s.io/v1, kind: " + kind + ", metadata: {name: b, namespace: team}, roleRef: {apiGroup: rbac.authorization.k8s.io, " + ref + "}, subjects: [" + subjects + "]}"
}

func namespace(name string) string {
	return "{apiVersion: v1, kind: Namespace, metadata: {name: " + name + "}}"
}

func join(documents ...string) string { return strings.Join(documents, "\n---\n") }

const cidr = "NetworkPolicy/np: network-policy spec.ingress[0].from[0].ipBlock.cidr"

var policyRows = []policyRow{
	// https://kubernetes.io/docs/concepts/containers/images/#image-names
	{"no-latest-tag", "", image("app"), []string{"Pod/p: tag spec.containers[0].image"}, "without a tag latest is meant"},
	{"no-latest-tag", "", image("app:latest"), []string{"Pod/p: tag spec.containers[0].image"}, "latest"},
	{"no-latest-tag", "", image("registry.example.org:5000/app"), []string{"Pod/p: tag spec.containers[0].image"}, "what stands behind the host's colon is a port"},
	{"no-latest-tag", "", image("registry.example.org:5000/app:v1"), nil, "a version"},
	{"no-latest-tag", "", image("app:latest" + pinned), nil, "the digest is what counts"},
	{"no-latest-tag", "", image("app" + pinned), nil, "a digest"},
	{"no-latest-tag", "", image(""), []string{"Pod/p: name spec.containers[0].image"}, "nobody can tell what runs"},
	{"no-latest-tag", "", image("App:1"), []string{"Pod/p: name spec.containers[0].image"}, "no runtime reads this name"},
	{"no-latest-tag", "", podWith(`initContainers: [{name: i, image: i}], containers: [{name: c, image: "c:1"}], volumes: [{name: v, image: {reference: "data:latest"}}]`), []string{
		"Pod/p: tag spec.initContainers[0].image", "Pod/p: tag spec.volumes[0].image.reference",
	}, "wherever images are named"},
	{"no-latest-tag", "{tags: [latest, main, dev-*]}", join(image("a:dev-7"), image("a:main"), image("a:1")), []string{"Pod/p: tag spec.containers[0].image", "Pod/p: tag spec.containers[0].image"}, "other tags that move"},
	{"no-latest-tag", "{exemptImages: [auto]}", image("auto"), nil, "what a mesh puts in the place of its word"},
	{"no-latest-tag", "", "{apiVersion: tekton.dev/v1, kind: Task, metadata: {name: t, namespace: team}, spec: {steps: [{name: a, image: 'a:1'}, {name: b, image: 'b:latest'}]}}", []string{
		"Task/t: tag spec.steps[1].image",
	}, "custom resources name images, too"},
	{"no-latest-tag", "", "{apiVersion: batch/v1, kind: CronJob, metadata: {name: j, namespace: team}, spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: c}]}}}}}}", []string{
		"CronJob/j: tag spec.jobTemplate.spec.template.spec.containers[0].image",
	}, "told of the maker, at its field, once"},
	{"image-digests", "", image("app:v1"), []string{"Pod/p: digest spec.containers[0].image"}, "a tag moves"},
	{"image-digests", "", image("app:v1" + pinned), nil, "a digest"},
	{"image-digests", "", image("app@sha256:0a"), []string{"Pod/p: name spec.containers[0].image"}, "half a digest is none"},
	{"image-digests", "{exemptImages: [registry.example.org/team/**]}", image("registry.example.org/team/app:v1"), nil, "exempt"},
	{"allowed-images", "{images: [registry.example.org]}", image("registry.example.org/app:1"), nil, "from where it may come"},
	{"allowed-images", "{images: [registry.example.org]}", image("app:1"), []string{"Pod/p: registry spec.containers[0].image"}, "from Docker Hub"},
	{"allowed-images", "{images: [registry.example.org]}", image("registry.example.org.evil.example/app:1"), []string{"Pod/p: registry spec.containers[0].image"}, "another host"},

	// https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
	{"resource-limits", "", resources("limits: {memory: 1Gi}, requests: {cpu: 100m}"), nil, "a limit of memory is a request for it; CPU needs no limit"},
	{"resource-limits", "", resources("limits: {memory: 1073741824}, requests: {cpu: 0.5}"), nil, "numbers are quantities"},
	{"resource-limits", "", resources(""), []string{
		"Pod/p: limits spec.containers[0].resources.limits.memory", "Pod/p: requests spec.containers[0].resources.requests.cpu", "Pod/p: requests spec.containers[0].resources.requests.memory",
	}, "nothing is said"},
	{"resource-limits", "", resources("limits: {memory: 0}, requests: {cpu: 1, memory: 1Gi}"), []string{"Pod/p: limits spec.containers[0].resources.limits.memory"}, "a limit of 0 limits nothing"},
	{"resource-limits", "", resources("limits: {cpu: 1}"), []string{
		"Pod/p: limits spec.containers[0].resources.limits.memory", "Pod/p: requests spec.containers[0].resources.requests.memory",
	}, "a limit of CPU does not bound memory"},
	{"resource-limits", "{limits: [cpu, memory], requests: []}", resources("limits: {memory: 1Gi}"), []string{"Pod/p: limits spec.containers[0].resources.limits.cpu"}, "CPU by parameter, as the guide's policy asks"},
	{"resource-limits", "{max: {memory: 2Gi}}", resources("limits: {memory: 4Gi}, requests: {cpu: 1}"), []string{"Pod/p: max spec.containers[0].resources.limits.memory"}, "more than may be"},
	{"resource-limits", "{max: {memory: 4Gi}}", resources("limits: {memory: 4096Mi}, requests: {cpu: 1}"), nil, "as much as may be"},
	{"resource-limits", "", podWith("resources: {limits: {memory: 1Gi}, requests: {cpu: 1}}, containers: [{name: c}]"), nil, "the Pod's own resources hold for its containers"},
	{"resource-limits", "", podWith("initContainers: [{name: i}], containers: [{name: c, resources: {limits: {memory: 1Gi, cpu: 1}}}], ephemeralContainers: [{name: d}]"), []string{
		"Pod/p: limits spec.initContainers[0].resources.limits.memory", "Pod/p: requests spec.initContainers[0].resources.requests.cpu", "Pod/p: requests spec.initContainers[0].resources.requests.memory",
	}, "those that initialise have limits, those for debugging cannot"},

	// https://kubernetes.io/docs/concepts/services-networking/network-policies/
	{"no-public-ingress", "", from("{ipBlock: {cidr: 0.0.0.0/0}}"), []string{cidr}, "the guide's tale: a line that was copied"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: '::/0'}}"), []string{cidr}, "IPv6 is the Internet, too"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 0.0.0.0/1}}, {ipBlock: {cidr: 128.0.0.0/1}}"), []string{
		cidr, "NetworkPolicy/np: network-policy spec.ingress[0].from[1].ipBlock.cidr",
	}, "two halves are the whole"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: '::/1'}}, {ipBlock: {cidr: '8000::/1'}}"), []string{
		cidr, "NetworkPolicy/np: network-policy spec.ingress[0].from[1].ipBlock.cidr",
	}, "of IPv6, too"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}"), []string{cidr}, "what is excepted is not the Internet"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 192.0.0.0/8, except: [192.0.0.0/9, 192.128.0.0/11, 192.160.0.0/13, 192.169.0.0/16, 192.170.0.0/15, 192.172.0.0/14, 192.176.0.0/12, 192.192.0.0/10]}}"), nil, "what is left is private"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 1.2.3.4/0}}"), []string{cidr}, "bits beyond the block do not count"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: '::ffff:0.0.0.0/96'}}"), []string{cidr}, "IPv4 in another dress"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 000.0.0.0/0}}"), []string{cidr}, "what cannot be read may let in anybody"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 192.168.1.0/24}}, {ipBlock: {cidr: 'fd00::/8'}}, {ipBlock: {cidr: 100.64.0.0/10}}"), nil, "private addresses"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 172.16.0.0/11}}"), []string{cidr}, "one bit more than is private"},
	{"no-public-ingress", "", from("{ipBlock: {cidr: 203.0.113.0/24}}"), []string{cidr}, "a public block must be listed"},
	{"no-public-ingress", "{allow: [203.0.113.0/24, 2001:db8::/32]}", from("{ipBlock: {cidr: 203.0.113.0/25}}, {ipBlock: {cidr: '2001:db8:1::/48'}}"), nil, "listed"},
	{"no-public-ingress", "{allow: [203.0.113.0/25]}", from("{ipBlock: {cidr: 203.0.113.0/24}}"), []string{cidr}, "half of it is listed"},
	{"no-public-ingress", "", networkPolicy("podSelector: {}, ingress: [{ports: [{port: 80}]}]"), []string{"NetworkPolicy/np: network-policy spec.ingress[0].from"}, "no from is every source"},
	{"no-public-ingress", "", networkPolicy("podSelector: {}, ingress: [{}]"), []string{"NetworkPolicy/np: network-policy spec.ingress[0].from"}, "an empty rule is every source"},
	{"no-public-ingress", "", networkPolicy("podSelector: {}, ingress: [], policyTypes: [Ingress]"), nil, "no rule is nobody"},
	{"no-public-ingress", "", from("{namespaceSelector: {}}"), nil, "whatever is in the cluster"},
	{"no-public-ingress", "", networkPolicy("podSelector: {}, policyTypes: [Egress], ingress: [{}], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]"), nil, "only what goes out is ruled"},
	{"no-public-ingress", "{exemptNamespaces: [team]}", from("{ipBlock: {cidr: 0.0.0.0/0}}"), nil, "exempt"},
	{"no-public-ingress", "", loadBalancer(""), []string{"Service/s: load-balancer spec.loadBalancerSourceRanges"}, "open to all"},
	{"no-public-ingress", "", loadBalancer(", loadBalancerSourceRanges: [10.0.0.0/8, 0.0.0.0/0]"), []string{"Service/s: load-balancer spec.loadBalancerSourceRanges[1]"}, "one of them is open to all"},
	{"no-public-ingress", "", loadBalancer(", loadBalancerSourceRanges: [' 10.0.0.0/8']"), nil, "private; API servers trim blanks"},
	{"no-public-ingress", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: '10.0.0.0/8, 192.168.0.0/16'}}, spec: {type: LoadBalancer}}", nil, "the annotation counts where the field is empty"},
	{"no-public-ingress", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: '0.0.0.0/0'}}, spec: {type: LoadBalancer}}", []string{
		"Service/s: load-balancer metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]",
	}, "and may be open to all"},
	{"no-public-ingress", "{internalAnnotations: {networking.gke.io/load-balancer-type: Internal}}", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team, annotations: {networking.gke.io/load-balancer-type: Internal}}, spec: {type: LoadBalancer}}", nil, "gets no public address, somebody says"},
	{"no-public-ingress", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team, annotations: {networking.gke.io/load-balancer-type: Internal}}, spec: {type: LoadBalancer}}", []string{"Service/s: load-balancer spec.loadBalancerSourceRanges"}, "on another provider the annotation means nothing"},
	{"no-public-ingress", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team}, spec: {type: NodePort}}\n---\n{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: team}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}", nil, "an Ingress publishes on purpose"},
	{"no-external-ips", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team}, spec: {externalIPs: [198.51.100.1]}}", []string{"Service/s: spec.externalIPs"}, "CVE-2020-8554"},
	{"no-external-ips", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team}, spec: {externalName: a.example.org}}", nil, "a name is none"},

	// https://kubernetes.io/docs/concepts/services-networking/network-policies/#default-policies
	{"namespace-network-policy", "", namespace("team"), []string{"Namespace/team: metadata.name"}, "nothing isolates it"},
	{"namespace-network-policy", "", join(namespace("team"), networkPolicy("podSelector: {}, policyTypes: [Ingress]")), nil, "the page's default deny of ingress"},
	{"namespace-network-policy", "", join(namespace("team"), networkPolicy("podSelector: {}, ingress: [{}], policyTypes: [Ingress]")), []string{"Namespace/team: metadata.name"}, "the page's allow all"},
	{"namespace-network-policy", "", join(namespace("team"), networkPolicy("podSelector: {}, policyTypes: [Ingress]"), networkPolicy("podSelector: {}, ingress: [{}]")), []string{"Namespace/team: metadata.name"}, "policies add up: one of them lets everybody in"},
	{"namespace-network-policy", "", join(namespace("team"), networkPolicy("podSelector: {}, ingress: [{from: [{podSelector: {}}]}]")), nil, "only the namespace's own Pods"},
	{"namespace-network-policy", "", join(namespace("team"), networkPolicy("podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]")), []string{"Namespace/team: metadata.name"}, "of some Pods only"},
	{"namespace-network-policy", "", join(namespace("other"), networkPolicy("podSelector: {}, policyTypes: [Ingress]")), []string{"Namespace/other: metadata.name"}, "of another namespace"},
	{"namespace-network-policy", "", image("a:1"), []string{"Pod/p: metadata.namespace"}, "the namespace is not in the delivery, and its Pods are"},
	{"namespace-network-policy", "", join(image("a:1"), networkPolicy("podSelector: {}, policyTypes: [Ingress]")), nil, "the policy is"},
	{"namespace-network-policy", "", join(image("a:1"), namespace("team")), []string{"Namespace/team: metadata.name"}, "told once, of the namespace"},
	{"namespace-network-policy", "{egress: true}", join(namespace("team"), networkPolicy("podSelector: {}, policyTypes: [Ingress]")), []string{"Namespace/team: metadata.name"}, "what goes out, by parameter"},
	{"namespace-network-policy", "{egress: true}", join(namespace("team"), networkPolicy("podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: 53}]}]")), nil, "DNS alone does not open it"},
	{"namespace-network-policy", "{egress: true}", join(namespace("team"), networkPolicy("podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]")), []string{"Namespace/team: metadata.name"}, "to everybody"},
	{"namespace-network-policy", "{exemptNamespaces: ['te?m']}", namespace("team"), nil, "exempt"},
	{"namespace-network-policy", "", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: team}}", nil, "nothing runs there"},

	// https://kubernetes.io/docs/concepts/security/rbac-good-practices/
	{"no-wildcard-rbac", "", role("apiGroups: [''], resources: [pods], verbs: ['*']"), []string{"Role/r: wildcard rules[0].verbs[0]"}, "every verb"},
	{"no-wildcard-rbac", "", role("apiGroups: ['*'], resources: [get, '*'], verbs: [get]"), []string{"Role/r: wildcard rules[0].apiGroups[0]", "Role/r: wildcard rules[0].resources[1]"}, "every resource of every group"},
	{"no-wildcard-rbac", "", role("apiGroups: [apps], resources: ['*/scale'], verbs: [get]"), []string{"Role/r: wildcard rules[0].resources[0]"}, "a subresource of every resource"},
	{"no-wildcard-rbac", "", clusterRole("rules: [{nonResourceURLs: ['*'], verbs: [get]}, {nonResourceURLs: [/healthz/*], verbs: [get]}]"), []string{"ClusterRole/r: wildcard rules[0].nonResourceURLs[0]"}, "every path; not those below one"},
	{"no-wildcard-rbac", "", role("apiGroups: [''], resources: [pods, pods/log], verbs: [get, list, watch]"), nil, "named one by one"},
	{"no-wildcard-rbac", "{wildcards: [resources]}", role("apiGroups: [''], resources: [pods], verbs: ['*']"), nil, "by parameter"},
	{"no-wildcard-rbac", "", clusterRole("rules: [{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], verbs: [escalate, get]}]"), []string{"ClusterRole/r: escalation rules[0].verbs[0]"}, "escalate verb"},
	{"no-wildcard-rbac", "", clusterRole("rules: [{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], resourceNames: [view], verbs: [bind]}]"), []string{"ClusterRole/r: escalation rules[0].verbs[0]"}, "bind verb"},
	{"no-wildcard-rbac", "", clusterRole("rules: [{apiGroups: [''], resources: [users], verbs: [impersonate]}]"), []string{"ClusterRole/r: escalation rules[0].verbs[0]"}, "impersonate verb"},
	{"no-wildcard-rbac", "", role("apiGroups: [''], resources: [serviceaccounts/token], verbs: [create]"), []string{"Role/r: escalation rules[0].resources[0]"}, "token request"},
	{"no-wildcard-rbac", "", role("apiGroups: [''], resources: [serviceaccounts], verbs: [create]"), nil, "an account is no token"},
	{"no-wildcard-rbac", "", role("apiGroups: [''], resources: [pods/exec], verbs: [create]"), nil, "by parameter only"},
	{"no-wildcard-rbac", "{podsExec: true}", role("apiGroups: [''], resources: [pods/exec], verbs: [get]"), []string{"Role/r: exec rules[0].resources[0]"}, "a websocket is opened by get"},
	{"no-wildcard-rbac", "", clusterRole("aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}, {}]}, rules: []"), []string{"ClusterRole/r: wildcard aggregationRule.clusterRoleSelectors[1]"}, "every role there is"},
	{"no-wildcard-rbac", "", binding("ClusterRoleBinding", "kind: ClusterRole, name: cluster-admin", "{kind: ServiceAccount, name: a, namespace: team}"), []string{"ClusterRoleBinding/b: binding roleRef.name"}, "cluster-admin"},
	{"no-wildcard-rbac", "", binding("RoleBinding", "kind: ClusterRole, name: cluster-admin", "{kind: ServiceAccount, name: a, namespace: team}"), []string{"RoleBinding/b: binding roleRef.name"}, "in one namespace, too"},
	{"no-wildcard-rbac", "", binding("RoleBinding", "kind: ClusterRole, name: view", "{kind: Group, name: 'system:masters'}, {kind: User, name: 'system:anonymous'}, {kind: Group, name: devs}"), []string{
		"RoleBinding/b: binding subjects[0].name", "RoleBinding/b: binding subjects[1].name",
	}, "those who have all rights, and those who are nobody"},
	{"no-wildcard-rbac", "{roles: [cluster-admin, admin]}", binding("RoleBinding", "kind: ClusterRole, name: admin", ""), []string{"RoleBinding/b: binding roleRef.name"}, "by parameter"},

	// https://kubernetes.io/docs/concepts/storage/volumes/#hostpath
	{"no-host-mounts", "", podWith("volumes: [{name: a, emptyDir: {}}, {name: b, hostPath: {path: /var/run/docker.sock}}], containers: []"), []string{"Pod/p: hostPath spec.volumes[1].hostPath"}, "the node's own"},
	{"no-host-mounts", "{allowPaths: [/var/log]}", podWith("volumes: [{name: a, hostPath: {path: /var/log/pods}}, {name: b, hostPath: {path: /var/logs}}, {name: c, hostPath: {path: /var/log/../lib}}], containers: []"), []string{
		"Pod/p: hostPath spec.volumes[1].hostPath", "Pod/p: hostPath spec.volumes[2].hostPath",
	}, "below the directory, not beside it"},
	{"no-host-mounts", "", "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {hostPath: {path: /}}}", []string{"PersistentVolume/v: hostPath spec.hostPath"}, "a volume is a way round"},
	{"no-host-mounts", "", "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {local: {path: /mnt}}}", nil, "by parameter only"},
	{"no-host-mounts", "{also: [local]}", "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {local: {path: /mnt}}}", []string{"PersistentVolume/v: local spec.local"}, "a disk of a node"},
	{"no-host-mounts", "", podWith("hostNetwork: true, hostPID: true, hostIPC: true, containers: [{name: c, ports: [{containerPort: 1, hostPort: 1}]}]"), nil, "by parameter only"},
	{"no-host-mounts", "{also: [hostNetwork, hostPID, hostIPC, hostPorts]}", podWith("hostNetwork: true, hostPID: true, hostIPC: true, containers: [{name: c, ports: [{containerPort: 1, hostPort: 1}]}]"), []string{
		"Pod/p: hostIPC spec.hostIPC", "Pod/p: hostNetwork spec.hostNetwork", "Pod/p: hostPID spec.hostPID", "Pod/p: hostPorts spec.containers[0].ports[0].hostPort",
	}, "all of what is shared"},

	{"no-privileged", "", podWith("containers: [{name: c, securityContext: {privileged: true}}, {name: d, securityContext: {privileged: false}}, {name: e}]"), []string{"Pod/p: spec.containers[0].securityContext.privileged"}, "the guide's policy"},
	{"no-privileged", "", podWith("containers: [{name: c}]"), nil, "the default is false"},
	{"run-as-non-root", "", podWith("containers: [{name: c}]"), []string{"Pod/p: spec.containers[0].securityContext.runAsNonRoot"}, "the image may say root"},
	{"run-as-non-root", "", podWith("securityContext: {runAsNonRoot: true}, containers: [{name: c}]"), nil, "the Pod says so"},
	{"run-as-non-root", "", podWith("securityContext: {runAsNonRoot: true}, containers: [{name: c, securityContext: {runAsNonRoot: false}}]"), []string{"Pod/p: spec.containers[0].securityContext.runAsNonRoot"}, "the container's word goes before"},
	{"run-as-non-root", "", podWith("containers: [{name: c, securityContext: {runAsUser: 1000}}]"), nil, "a user who is not root"},
	{"run-as-non-root", "", podWith("securityContext: {runAsNonRoot: true}, containers: [{name: c, securityContext: {runAsUser: 0}}]"), []string{"Pod/p: spec.containers[0].securityContext.runAsUser"}, "root: it would not start"},
	{"run-as-non-root", "", podWith("os: {name: windows}, containers: [{name: c}]"), nil, "Windows has no root"},
	{"read-only-root-filesystem", "", podWith("containers: [{name: c}, {name: d, securityContext: {readOnlyRootFilesystem: true}}]"), []string{"Pod/p: spec.containers[0].securityContext.readOnlyRootFilesystem"}, "must be said"},
	{"read-only-root-filesystem", "", podWith("os: {name: windows}, containers: [{name: c}]"), nil, "there is none on Windows"},

	// https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/
	{"no-service-account-token", "", image("a:1"), []string{"Pod/p: spec.automountServiceAccountToken"}, "the default is to mount"},
	{"no-service-account-token", "", podWith("automountServiceAccountToken: false, containers: []"), nil, "the Pod opts out"},
	{"no-service-account-token", "", join(podWith("serviceAccountName: a, containers: []"), "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: team}, automountServiceAccountToken: false}"), nil, "the account opts out"},
	{"no-service-account-token", "", join(podWith("serviceAccountName: a, automountServiceAccountToken: true, containers: []"), "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: team}, automountServiceAccountToken: false}"), []string{"Pod/p: spec.automountServiceAccountToken"}, "the Pod's word goes before"},
	{"no-service-account-token", "{allowExplicit: true}", podWith("automountServiceAccountToken: true, containers: []"), nil, "on purpose"},

	{"no-plaintext-secret", "", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: team}, stringData: {a: b}}", []string{"Secret/s: stringData"}, "in plaintext"},
	{"no-plaintext-secret", "", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: team}, data: {a: Yg==}}", []string{"Secret/s: data"}, "base64 seals nothing"},
	{"no-plaintext-secret", "", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: team}, type: kubernetes.io/service-account-token}", nil, "a controller fills it in"},
	{"no-plaintext-secret", "", "{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {name: s, namespace: team}, spec: {encryptedData: {a: AgB}}}", nil, "sealed"},
	{"no-plaintext-secret", "{exemptTypes: [example.org/public]}", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: team}, type: example.org/public, stringData: {a: b}}", nil, "by parameter"},

	{"no-default-namespace", "", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: default}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: team}}", []string{"ConfigMap/c: metadata.namespace"}, "nobody's"},
	{"no-default-namespace", "", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: default}}", []string{"ConfigMap/c: metadata.namespace"}, "none is default; what has none is not in it"},
	{"no-default-namespace", "{namespaces: [default, kube-*], kinds: [Deployment]}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: kube-system}}\n---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: kube-system}}", []string{"Deployment/d: metadata.namespace"}, "by parameter"},
	{"no-default-namespace", "", image("app"), nil, "it lies in team"},
	{"required-labels", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team, labels: {app.kubernetes.io/name: a}}}", nil, "it has the label"},
	{"required-labels", "", "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: team}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: team}}", []string{"Service/s: metadata.labels[app.kubernetes.io/name]"}, "of the kinds that are listed"},
	{"required-labels", "{labels: [team, tier=front*], kinds: ['*']}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: team, labels: {team: a, tier: back}}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: team, labels: {team: a, tier: frontend}}}", []string{"ConfigMap/c: metadata.labels[tier]"}, "and of their values"},
}

func TestPolicies(t *testing.T) {
	passed, failed := map[string]bool{}, map[string]bool{}
	for _, row := range policyRows {
		c := caseOf(t, row.objects)
		got := told(c, judged(t, compiled(t, row.policy, row.parameters), c))
		if diff := cmp.Diff(slices.Concat([]string{}, row.want), got); diff != "" && len(row.want)+len(got) > 0 {
			t.Errorf("%s %s: %s: %s (-want +got):\n%s", row.policy, row.parameters, row.objects, row.reason, diff)
		}
		passed[row.policy] = passed[row.policy] || len(row.want) == 0
		failed[row.policy] = failed[row.policy] || len(row.want) > 0
	}
	for _, a := range Names() {
		if !strings.HasPrefix(a.Name, "pod-security-") && (!passed[a.Name] || !failed[a.Name]) {
			t.Errorf("%s: a row must pass, and one fail", a.Name)
		}
	}
}

// A Secret that was opened is sealed in the repository.
func TestSealedSecret(t *testing.T) {
	c := caseOf(t, "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: team}, stringData: {a: b}}")
	c.Subjects[0].Sealed = true
	if found := judged(t, compiled(t, "no-plaintext-secret", ""), piped(t, c)); len(found.List) > 0 {
		t.Errorf("it is sealed: %v", found.List)
	}
}

// Of an object by itself, nothing is said that depends on what lies beside it.
func TestAlone(t *testing.T) {
	for _, row := range []struct{ policy, object string }{
		{"namespace-network-policy", namespace("team")},
		{"namespace-network-policy", image("app")},
		{"no-service-account-token", image("app")},
		{"no-plaintext-secret", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: team}, stringData: {a: b}}"},
	} {
		c := caseOf(t, row.object)
		p := compiled(t, row.policy, "")
		if len(judged(t, p, c).List) == 0 {
			t.Errorf("%s: %s: nothing is found in a delivery", row.policy, row.object)
		}
		c.Alone = true
		if found := judged(t, p, c); len(found.List) > 0 {
			t.Errorf("%s: %s: %v", row.policy, row.object, found.List)
		}
	}
}

// The tale of the guides: a NetworkPolicy takes over a line of a development environment.
func TestTaleOfTheCopiedLine(t *testing.T) {
	c := caseOf(t, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: trading-api, namespace: trading}
spec:
  podSelector: {matchLabels: {app: trading-api}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: gateway}}
    - ipBlock: {cidr: 0.0.0.0/0}
    ports:
    - port: 8443
`)
	found := judged(t, compiled(t, "no-public-ingress", ""), c)
	if len(found.List) != 1 {
		t.Fatalf("want one finding: %v", found.List)
	}
	f := found.List[0]
	const want = "0.0.0.0/0 is the whole Internet: name the podSelector, namespaceSelector or smaller ipBlock that it is for, or list what may come in under allow of this policy's parameters"
	if f.Message != want || f.Path != "spec.ingress[0].from[1].ipBlock.cidr" || f.Severity != "high" {
		t.Errorf("%+v", f)
	}
	if found.Judged["no-public-ingress"] != 1 {
		t.Errorf("judged: %v", found.Judged)
	}
}
