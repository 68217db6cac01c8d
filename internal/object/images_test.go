package object

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestImages(t *testing.T) {
	objects := []Object{
		{Unstructured: *parse(t, "{apiVersion: apps/v1, kind: Deployment, spec: {template: {spec: {initContainers: [{image: 'b:1'}], containers: [{image: 'c:1'}, {image: 'a:1'}]}}}}")},
		{Unstructured: *parse(t, "{apiVersion: batch/v1, kind: CronJob, spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: 'c:1'}, {name: none}]}}}}}}")},
		{Unstructured: *parse(t, "{apiVersion: v1, kind: Pod, spec: {containers: [{image: 'd:1'}]}}")},
		{Unstructured: *parse(t, "{apiVersion: example.org/v1, kind: Deployment, spec: {template: {spec: {containers: [{image: 'not:1'}]}}}}")},
		{Unstructured: *parse(t, "{apiVersion: v1, kind: Pod, spec: odd}")},
		{Unstructured: *parse(t, "{apiVersion: v1, kind: Pod, spec: {containers: {image: odd}}}")},
	}
	if diff := cmp.Diff([]string{"a:1", "b:1", "c:1", "d:1"}, Images(objects)); diff != "" {
		t.Errorf("sorted, each once, of built-in workloads (-want +got):\n%s", diff)
	}
}

func TestImagesAt(t *testing.T) {
	objects := []Object{
		{Unstructured: *parse(t, "{apiVersion: v1, kind: Pod, spec: {ephemeralContainers: [{image: 'debug:1'}], volumes: [{name: a, image: {reference: 'data:1'}}, {name: b, emptyDir: {}}]}}")},
		{Unstructured: *parse(t, "{apiVersion: tekton.dev/v1, kind: Task, spec: {steps: [{image: 'step:1'}]}}")},
		{Unstructured: *parse(t, "{apiVersion: argoproj.io/v1alpha1, kind: CronWorkflow, spec: {workflowSpec: {templateDefaults: {sidecars: [{image: 'default:1'}]}, templates: [{containerSet: {containers: [{image: 'set:1'}]}, initContainers: [{image: 'init:1'}]}]}}}")},
		{Unstructured: *parse(t, "{apiVersion: argoproj.io/v1alpha1, kind: AnalysisTemplate, spec: {metrics: [{provider: {job: {spec: {template: {spec: {containers: [{image: 'metric:1'}]}}}}}}]}}")},
		{Unstructured: *parse(t, "{apiVersion: tekton.dev/v1, kind: PipelineRun, spec: {pipelineSpec: {tasks: [{taskSpec: {steps: [{image: 'run:1'}]}}], finally: [{taskSpec: {sidecars: [{image: 'finally:1'}]}}]}}}")},
		{Unstructured: *parse(t, "{apiVersion: batch.volcano.sh/v1alpha1, kind: Job, spec: {tasks: [{template: {spec: {containers: [{image: 'volcano:1'}]}}}]}}")},
		{Unstructured: *parse(t, "{apiVersion: example.org/v1, kind: App, spec: {images: ['list:1', 7, 'list:2'], parts: [{image: 'part:1'}, odd], deep: {image: 'deep:1'}}}")},
		{Unstructured: *parse(t, "{apiVersion: example.org/v1, kind: Other, spec: {deep: {image: 'not:1'}}}")},
	}
	paths := []ImagePath{
		{Group: "example.org", Kind: "App", Path: "spec.images[]"},
		{Group: "example.org", Kind: "App", Path: "spec.parts[].image"},
		{Group: "example.org", Kind: "App", Path: "spec.deep.image"},
		{Group: "example.org", Kind: "App", Path: "spec.deep[].image"},
		{Group: "example.org", Kind: "App", Path: "spec.none.image"},
	}
	want := []string{
		"data:1", "debug:1", "deep:1", "default:1", "finally:1", "init:1", "list:1", "list:2", "metric:1", "part:1", "run:1", "set:1", "step:1", "volcano:1",
	}
	if diff := cmp.Diff(want, ImagesAt(objects, paths)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	pins := map[string]string{}
	for _, name := range want {
		pins[name] = "sha256:" + name
	}
	for _, pinned := range ImagesAt(PinImages(objects, pins, paths...), paths) {
		if pins[pinned] != "" {
			t.Errorf("%s is not pinned", pinned)
		}
	}
	if diff := cmp.Diff(want, ImagesAt(objects, paths)); diff != "" {
		t.Errorf("pinning changed the objects that it was given (-want +got):\n%s", diff)
	}
}

func TestPinImages(t *testing.T) {
	objects := []Object{
		{Unstructured: *parse(t, "{apiVersion: v1, kind: ConfigMap, data: {image: 'a:1'}}")},
		{Unstructured: *parse(t, "{apiVersion: apps/v1, kind: Deployment, spec: {template: {spec: {containers: [{name: x, image: 'a:1'}, {image: b}, {image: 'c:1@sha256:old'}, {image: 'd:1'}]}}}}"), Origin: Origin{File: "d.yaml", Line: 3}},
	}
	pinned := PinImages(objects, map[string]string{"a:1": "sha256:aa", "b": "sha256:bb", "c:1@sha256:old": "sha256:new"})
	want := []string{"a:1@sha256:aa", "b@sha256:bb", "c:1@sha256:old", "d:1"}
	if diff := cmp.Diff(want, Images(pinned)); diff != "" {
		t.Errorf("the tag stays, the digest follows (-want +got):\n%s", diff)
	}
	if pinned[1].Origin != objects[1].Origin {
		t.Errorf("from %v", pinned[1].Origin)
	}
	if got := PinImages(objects, nil); &got[0] != &objects[0] {
		t.Error("without pins there is nothing to copy")
	}
	if got := PinImages(nil, nil); got != nil {
		t.Error("nothing is nothing")
	}
}
