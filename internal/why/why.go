// Package why tells the chain from people to a live object: who wrote, signed and
// approved what it was made from, what was judged, what it runs, when it was applied
// and what became of it since. Each link says by what it is proven, or that it is not.
//
// [Ask] gathers the facts, from the cluster and from the audit log; [Explain] is a
// function of them.
package why

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/audit/remote"
)

// State says what a link is worth.
type State string

// The states of links.
const (
	// Proven by a signature, a digest, the API server, or the audit log; see [Link.By].
	Proven State = "proven"
	// Claimed by somebody who could have written anything.
	Claimed State = "claimed"
	// Unproven: nobody has shown it, or nothing can be told.
	Unproven State = "unproven"
	// Broken: what is there contradicts what was recorded.
	Broken State = "broken"
	// None: there is nothing to prove.
	None State = "none"
)

// The names of links, in the order of the chain.
const (
	LinkObject   = "object"
	LinkOwner    = "owner"
	LinkDelivery = "delivery"
	LinkApplied  = "applied"
	LinkSource   = "source"
	LinkAuthor   = "author"
	LinkSigner   = "signer"
	LinkRequest  = "requested"
	LinkApproval = "approved"
	LinkRender   = "rendered"
	LinkPolicy   = "policy"
	LinkImage    = "image"
	LinkRunning  = "running"
	LinkDrift    = "drift"
	LinkLog      = "log"
)

// Link is one link of a chain. Some names come several times: a link for each image.
type Link struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Text says it in words: lines, of which those behind the first are details.
	Text []string `json:"text"`
	// By is what proves it, or whose claim it is.
	By string `json:"by,omitempty"`
}

// Chain is everything that is known about why an object is as it is.
type Chain struct {
	Object Object `json:"object"`
	// Owners leads from Object to what a delivery holds, which is the last.
	Owners   []Object `json:"owners,omitempty"`
	Delivery string   `json:"delivery,omitempty"` // Kind/namespace/name
	Links    []Link   `json:"links"`
	// Sync is the entry of the log by which the managed object is as it is; nil if
	// none is known.
	Sync *remote.Found `json:"sync,omitempty"`
	// Since are later entries about the object, oldest first.
	Since     []remote.Found `json:"since,omitempty"`
	Approvals []remote.Found `json:"approvals,omitempty"`
	Running   []Running      `json:"running,omitempty"`
}

// Object is an object in the cluster.
type Object struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Namespace  string    `json:"namespace,omitempty"`
	Name       string    `json:"name"`
	UID        string    `json:"uid,omitempty"` // empty: it is not in the cluster
	Created    time.Time `json:"created,omitzero"`
	Generation int64     `json:"generation,omitempty"`
}

// Running is what containers of live Pods run.
type Running struct {
	Image      string `json:"image"`             // as the Pod asks for it
	ImageID    string `json:"imageID,omitempty"` // as the node reports it; empty: not yet
	Containers int    `json:"containers"`
	State      State  `json:"state"` // whether it is what was pinned
}

// Facts are what a chain is made from.
type Facts struct {
	// Objects leads from the object that was asked for, by ownerReferences, to what a
	// delivery holds, or to one that nobody owns. An object that is not in the cluster
	// has no uid.
	Objects []*unstructured.Unstructured `json:"objects"`
	// Lost is the owner that the last object names and that could not be read; empty
	// where all could.
	Lost string `json:"lost,omitempty"`
	// Pods are those of the managed object, or the one asked for; bounded.
	Pods []*unstructured.Unstructured `json:"pods,omitempty"`
	// Marked is the delivery that the marks of the managed object name.
	Marked string `json:"marked,omitempty"`
	// Found are the entries about the managed object, newest first.
	Found []remote.Found `json:"found,omitempty"`
	// Approvals are the approvals of the delivery, newest first.
	Approvals []remote.Found `json:"approvals,omitempty"`
	// Log is why the log could not be read; empty if it could. Told says who told it.
	Log  string `json:"log,omitempty"`
	Told string `json:"told,omitempty"`
}

func about(u *unstructured.Unstructured) Object {
	return Object{
		APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(),
		UID: string(u.GetUID()), Created: u.GetCreationTimestamp().UTC(), Generation: u.GetGeneration(),
	}
}

// String renders Kind namespace/name.
func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}
