package builtin

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	standard "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// hardened is the smallest Pod that keeps to the level restricted; what is null in a row
// takes away from it.
const hardened = `
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: team}
spec:
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: c
    image: registry.example.org/c:1
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

// standardRow is a change to that Pod and what the page of the standards says of it.
type standardRow struct {
	name string
	// spec, container and metadata are merged into the Pod, its container, its metadata.
	spec, container, metadata string
	baseline, restricted      []string // what fails: check, at path
	reason                    string
}

const (
	cc  = "spec.containers[0].securityContext."
	psc = "spec.securityContext."
)

// The rows follow https://kubernetes.io/docs/concepts/security/pod-security-standards/,
// control by control.
var standardRows = []standardRow{
	{name: "hardened", reason: "the smallest Pod that the level restricted permits"},
	{
		name: "plain", spec: `{securityContext: null}`, container: `{securityContext: null}`,
		restricted: []string{
			"allowPrivilegeEscalation " + cc + "allowPrivilegeEscalation", "capabilities_restricted " + cc + "capabilities",
			"runAsNonRoot " + cc + "runAsNonRoot", "seccompProfile_restricted " + cc + "seccompProfile",
		},
		reason: "baseline permits a minimal Pod; restricted wants four things said",
	},

	// HostProcess
	{
		name: "host process of a Pod", spec: `{securityContext: {windowsOptions: {hostProcess: true}}}`,
		baseline: []string{"windowsHostProcess " + psc + "windowsOptions.hostProcess"}, restricted: []string{"windowsHostProcess " + psc + "windowsOptions.hostProcess"},
		reason: "allowed: undefined, false",
	},
	{
		name: "host process of a container", container: `{securityContext: {windowsOptions: {hostProcess: true}}}`,
		baseline: []string{"windowsHostProcess " + cc + "windowsOptions.hostProcess"}, restricted: []string{"windowsHostProcess " + cc + "windowsOptions.hostProcess"},
		reason: "allowed: undefined, false",
	},
	{name: "no host process", spec: `{securityContext: {windowsOptions: {hostProcess: false}}}`, reason: "false is allowed"},

	// Host namespaces
	{name: "host network", spec: `{hostNetwork: true}`, baseline: []string{"hostNamespaces spec.hostNetwork"}, restricted: []string{"hostNamespaces spec.hostNetwork"}, reason: "must be undefined or false"},
	{name: "host PID", spec: `{hostPID: true}`, baseline: []string{"hostNamespaces spec.hostPID"}, restricted: []string{"hostNamespaces spec.hostPID"}, reason: "must be undefined or false"},
	{name: "host IPC", spec: `{hostIPC: true}`, baseline: []string{"hostNamespaces spec.hostIPC"}, restricted: []string{"hostNamespaces spec.hostIPC"}, reason: "must be undefined or false"},
	{name: "no host namespaces", spec: `{hostNetwork: false, hostPID: false, hostIPC: false}`, reason: "false is allowed"},

	// Privileged containers
	{
		name: "privileged", container: `{securityContext: {privileged: true, allowPrivilegeEscalation: null}}`,
		baseline: []string{"privileged " + cc + "privileged"}, restricted: []string{"allowPrivilegeEscalation " + cc + "allowPrivilegeEscalation", "privileged " + cc + "privileged"},
		reason: "privileged Pods disable most security mechanisms",
	},
	{name: "not privileged", container: `{securityContext: {privileged: false}}`, reason: "false is allowed"},
	{
		name: "privileged init container", spec: `{initContainers: [{name: i, image: "i:1", securityContext: {privileged: true, capabilities: {drop: [ALL]}}}]}`,
		baseline: []string{"privileged spec.initContainers[0].securityContext.privileged"},
		restricted: []string{
			"allowPrivilegeEscalation spec.initContainers[0].securityContext.allowPrivilegeEscalation", "privileged spec.initContainers[0].securityContext.privileged",
		},
		reason: "init containers are containers",
	},

	// Capabilities
	{name: "a default capability", container: `{securityContext: {capabilities: {add: [CHOWN]}}}`, restricted: []string{"capabilities_restricted " + cc + "capabilities"}, reason: "baseline lists CHOWN, restricted does not"},
	{
		name: "NET_RAW", container: `{securityContext: {capabilities: {add: [NET_RAW]}}}`,
		baseline: []string{"capabilities_baseline " + cc + "capabilities.add"}, restricted: []string{"capabilities_restricted " + cc + "capabilities"},
		reason: "not among those listed",
	},
	{
		name: "SYS_ADMIN", container: `{securityContext: {capabilities: {add: [SYS_ADMIN]}, allowPrivilegeEscalation: null}}`,
		baseline: []string{"capabilities_baseline " + cc + "capabilities.add"}, restricted: []string{"allowPrivilegeEscalation " + cc + "allowPrivilegeEscalation", "capabilities_restricted " + cc + "capabilities"},
		reason: "not among those listed",
	},
	{name: "NET_BIND_SERVICE", container: `{securityContext: {capabilities: {add: [NET_BIND_SERVICE]}}}`, reason: "the one that restricted permits to add back"},
	{name: "nothing dropped", container: `{securityContext: {capabilities: null}}`, restricted: []string{"capabilities_restricted " + cc + "capabilities"}, reason: "restricted: containers must drop ALL"},
	{name: "one dropped", container: `{securityContext: {capabilities: {drop: [NET_RAW]}}}`, restricted: []string{"capabilities_restricted " + cc + "capabilities"}, reason: "restricted: ALL, not one"},

	// HostPath volumes
	{
		name: "host path", spec: `{volumes: [{name: e, emptyDir: {}}, {name: h, hostPath: {path: /etc}}]}`,
		baseline: []string{"hostPathVolumes spec.volumes[1]"}, restricted: []string{"restrictedVolumes spec.volumes[1]"},
		reason: "must be undefined; restricted has a list of kinds instead",
	},

	// Host ports
	{
		name: "host port", container: `{ports: [{containerPort: 80, hostPort: 80}]}`,
		baseline: []string{"hostPorts spec.containers[0].ports"}, restricted: []string{"hostPorts spec.containers[0].ports"},
		reason: "disallowed entirely, or restricted to a list; the API server knows no list",
	},
	{name: "container port", container: `{ports: [{containerPort: 80, hostPort: 0}]}`, reason: "0 is allowed"},

	// Host probes and lifecycle hooks (v1.34+)
	{
		name: "host of a probe", container: `{livenessProbe: {httpGet: {port: 80, host: 10.0.0.1}}}`,
		baseline: []string{"hostProbesAndHostLifecycle spec.containers[0]"}, restricted: []string{"hostProbesAndHostLifecycle spec.containers[0]"},
		reason: "the kubelet would ask whatever is named",
	},
	{
		name: "host of a hook", container: `{lifecycle: {postStart: {httpGet: {port: 80, host: 127.0.0.1}}}}`,
		baseline: []string{"hostProbesAndHostLifecycle spec.containers[0]"}, restricted: []string{"hostProbesAndHostLifecycle spec.containers[0]"},
		reason: "hooks are restricted as probes are",
	},
	{name: "probe without host", container: `{readinessProbe: {tcpSocket: {port: 80}}}`, reason: "undefined is allowed"},

	// AppArmor
	{
		name: "unconfined by AppArmor", spec: `{securityContext: {appArmorProfile: {type: Unconfined}}}`,
		baseline: []string{"appArmorProfile " + psc + "appArmorProfile"}, restricted: []string{"appArmorProfile " + psc + "appArmorProfile"},
		reason: "allowed: undefined, RuntimeDefault, Localhost",
	},
	{
		name: "container unconfined by AppArmor", container: `{securityContext: {appArmorProfile: {type: Unconfined}}}`,
		baseline: []string{"appArmorProfile " + cc + "appArmorProfile"}, restricted: []string{"appArmorProfile " + cc + "appArmorProfile"},
		reason: "allowed: undefined, RuntimeDefault, Localhost",
	},
	{
		name: "unconfined by annotation", metadata: `{annotations: {container.apparmor.security.beta.kubernetes.io/c: unconfined}}`,
		baseline: []string{"appArmorProfile metadata.annotations"}, restricted: []string{"appArmorProfile metadata.annotations"},
		reason: "the annotation of old still counts",
	},
	{name: "AppArmor's default", spec: `{securityContext: {appArmorProfile: {type: RuntimeDefault}}}`, reason: "RuntimeDefault is allowed"},
	{name: "AppArmor's default by annotation", metadata: `{annotations: {container.apparmor.security.beta.kubernetes.io/c: runtime/default}}`, reason: "runtime/default is allowed"},

	// SELinux
	{
		name: "an SELinux type", spec: `{securityContext: {seLinuxOptions: {type: spc_t}}}`,
		baseline: []string{"seLinuxOptions " + psc + "seLinuxOptions"}, restricted: []string{"seLinuxOptions " + psc + "seLinuxOptions"},
		reason: "allowed: container_t, container_init_t, container_kvm_t, container_engine_t",
	},
	{name: "an SELinux type for containers", spec: `{securityContext: {seLinuxOptions: {type: container_t}}}`, reason: "container_t is listed"},
	{name: "an SELinux type for engines", container: `{securityContext: {seLinuxOptions: {type: container_engine_t}}}`, reason: "listed since v1.31"},
	{
		name: "an SELinux user", container: `{securityContext: {seLinuxOptions: {user: root}}}`,
		baseline: []string{"seLinuxOptions " + cc + "seLinuxOptions"}, restricted: []string{"seLinuxOptions " + cc + "seLinuxOptions"},
		reason: "user must be undefined",
	},
	{
		name: "an SELinux role", container: `{securityContext: {seLinuxOptions: {role: sysadm_r}}}`,
		baseline: []string{"seLinuxOptions " + cc + "seLinuxOptions"}, restricted: []string{"seLinuxOptions " + cc + "seLinuxOptions"},
		reason: "role must be undefined",
	},
	{name: "an SELinux level", container: `{securityContext: {seLinuxOptions: {level: "s0:c1,c2"}}}`, reason: "the level is not restricted"},

	// /proc mount type
	{
		name: "unmasked /proc", container: `{securityContext: {procMount: Unmasked}}`,
		baseline: []string{"procMount " + cc + "procMount"}, restricted: []string{"procMount_restricted " + cc + "procMount"},
		reason: "allowed: undefined, Default",
	},
	{
		name: "unmasked /proc of a user's own", spec: `{hostUsers: false}`, container: `{securityContext: {procMount: Unmasked}}`,
		restricted: []string{"procMount_restricted " + cc + "procMount"},
		reason:     "in a user namespace baseline permits it since v1.35; restricted does not",
	},
	{name: "masked /proc", container: `{securityContext: {procMount: Default}}`, reason: "Default is allowed"},

	// Seccomp
	{
		name: "unconfined by seccomp", spec: `{securityContext: {seccompProfile: {type: Unconfined}}}`,
		baseline: []string{"seccompProfile_baseline " + psc + "seccompProfile"}, restricted: []string{"seccompProfile_restricted " + psc + "seccompProfile"},
		reason: "must not be Unconfined",
	},
	{
		name: "container unconfined by seccomp", container: `{securityContext: {seccompProfile: {type: Unconfined}}}`,
		baseline: []string{"seccompProfile_baseline " + cc + "seccompProfile"}, restricted: []string{"seccompProfile_restricted " + cc + "seccompProfile"},
		reason: "the container's own word counts",
	},
	{name: "seccomp not said", spec: `{securityContext: {seccompProfile: null}}`, restricted: []string{"seccompProfile_restricted " + cc + "seccompProfile"}, reason: "restricted: a profile must be named"},
	{name: "seccomp of the container", spec: `{securityContext: {seccompProfile: null}}`, container: `{securityContext: {seccompProfile: {type: RuntimeDefault}}}`, reason: "restricted: by every container is enough"},
	{name: "seccomp of the node", spec: `{securityContext: {seccompProfile: {type: Localhost, localhostProfile: own.json}}}`, reason: "Localhost is allowed"},

	// Sysctls
	{
		name: "a sysctl", spec: `{securityContext: {sysctls: [{name: kernel.msgmax, value: "65536"}]}}`,
		baseline: []string{"sysctls " + psc + "sysctls"}, restricted: []string{"sysctls " + psc + "sysctls"},
		reason: "not among those that are safe",
	},
	{name: "a safe sysctl", spec: `{securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}]}}`, reason: "listed"},
	{name: "a sysctl safe since v1.32", spec: `{securityContext: {sysctls: [{name: net.ipv4.tcp_rmem, value: "4096 87380 16777216"}]}}`, reason: "listed since v1.32"},

	// Volume types
	{name: "volumes of the cluster", spec: `{volumes: [{name: a, configMap: {name: a}}, {name: b, secret: {secretName: b}}, {name: c, emptyDir: {}}, {name: d, persistentVolumeClaim: {claimName: d}}, {name: e, projected: {sources: []}}, {name: f, downwardAPI: {items: []}}, {name: g, csi: {driver: csi.example.org}}]}`, reason: "those that restricted lists"},
	{name: "an NFS volume", spec: `{volumes: [{name: vol, nfs: {server: nfs.example.org, path: /}}]}`, restricted: []string{"restrictedVolumes spec.volumes[0]"}, reason: "restricted does not list nfs"},
	{name: "an iSCSI volume", spec: `{volumes: [{name: vol, iscsi: {targetPortal: "10.0.0.1", iqn: "iqn.2001-04.org.example:s", lun: 0}}]}`, restricted: []string{"restrictedVolumes spec.volumes[0]"}, reason: "restricted does not list iscsi"},
	{name: "a volume of an image", spec: `{volumes: [{name: i, image: {reference: "registry.example.org/data:1"}}]}`, reason: "listed since images can be volumes"},

	// Privilege escalation
	{name: "escalation not said", container: `{securityContext: {allowPrivilegeEscalation: null}}`, restricted: []string{"allowPrivilegeEscalation " + cc + "allowPrivilegeEscalation"}, reason: "restricted: must be false"},
	{name: "escalation", container: `{securityContext: {allowPrivilegeEscalation: true}}`, restricted: []string{"allowPrivilegeEscalation " + cc + "allowPrivilegeEscalation"}, reason: "restricted: must be false"},
	{name: "escalation on Windows", spec: `{os: {name: windows}, securityContext: {seccompProfile: null}}`, container: `{securityContext: {allowPrivilegeEscalation: null, capabilities: null}}`, reason: "these controls are for Linux only"},

	// Running as non-root
	{name: "root or not, not said", spec: `{securityContext: {runAsNonRoot: null}}`, restricted: []string{"runAsNonRoot " + cc + "runAsNonRoot"}, reason: "restricted: must be true"},
	{name: "perhaps root", spec: `{securityContext: {runAsNonRoot: false}}`, restricted: []string{"runAsNonRoot " + psc + "runAsNonRoot"}, reason: "restricted: must be true"},
	{name: "container perhaps root", container: `{securityContext: {runAsNonRoot: false}}`, restricted: []string{"runAsNonRoot " + cc + "runAsNonRoot"}, reason: "the container's own word counts"},
	{name: "containers not root", spec: `{securityContext: {runAsNonRoot: null}}`, container: `{securityContext: {runAsNonRoot: true}}`, reason: "by every container is enough"},
	{name: "root of a user namespace", spec: `{hostUsers: false, securityContext: {runAsNonRoot: null}}`, reason: "root of a user namespace is none, since v1.35"},

	// Running as a non-root user (v1.23+)
	{name: "user 0", spec: `{securityContext: {runAsUser: 0}}`, restricted: []string{"runAsUser " + psc + "runAsUser"}, reason: "restricted: any non-zero value"},
	{name: "container as user 0", container: `{securityContext: {runAsUser: 0}}`, restricted: []string{"runAsUser " + cc + "runAsUser"}, reason: "restricted: any non-zero value"},
	{name: "user 1000", spec: `{securityContext: {runAsUser: 1000}}`, reason: "non-zero"},
	{name: "a shared second container", spec: `{ephemeralContainers: [{name: d, image: "d:1", targetContainerName: c}]}`, restricted: []string{
		"allowPrivilegeEscalation spec.ephemeralContainers[0].securityContext.allowPrivilegeEscalation", "capabilities_restricted spec.ephemeralContainers[0].securityContext.capabilities",
	}, reason: "containers for debugging are containers"},
}

// merge merges change into o, maps into maps; null takes away.
func merge(o, change map[string]any) {
	for key, value := range change {
		below, isMap := value.(map[string]any)
		current, was := o[key].(map[string]any)
		switch {
		case value == nil:
			delete(o, key)
		case isMap && was:
			merge(current, below)
		default:
			o[key] = value
		}
	}
}

func (row standardRow) pod(t testing.TB) map[string]any {
	t.Helper()
	parse := func(text string) map[string]any {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return o
	}
	pod := parse(hardened)
	spec := pod["spec"].(map[string]any)
	merge(spec, parse(row.spec))
	merge(spec["containers"].([]any)[0].(map[string]any), parse(row.container))
	merge(pod["metadata"].(map[string]any), parse(row.metadata))
	return pod
}

// text renders a Pod, or a kind with the Pod as its template.
func text(t testing.TB, o map[string]any) string {
	t.Helper()
	content, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestStandards(t *testing.T) {
	ids := map[string]bool{}
	for _, row := range standardRows {
		t.Run(row.name, func(t *testing.T) {
			pod := row.pod(t)
			typed := new(corev1.Pod)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(pod, typed); err != nil {
				t.Fatal(err)
			}
			c := caseOf(t, text(t, pod))
			for level, want := range map[api.Level][]string{api.LevelBaseline: row.baseline, api.LevelRestricted: row.restricted} {
				found := judged(t, compiled(t, "pod-security-"+string(level), ""), c)
				var got []string
				for _, f := range found.List {
					got = append(got, f.Rule+" "+f.Path)
					ids[f.Rule] = true
				}
				slices.Sort(got)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", level, row.reason, diff)
				}
				if allowed := byLibrary(t, level, typed); allowed != (len(got) == 0) {
					t.Errorf("%s: the library permits it: %v; findings: %q", level, allowed, got)
				}
			}
		})
	}
	for _, check := range standard.DefaultChecks() {
		if _, ok := checked[string(check.ID)]; !ok {
			t.Errorf("nothing is known of the fields of check %s", check.ID)
		}
		if !ids[string(check.ID)] {
			t.Errorf("no row fails check %s", check.ID)
		}
	}
}

// byLibrary asks the library of the API server.
func byLibrary(t testing.TB, level api.Level, pod *corev1.Pod) bool {
	t.Helper()
	evaluator, err := standard.NewEvaluator(standard.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	results := evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec)
	aggregated := standard.AggregateCheckResults(results)
	return aggregated.Allowed
}

// What is found in the Pods of a workload is told of the workload, at its own fields.
func TestStandardsOfTemplates(t *testing.T) {
	pod := standardRow{container: `{securityContext: {privileged: true, allowPrivilegeEscalation: null}}`, metadata: `{annotations: {container.apparmor.security.beta.kubernetes.io/c: unconfined}}`}.pod(t)
	template := map[string]any{"metadata": pod["metadata"], "spec": pod["spec"]}
	apps := map[string]any{"spec": map[string]any{"template": template}}
	for kind, spec := range map[string]struct {
		apiVersion, at string
		rest           map[string]any
	}{
		"Deployment":            {"apps/v1", "spec.template.", apps},
		"StatefulSet":           {"apps/v1", "spec.template.", apps},
		"DaemonSet":             {"apps/v1", "spec.template.", apps},
		"ReplicaSet":            {"apps/v1", "spec.template.", apps},
		"Job":                   {"batch/v1", "spec.template.", apps},
		"ReplicationController": {"v1", "spec.template.", apps},
		"Rollout":               {"argoproj.io/v1alpha1", "spec.template.", apps},
		"CronJob":               {"batch/v1", "spec.jobTemplate.spec.template.", map[string]any{"spec": map[string]any{"jobTemplate": apps}}},
		"PodTemplate":           {"v1", "template.", map[string]any{"template": template}},
	} {
		o := map[string]any{"apiVersion": spec.apiVersion, "kind": kind, "metadata": map[string]any{"name": "w", "namespace": "team"}}
		maps.Copy(o, spec.rest)
		c := caseOf(t, text(t, o))
		want := []string{
			kind + "/w: appArmorProfile " + spec.at + "metadata.annotations",
			kind + "/w: privileged " + spec.at + "spec.containers[0].securityContext.privileged",
		}
		if diff := cmp.Diff(want, told(c, judged(t, compiled(t, "pod-security-baseline", ""), c))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
}

func TestStandardsByVersion(t *testing.T) {
	row := func(name string) standardRow {
		return standardRows[slices.IndexFunc(standardRows, func(r standardRow) bool { return r.name == name })]
	}
	tests := []struct {
		policy, parameters, row string
		findings                int
		reason                  string
	}{
		{"pod-security-baseline", "{version: v1.33}", "host of a probe", 0, "the control came with v1.34"},
		{"pod-security-baseline", "{version: v1.34}", "host of a probe", 1, "the control came with v1.34"},
		{"pod-security-restricted", "{version: v1.22}", "user 0", 0, "the control came with v1.23"},
		{"pod-security-restricted", "{version: v1.23}", "user 0", 1, "the control came with v1.23"},
		{"pod-security-restricted", "{version: v1.34}", "root of a user namespace", 1, "the allowance came with v1.35"},
		{"pod-security-baseline", "{version: v1.31}", "a sysctl safe since v1.32", 1, "the allowance came with v1.32"},
		{"pod-security-baseline", "{version: v1.36}", "a sysctl safe since v1.32", 0, "the allowance came with v1.32"},
		{"pod-security-baseline", "{exemptNamespaces: [te*]}", "host network", 0, "the Pod lies in team"},
		{"pod-security-baseline", "{exemptNamespaces: [other]}", "host network", 1, "the Pod lies in team"},
	}
	for _, test := range tests {
		c := caseOf(t, text(t, row(test.row).pod(t)))
		if got := len(judged(t, compiled(t, test.policy, test.parameters), c).List); got != test.findings {
			t.Errorf("%s %s, %s: %d findings, want %d: %s", test.policy, test.parameters, test.row, got, test.findings, test.reason)
		}
	}
	c := caseOf(t, text(t, standardRow{spec: `{hostPID: true, runtimeClassName: kata}`}.pod(t)))
	if found := judged(t, compiled(t, "pod-security-baseline", "{exemptRuntimeClasses: [kata]}"), c); len(found.List) > 0 {
		t.Errorf("the runtime class is exempt: %v", found.List)
	}
}

// newest follows the module that the checks come from.
func TestNewestStandards(t *testing.T) {
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`k8s\.io/pod-security-admission v0\.(\d+)\.`).FindStringSubmatch(string(mod))
	if found == nil || found[1] != fmt.Sprint(newest) {
		t.Errorf("go.mod has the standards of %q, and the newest that is known is %d", found, newest)
	}
}

// Two parts of a Pod that fail the same check are told apart, each at its place.
func TestEveryCulprit(t *testing.T) {
	c := caseOf(t, `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {
		volumes: [{name: a, hostPath: {path: /a}}, {name: b, emptyDir: {}}, {name: c, hostPath: {path: /c}}],
		initContainers: [{name: i, image: i, securityContext: {privileged: true}}],
		containers: [{name: one, image: i}, {name: two, image: i, securityContext: {privileged: true}}]}}`)
	found := judged(t, compiled(t, "pod-security-baseline", ""), c)
	want := []string{
		"Pod/p: hostPathVolumes spec.volumes[0]", "Pod/p: hostPathVolumes spec.volumes[2]",
		"Pod/p: privileged spec.containers[1].securityContext.privileged", "Pod/p: privileged spec.initContainers[0].securityContext.privileged",
	}
	if diff := cmp.Diff(want, told(c, found)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, f := range found.List {
		if strings.Contains(f.Path, "containers[1]") && f.Message != `privileged: container "two" must not set securityContext.privileged=true` {
			t.Errorf("message: %s", f.Message)
		}
	}
}
