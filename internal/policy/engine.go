package policy

import (
	"context"
	"encoding/json"

	"github.com/holdfastcd/holdfast/internal/object"
)

// Document is one file with policies.
type Document struct {
	// File is how verdicts name it: its path in the source, or the place in a PolicySet.
	File    string `json:"file"`
	Content []byte `json:"content"`
}

// Builtin switches on one of Holdfast's own policies, by its name.
type Builtin struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
}

// Case is what a delivery brings before its policies: all of it at once, as the API
// server would store it.
type Case struct {
	Subjects []Subject `json:"subjects"`
	Delivery Delivery  `json:"delivery"`
	// Alone: the subject is not the whole of a delivery, but what somebody writes by
	// itself. Rules on what goes together have nothing to say.
	Alone bool `json:"alone,omitempty"`
	// Namespaces are the labels of the namespaces that subjects lie in, as far as they
	// are known: those of the delivery itself, and of the cluster.
	Namespaces map[string]map[string]string `json:"namespaces,omitempty"`
	// Kubernetes is the version of the cluster, "1.36"; "" where nobody knows.
	Kubernetes string `json:"kubernetes,omitempty"`
}

// Subject is one object before the policies.
type Subject struct {
	// Object is complete: with its namespace, and what the API server would fill in.
	// Values of Secrets are hidden, see [Hidden].
	Object map[string]any `json:"object"`
	// Old is the object that is live now, which this one will replace; nil if there is
	// none, or nobody looked (in CI).
	Old map[string]any `json:"old,omitempty"`
	// Resource is the plural by which the API server knows the kind: "deployments".
	Resource   string `json:"resource"`
	Namespaced bool   `json:"namespaced"`
	// Of is the subject, by index, whose controller would make this one: a Pod of a
	// Deployment's template. nil: it is delivered itself. What is found wrong with it is
	// told of its maker.
	Of *int `json:"of,omitempty"`
	// Sealed: no value of this Secret stands in its source in plaintext. It was opened
	// from a SOPS file or a SealedSecret, or filled in from the cluster.
	Sealed bool          `json:"sealed,omitempty"`
	Origin object.Origin `json:"origin"`
}

// Delivery is who brings a case.
type Delivery struct {
	Kind       string            `json:"kind,omitempty"` // Kustomization or Application
	Namespace  string            `json:"namespace,omitempty"`
	Name       string            `json:"name,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Project    string            `json:"project,omitempty"`    // AppProject
	Repository string            `json:"repository,omitempty"` // without credentials
	Path       string            `json:"path,omitempty"`
	Revision   string            `json:"revision,omitempty"` // commit
	Author     string            `json:"author,omitempty"`   // address; a claim
	Signer     string            `json:"signer,omitempty"`   // who was proven to have signed; "" for nobody
	Account    string            `json:"account,omitempty"`  // the Kubernetes user that applies
}

// Engine judges by the policies of one language. It runs in a worker: what it reads was
// written by tenants.
type Engine interface {
	// Name is how messages call it: Rego, CEL, Kyverno, built in.
	Name() string
	// Compile takes those of the documents that are written in its language, and leaves
	// the others; claimed has an entry for each. What cannot be used is a flaw, never
	// left out in silence. Errors of ctx alone are returned.
	Compile(ctx context.Context, all []Document) (p Program, claimed []bool, flaws []Flaw, err error)
}

// Program is policies that were compiled. It is for one goroutine at a time.
type Program interface {
	// Judge returns what fails. Errors are *fault.Error: Limit where a policy takes too
	// long or too much; Invalid where one cannot be evaluated. Both refuse.
	Judge(ctx context.Context, c *Case) (Findings, error)
}

// Findings are what a program finds.
type Findings struct {
	List []Finding `json:"list"`
	// Flaws turned up while judging: a rule that could not be evaluated on an object.
	Flaws []Flaw `json:"flaws,omitempty"`
	// Judged counts, by policy, the subjects that it was for.
	Judged map[string]int `json:"judged,omitempty"`
}

// Finding is a rule that an object breaks.
type Finding struct {
	Policy  string `json:"policy"` // its name, or that of the package
	Rule    string `json:"rule,omitempty"`
	Subject int    `json:"subject"` // by index; -1: the delivery as a whole
	// Path is the field, as Kubernetes writes it: spec.template.spec.containers[0].image.
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	// Warn: the policy itself only warns (conftest's warn, Kyverno's Audit, a binding
	// with validationActions Warn or Audit).
	Warn      bool   `json:"warn,omitempty"`
	Severity  string `json:"severity,omitempty"`  // info, low, medium, high or critical; "" where nobody said
	Reference string `json:"reference,omitempty"` // an address that explains the rule
	File      string `json:"file,omitempty"`      // of the policy
	Line      int    `json:"line,omitempty"`
}

// Flaw is a policy that cannot do its work: it does not compile, uses what is not
// allowed or not known, can match nothing, or failed on an object.
type Flaw struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Policy  string `json:"policy,omitempty"` // where its name could be read
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}
