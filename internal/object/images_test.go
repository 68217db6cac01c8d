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
