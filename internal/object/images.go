package object

import (
	"maps"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/trust"
)

// podSpecs are where built-in kinds, and one that everybody has, keep the
// specification of their Pods.
var podSpecs = map[ID]string{
	{Kind: "Pod"}:                           "spec",
	{Kind: "PodTemplate"}:                   "template.spec",
	{Kind: "ReplicationController"}:         "spec.template.spec",
	{Group: "apps", Kind: "Deployment"}:     "spec.template.spec",
	{Group: "apps", Kind: "StatefulSet"}:    "spec.template.spec",
	{Group: "apps", Kind: "DaemonSet"}:      "spec.template.spec",
	{Group: "apps", Kind: "ReplicaSet"}:     "spec.template.spec",
	{Group: "batch", Kind: "Job"}:           "spec.template.spec",
	{Group: "batch", Kind: "CronJob"}:       "spec.jobTemplate.spec.template.spec",
	{Group: "argoproj.io", Kind: "Rollout"}: "spec.template.spec",
}

// inPodSpec are where the specification of a Pod names images.
var inPodSpec = []string{
	"initContainers[].image", "containers[].image", "ephemeralContainers[].image", "volumes[].image.reference",
}

// knownPaths are where well-known custom resources name images.
var knownPaths = []trust.ImagePath{
	{Group: "serving.knative.dev", Kind: "Service", Path: "spec.template.spec.containers[].image"},
	{Group: "serving.knative.dev", Kind: "Service", Path: "spec.template.spec.initContainers[].image"},
	{Group: "serving.knative.dev", Kind: "Configuration", Path: "spec.template.spec.containers[].image"},
	{Group: "tekton.dev", Kind: "Task", Path: "spec.steps[].image"},
	{Group: "tekton.dev", Kind: "Task", Path: "spec.sidecars[].image"},
	{Group: "tekton.dev", Kind: "Task", Path: "spec.stepTemplate.image"},
	{Group: "argoproj.io", Kind: "Workflow", Path: "spec.templates[].container.image"},
	{Group: "argoproj.io", Kind: "Workflow", Path: "spec.templates[].script.image"},
	{Group: "argoproj.io", Kind: "WorkflowTemplate", Path: "spec.templates[].container.image"},
	{Group: "argoproj.io", Kind: "WorkflowTemplate", Path: "spec.templates[].script.image"},
	{Group: "argoproj.io", Kind: "ClusterWorkflowTemplate", Path: "spec.templates[].container.image"},
	{Group: "argoproj.io", Kind: "ClusterWorkflowTemplate", Path: "spec.templates[].script.image"},
	{Group: "argoproj.io", Kind: "CronWorkflow", Path: "spec.workflowSpec.templates[].container.image"},
	{Group: "argoproj.io", Kind: "CronWorkflow", Path: "spec.workflowSpec.templates[].script.image"},
	{Group: "monitoring.coreos.com", Kind: "Prometheus", Path: "spec.image"},
	{Group: "monitoring.coreos.com", Kind: "Prometheus", Path: "spec.containers[].image"},
	{Group: "monitoring.coreos.com", Kind: "Alertmanager", Path: "spec.image"},
	{Group: "monitoring.coreos.com", Kind: "ThanosRuler", Path: "spec.image"},
	{Group: "opentelemetry.io", Kind: "OpenTelemetryCollector", Path: "spec.image"},
	{Group: "postgresql.cnpg.io", Kind: "Cluster", Path: "spec.imageName"},
	{Group: "kafka.strimzi.io", Kind: "Kafka", Path: "spec.kafka.image"},
	{Group: "k8s.elastic.co", Kind: "Elasticsearch", Path: "spec.image"},
	{Group: "k8s.elastic.co", Kind: "Kibana", Path: "spec.image"},
	{Group: "batch.volcano.sh", Kind: "Job", Path: "spec.tasks[].template.spec.containers[].image"},
	{Group: "batch.volcano.sh", Kind: "Job", Path: "spec.tasks[].template.spec.initContainers[].image"},
}

// Images returns the images that the workloads among objects run, sorted, each once.
func Images(objects []Object) []string { return ImagesAt(objects, nil) }

// ImagesAt is [Images], with those that custom resources name at paths besides.
func ImagesAt(objects []Object, paths []trust.ImagePath) []string {
	images := map[string]bool{}
	for i := range objects {
		visitImages(&objects[i], paths, func(holder map[string]any, field string) {
			if image, _ := holder[field].(string); image != "" {
				images[image] = true
			}
		})
	}
	return slices.Sorted(maps.Keys(images))
}

// PinImages returns objects with each image that pins names (as the objects have
// it) followed by its digest: name:tag@sha256:... An object that changes is a
// copy; a name that has a digest stays as it is. paths are those of [ImagesAt].
func PinImages(objects []Object, pins map[string]string, paths ...trust.ImagePath) []Object {
	pinned := objects
	for i := range objects {
		changes := false
		visitImages(&objects[i], paths, func(holder map[string]any, field string) {
			image, _ := holder[field].(string)
			changes = changes || pinnable(image, pins)
		})
		if !changes {
			continue
		}
		if &pinned[0] == &objects[0] {
			pinned = slices.Clone(objects)
		}
		o := &pinned[i]
		o.Object = objects[i].DeepCopy().Object
		visitImages(o, paths, func(holder map[string]any, field string) {
			if image, _ := holder[field].(string); pinnable(image, pins) {
				holder[field] = image + "@" + pins[image]
			}
		})
	}
	return pinned
}

func pinnable(image string, pins map[string]string) bool {
	return pins[image] != "" && !strings.Contains(image, "@")
}

// visitImages calls visit with each map of o that may name an image in field.
func visitImages(o *Object, paths []trust.ImagePath, visit func(holder map[string]any, field string)) {
	group, kind := o.GroupVersionKind().Group, o.GetKind()
	if spec, ok := podSpecs[ID{Group: group, Kind: kind}]; ok {
		for _, path := range inPodSpec {
			walkPath(o.Object, spec+"."+path, visit)
		}
	}
	for _, list := range [][]trust.ImagePath{knownPaths, paths} {
		for _, p := range list {
			if p.Group == group && p.Kind == kind {
				walkPath(o.Object, p.Path, visit)
			}
		}
	}
}

// walkPath goes down a path of dotted fields, where [] is every item of a list,
// and calls visit with what holds the last field. What has another form than the
// path says holds no image there.
func walkPath(at any, path string, visit func(holder map[string]any, field string)) {
	holder, ok := at.(map[string]any)
	if !ok {
		return
	}
	field, rest, more := strings.Cut(path, ".")
	name, list := strings.CutSuffix(field, "[]")
	switch {
	case !more && !list:
		visit(holder, name)
	case !list:
		walkPath(holder[name], rest, visit)
	default:
		items, _ := holder[name].([]any)
		for i, item := range items {
			if more {
				walkPath(item, rest, visit)
			} else {
				visitItem(items, i, visit)
			}
		}
	}
}

// visitItem has visit see item i of a list of images as the field of a map, and
// takes over what it made of it.
func visitItem(items []any, i int, visit func(holder map[string]any, field string)) {
	const field = "item"
	holder := map[string]any{field: items[i]}
	visit(holder, field)
	items[i] = holder[field]
}
