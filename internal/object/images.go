package object

import (
	"maps"
	"slices"
	"strings"
)

// ImagePath says where objects of a kind name images: dotted fields, [] for every
// item of a list.
type ImagePath struct {
	Group, Kind string
	Path        string
}

// family are kinds that hold the same thing, which names images, at places of theirs.
type family struct {
	at map[ID][]string // places, by kind
	in []string        // where the thing names images
}

// podSpecs are where kinds have the specification of Pods, or what has its form.
var podSpecs = map[ID][]string{
	{Kind: "Pod"}:                                               {"spec"},
	{Kind: "PodTemplate"}:                                       {"template.spec"},
	{Kind: "ReplicationController"}:                             {"spec.template.spec"},
	{Group: "apps", Kind: "Deployment"}:                         {"spec.template.spec"},
	{Group: "apps", Kind: "StatefulSet"}:                        {"spec.template.spec"},
	{Group: "apps", Kind: "DaemonSet"}:                          {"spec.template.spec"},
	{Group: "apps", Kind: "ReplicaSet"}:                         {"spec.template.spec"},
	{Group: "batch", Kind: "Job"}:                               {"spec.template.spec"},
	{Group: "batch", Kind: "CronJob"}:                           {"spec.jobTemplate.spec.template.spec"},
	{Group: "argoproj.io", Kind: "Rollout"}:                     {"spec.template.spec"},
	{Group: "argoproj.io", Kind: "AnalysisTemplate"}:            {"spec.metrics[].provider.job.spec.template.spec"},
	{Group: "argoproj.io", Kind: "AnalysisRun"}:                 {"spec.metrics[].provider.job.spec.template.spec"},
	{Group: "argoproj.io", Kind: "ClusterAnalysisTemplate"}:     {"spec.metrics[].provider.job.spec.template.spec"},
	{Group: "apps.kruise.io", Kind: "CloneSet"}:                 {"spec.template.spec"},
	{Group: "apps.kruise.io", Kind: "StatefulSet"}:              {"spec.template.spec"},
	{Group: "apps.kruise.io", Kind: "DaemonSet"}:                {"spec.template.spec"},
	{Group: "apps.openshift.io", Kind: "DeploymentConfig"}:      {"spec.template.spec"},
	{Group: "batch.volcano.sh", Kind: "Job"}:                    {"spec.tasks[].template.spec"},
	{Group: "jobset.x-k8s.io", Kind: "JobSet"}:                  {"spec.replicatedJobs[].template.spec.template.spec"},
	{Group: "keda.sh", Kind: "ScaledJob"}:                       {"spec.jobTargetRef.template.spec"},
	{Group: "serving.knative.dev", Kind: "Service"}:             {"spec.template.spec"},
	{Group: "serving.knative.dev", Kind: "Configuration"}:       {"spec.template.spec"},
	{Group: "monitoring.coreos.com", Kind: "Prometheus"}:        {"spec"},
	{Group: "monitoring.coreos.com", Kind: "PrometheusAgent"}:   {"spec"},
	{Group: "monitoring.coreos.com", Kind: "Alertmanager"}:      {"spec"},
	{Group: "monitoring.coreos.com", Kind: "ThanosRuler"}:       {"spec"},
	{Group: "opentelemetry.io", Kind: "OpenTelemetryCollector"}: {"spec"},
}

// families are those of built-in kinds, and of custom resources that many have: the
// specification of Pods, the templates of Argo Workflows, the tasks of Tekton.
var families = []family{
	{
		at: podSpecs,
		in: []string{"initContainers[].image", "containers[].image", "ephemeralContainers[].image", "volumes[].image.reference"},
	},
	{
		at: map[ID][]string{
			{Group: "argoproj.io", Kind: "Workflow"}:                {"spec.templates[]", "spec.templateDefaults"},
			{Group: "argoproj.io", Kind: "WorkflowTemplate"}:        {"spec.templates[]", "spec.templateDefaults"},
			{Group: "argoproj.io", Kind: "ClusterWorkflowTemplate"}: {"spec.templates[]", "spec.templateDefaults"},
			{Group: "argoproj.io", Kind: "CronWorkflow"}:            {"spec.workflowSpec.templates[]", "spec.workflowSpec.templateDefaults"},
		},
		in: []string{"container.image", "script.image", "containerSet.containers[].image", "initContainers[].image", "sidecars[].image"},
	},
	{
		at: map[ID][]string{
			{Group: "tekton.dev", Kind: "Task"}:        {"spec"},
			{Group: "tekton.dev", Kind: "ClusterTask"}: {"spec"},
			{Group: "tekton.dev", Kind: "TaskRun"}:     {"spec.taskSpec"},
			{Group: "tekton.dev", Kind: "Pipeline"}:    {"spec.tasks[].taskSpec", "spec.finally[].taskSpec"},
			{Group: "tekton.dev", Kind: "PipelineRun"}: {"spec.pipelineSpec.tasks[].taskSpec", "spec.pipelineSpec.finally[].taskSpec"},
		},
		in: []string{"steps[].image", "sidecars[].image", "stepTemplate.image"},
	},
}

// knownPaths are where other well-known custom resources name images.
var knownPaths = []ImagePath{
	{Group: "tekton.dev", Kind: "StepAction", Path: "spec.image"},
	{Group: "monitoring.coreos.com", Kind: "Prometheus", Path: "spec.image"},
	{Group: "monitoring.coreos.com", Kind: "PrometheusAgent", Path: "spec.image"},
	{Group: "monitoring.coreos.com", Kind: "Alertmanager", Path: "spec.image"},
	{Group: "monitoring.coreos.com", Kind: "ThanosRuler", Path: "spec.image"},
	{Group: "opentelemetry.io", Kind: "OpenTelemetryCollector", Path: "spec.image"},
	{Group: "postgresql.cnpg.io", Kind: "Cluster", Path: "spec.imageName"},
	{Group: "kafka.strimzi.io", Kind: "Kafka", Path: "spec.kafka.image"},
	{Group: "k8s.elastic.co", Kind: "Elasticsearch", Path: "spec.image"},
	{Group: "k8s.elastic.co", Kind: "Kibana", Path: "spec.image"},
}

// Images returns the images that the workloads among objects run, sorted, each once.
func Images(objects []Object) []string { return ImagesAt(objects, nil) }

// ImagesAt is [Images], with those that custom resources name at paths besides.
func ImagesAt(objects []Object, paths []ImagePath) []string {
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
func PinImages(objects []Object, pins map[string]string, paths ...ImagePath) []Object {
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
func visitImages(o *Object, paths []ImagePath, visit func(holder map[string]any, field string)) {
	group, kind := o.GroupVersionKind().Group, o.GetKind()
	for _, f := range families {
		for _, place := range f.at[ID{Group: group, Kind: kind}] {
			for _, path := range f.in {
				walkPath(o.Object, place+"."+path, visit)
			}
		}
	}
	for _, list := range [][]ImagePath{knownPaths, paths} {
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
