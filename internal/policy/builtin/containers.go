package builtin

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// containers are the policies on what Pods and their containers ask for.
func containers() []definition {
	const hardening = "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/"
	plain := func() exempt { return exempt{} }
	return []definition{
		define(About{
			Name:      "resource-limits",
			Summary:   "Containers limit their memory and request memory and CPU: none takes a node down.",
			Reference: "https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/", Severity: "medium",
		}, func() resourceParameters {
			return resourceParameters{Limits: []string{"memory"}, Requests: []string{"cpu", "memory"}}
		}, resourceLimits),
		define(About{
			Name:      "no-host-mounts",
			Summary:   "Pods and persistent volumes do not mount directories of the node.",
			Reference: "https://kubernetes.io/docs/concepts/storage/volumes/#hostpath", Severity: "high",
		}, func() hostParameters { return hostParameters{} }, noHostMounts),
		define(About{
			Name:      "no-privileged",
			Summary:   "No container is privileged: it would be root on the node.",
			Reference: "https://kubernetes.io/docs/concepts/security/linux-kernel-security-constraints/#privileged-containers", Severity: "critical",
		}, plain, perContainer(privileged)),
		define(About{
			Name:      "run-as-non-root",
			Summary:   "Containers do not run as root.",
			Reference: hardening + "#set-the-security-context-for-a-pod", Severity: "medium",
		}, plain, perContainer(runsAsRoot)),
		define(About{
			Name:      "read-only-root-filesystem",
			Summary:   "Containers cannot write to their own image: what breaks in leaves nothing behind.",
			Reference: hardening + "#set-the-security-context-for-a-container", Severity: "low",
		}, plain, perContainer(writableRoot)),
	}
}

type resourceParameters struct {
	exempt

	Limits   []string          `doc:"resources whose limit every container sets"                                     json:"limits"`
	Requests []string          `doc:"resources that every container requests; a limit counts, as for the API server" json:"requests"`
	Max      map[string]string `doc:"the highest limit that a container may set, by resource: memory: 4Gi"           json:"max"`
}

func resourceLimits(p resourceParameters) (judge, error) {
	highest := map[string]resource.Quantity{}
	for name, text := range p.Max {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("max.%s: %q is not a quantity, such as 500m or 4Gi", name, text)
		}
		highest[name] = q
	}
	if len(p.Limits)+len(p.Requests)+len(p.Max) == 0 {
		return nil, errors.New("limits, requests and max are empty: take the policy away instead")
	}
	if slices.Contains(slices.Concat(p.Limits, p.Requests), "") {
		return nil, errors.New("limits and requests name resources, such as memory")
	}
	return func(_ *view, r *reporter) {
		for pod := range r.pods(p.exempt) {
			for _, c := range pod.containers() {
				if !c.ephemeral { // which cannot have resources
					p.judge(r, pod, c, highest)
				}
			}
		}
	}, p.check()
}

func (p resourceParameters) judge(r *reporter, pod *pod, c container, highest map[string]resource.Quantity) {
	var whole corev1.ResourceRequirements // of the Pod, which hold for all of its containers together
	if pod.spec.Resources != nil {
		whole = *pod.spec.Resources
	}
	for _, name := range p.Limits {
		if !has(c.Resources.Limits, name) && !has(whole.Limits, name) {
			r.findingf(pod.subject, "limits", c.path+".resources.limits."+name,
				"container %s sets no limit of %s: set resources.limits.%s", c.Name, name, name)
		}
	}
	for _, name := range p.Requests {
		if !has(c.Resources.Requests, name) && !has(c.Resources.Limits, name) && !has(whole.Requests, name) && !has(whole.Limits, name) {
			r.findingf(pod.subject, "requests", c.path+".resources.requests."+name,
				"container %s requests no %s: set resources.requests.%s", c.Name, name, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(highest)) {
		most := highest[name]
		if limit, ok := c.Resources.Limits[corev1.ResourceName(name)]; ok && limit.Cmp(most) > 0 {
			r.findingf(pod.subject, "max", c.path+".resources.limits."+name,
				"container %s may use %s of %s, and %s is the most: lower resources.limits.%s", c.Name, limit.String(), name, most.String(), name)
		}
	}
}

// has reports whether a resource is given. Nothing of one, which means any amount to the
// kubelet, is not.
func has(list corev1.ResourceList, name string) bool {
	q, ok := list[corev1.ResourceName(name)]
	return ok && q.Sign() > 0
}

type hostParameters struct {
	exempt

	AllowPaths []string `doc:"directories of the node that may be mounted, with what is below them"                                                         json:"allowPaths"`
	Also       []string `doc:"what is refused besides: hostNetwork, hostPID, hostIPC, hostPorts, and local, which is persistent volumes on disks of a node" json:"also"`
}

func noHostMounts(p hostParameters) (judge, error) {
	for _, allowed := range p.AllowPaths {
		if !path.IsAbs(allowed) || path.Clean(allowed) == "/" {
			return nil, fmt.Errorf("allowPaths: %q is not the path of a directory below /", allowed)
		}
	}
	if err := errors.Join(oneOf("also", p.Also, "hostNetwork", "hostPID", "hostIPC", "hostPorts", "local"), p.check()); err != nil {
		return nil, err
	}
	return func(_ *view, r *reporter) {
		for pod := range r.pods(p.exempt) {
			for i, volume := range pod.spec.Volumes {
				if volume.HostPath != nil && !p.allows(volume.HostPath.Path) {
					r.findingf(pod.subject, "hostPath", fmt.Sprintf("%sspec.volumes[%d].hostPath", pod.at, i),
						"volume %s mounts %s of the node: use a persistentVolumeClaim, emptyDir or configMap", volume.Name, volume.HostPath.Path)
				}
			}
			p.judgeHost(r, pod)
		}
		for i, volume := range typed[corev1.PersistentVolume](r, p.exempt, schema.GroupKind{Kind: "PersistentVolume"}) {
			if host := volume.Spec.HostPath; host != nil && !p.allows(host.Path) {
				r.findingf(i, "hostPath", "spec.hostPath", "the volume is %s of whatever node it is used on: use a storage class or a CSI driver", host.Path)
			}
			if local := volume.Spec.Local; local != nil && slices.Contains(p.Also, "local") && !p.allows(local.Path) {
				r.findingf(i, "local", "spec.local", "the volume is %s of a node: use a storage class or a CSI driver", local.Path)
			}
		}
	}, nil
}

func (p hostParameters) allows(dir string) bool {
	clean := path.Clean("/" + dir)
	return !slices.Contains(strings.Split(dir, "/"), "..") && slices.ContainsFunc(p.AllowPaths, func(allowed string) bool {
		allowed = path.Clean(allowed)
		return clean == allowed || strings.HasPrefix(clean, allowed+"/")
	})
}

// judgeHost judges what a Pod shares with the node besides directories.
func (p hostParameters) judgeHost(r *reporter, pod *pod) {
	for _, share := range []struct {
		field string
		set   bool
	}{{"hostNetwork", pod.spec.HostNetwork}, {"hostPID", pod.spec.HostPID}, {"hostIPC", pod.spec.HostIPC}} {
		if share.set && slices.Contains(p.Also, share.field) {
			r.findingf(pod.subject, share.field, pod.at+"spec."+share.field, "the Pod shares this with the node: remove %s", share.field)
		}
	}
	if !slices.Contains(p.Also, "hostPorts") {
		return
	}
	for _, c := range pod.containers() {
		for i, port := range c.Ports {
			if port.HostPort != 0 {
				r.findingf(pod.subject, "hostPorts", fmt.Sprintf("%s.ports[%d].hostPort", c.path, i),
					"container %s takes port %d of the node: remove hostPort, and use a Service", c.Name, port.HostPort)
			}
		}
	}
}

// containerJudge says what is wrong with a container: a field below it, and a message; ""
// for nothing.
type containerJudge func(p *pod, c container) (field, message string)

// perContainer is a policy that looks at one container at a time.
func perContainer(wrong containerJudge) func(exempt) (judge, error) {
	return func(e exempt) (judge, error) {
		return func(_ *view, r *reporter) {
			for p := range r.pods(e) {
				for _, c := range p.containers() {
					if field, message := wrong(p, c); message != "" {
						r.findingf(p.subject, "", c.path+"."+field, "container %s %s", c.Name, message)
					}
				}
			}
		}, e.check()
	}
}

func privileged(_ *pod, c container) (field, message string) {
	if s := c.SecurityContext; s != nil && s.Privileged != nil && *s.Privileged {
		return "securityContext.privileged", "is privileged: remove it, and add the one capability that is needed"
	}
	return "", ""
}

// runsAsRoot: what a container says of itself goes before what its Pod says. A user other
// than 0 is enough, and so is runAsNonRoot, by which the kubelet refuses to start as root.
func runsAsRoot(p *pod, c container) (field, message string) {
	if p.windows() {
		return "", ""
	}
	var user *int64
	var nonRoot *bool
	if s := p.spec.SecurityContext; s != nil {
		user, nonRoot = s.RunAsUser, s.RunAsNonRoot
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			user = s.RunAsUser
		}
		if s.RunAsNonRoot != nil {
			nonRoot = s.RunAsNonRoot
		}
	}
	switch {
	case user != nil && *user == 0:
		return "securityContext.runAsUser", "runs as user 0, which is root: name another"
	case user != nil, nonRoot != nil && *nonRoot:
		return "", ""
	}
	return "securityContext.runAsNonRoot", "may run as root: set securityContext.runAsNonRoot of it or its Pod to true"
}

func writableRoot(p *pod, c container) (field, message string) {
	if s := c.SecurityContext; p.windows() || s != nil && s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem {
		return "", ""
	}
	return "securityContext.readOnlyRootFilesystem", "can write to its image: set it to true, and mount an emptyDir where it writes"
}
