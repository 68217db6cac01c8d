package component

import "fmt"

// object is a Kubernetes object as JSON.
type object = map[string]any

// Object is an object that every cluster starts with, and the list it is posted to.
type Object struct {
	Path string
	Body any
}

// Objects are the objects a new cluster gets: nodes, so many, and a storage class.
func Objects(nodes int) []Object {
	all := []Object{{Path: "/apis/storage.k8s.io/v1/storageclasses", Body: storageClass()}}
	for i := range nodes {
		all = append(all, Object{Path: "/api/v1/nodes", Body: node(fmt.Sprintf("node-%d", i+1))})
	}
	return all
}

// node is a node with room for any test. kwok makes it ready.
func node(name string) object {
	room := object{"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "4Ti", "pods": "10000"}
	return object{
		"apiVersion": "v1",
		"kind":       "Node",
		"metadata": object{
			"name": name,
			"labels": object{
				"kubernetes.io/hostname": name,
				"kubernetes.io/os":       "linux",
				"kubernetes.io/arch":     "amd64",
			},
		},
		"status": object{
			"allocatable": room,
			"capacity":    room,
			"nodeInfo":    object{"operatingSystem": "linux", "architecture": "amd64", "kubeletVersion": "devcluster"},
		},
	}
}

// storageClass is the default class, for which the stages make volumes.
func storageClass() object {
	return object{
		"apiVersion": "storage.k8s.io/v1",
		"kind":       "StorageClass",
		"metadata": object{
			"name":        "standard",
			"annotations": object{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		"provisioner":       "devcluster.holdfast.dev/volume",
		"reclaimPolicy":     "Delete",
		"volumeBindingMode": "Immediate",
	}
}
