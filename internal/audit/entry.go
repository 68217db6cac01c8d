// Package audit is the log of every decision, append-only and tamper-evident: a
// Merkle tree over entries, whose checkpoints are signed notes
// (https://c2sp.org/tlog-tiles, https://c2sp.org/signed-note).
package audit

import (
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Action is what was decided.
type Action string

// The actions.
const (
	Sync      Action = "sync"      // a revision is applied; an intent, followed by an outcome
	Revert    Action = "revert"    // drift is reverted; an intent, followed by an outcome
	Retract   Action = "retract"   // the delivery is deleted, with what it holds; an intent, followed by an outcome
	Outcome   Action = "outcome"   // what came of the intent Of
	Refuse    Action = "refuse"    // a revision was not delivered
	Untouched Action = "untouched" // a commit changed nothing of Deliveries
	Rewind    Action = "rewind"    // a branch lost the commit that was delivered last
	Drift     Action = "drift"     // somebody else changed a managed object
	Suspend   Action = "suspend"
	Resume    Action = "resume"
	Rollback  Action = "rollback"
	Approve   Action = "approve" // prunes that waited for a word
	Policy    Action = "policy"  // a TrustPolicy changed
	Rekey     Action = "rekey"   // checkpoints are signed by another key from here on
)

// Actions lists all actions.
func Actions() []Action {
	return []Action{
		Sync, Revert, Retract, Outcome, Refuse, Untouched, Rewind, Drift, Suspend, Resume, Rollback, Approve, Policy, Rekey,
	}
}

// The results of an outcome.
const (
	ResultDelivered   = "delivered"
	ResultPartial     = "partial"
	ResultFailed      = "failed"
	ResultInterrupted = "interrupted" // the process ended before it could tell
)

// Entry is one decision. It holds no values of objects: those are in its record,
// which is kept beside the log under its digest.
type Entry struct {
	Time   time.Time `json:"time"`
	Action Action    `json:"action"`
	// Delivery is Kind/namespace/name of the custom resource; UID tells one of the
	// same name from another.
	Delivery   string   `json:"delivery,omitempty"`
	UID        string   `json:"uid,omitempty"`
	Deliveries []string `json:"deliveries,omitempty"` // of Untouched
	Source     *Source  `json:"source,omitempty"`
	Who        []Person `json:"who,omitempty"`
	// Of is the index of the intent that an outcome closes.
	Of *uint64 `json:"of,omitempty"`
	// Record is the digest (sha256:...) of what it was about: objects before and
	// after, render inputs, images. See [Record].
	Record string `json:"record,omitempty"`
	// Result of an outcome: one of the constants above.
	Result   string         `json:"result,omitempty"`
	Reason   string         `json:"reason,omitempty"` // why, in words; never a secret
	Verdicts []Verdict      `json:"verdicts,omitempty"`
	Commits  []trust.Commit `json:"commits,omitempty"` // evidence about them, bounded
	Counts   map[string]int `json:"counts,omitempty"`  // of objects, by operation or outcome
}

// Source is what was delivered.
type Source struct {
	URL    string `json:"url"`
	Ref    string `json:"ref,omitempty"`
	Commit string `json:"commit"`
	// Tree is the digest of the tree that was rendered.
	Tree string `json:"tree,omitempty"`
	// Verified are the names of the TrustPolicies to which the commit was proven, with
	// commas between. A range that they demand may begin behind it.
	Verified string `json:"verified,omitempty"`
}

// The roles in which people take part.
const (
	RoleAuthor    = "author"    // of the commit
	RoleCommitter = "committer" // of the commit
	RoleSigner    = "signer"    // of the commit, or of the tag that named it
	RoleRequester = "requester" // asked for the pass
	RoleApprover  = "approver"  // gave the word that prunes waited for
	RoleEditor    = "editor"    // wrote the object that the entry is about
)

// Person is who took part. A claim is what somebody says of themselves: the author
// line of a commit, a field manager, an annotation.
type Person struct {
	Role   string `json:"role"` // one of the constants above
	Name   string `json:"name"`
	Proven bool   `json:"proven"`
	By     string `json:"by,omitempty"` // what proves it: a key's fingerprint, the API server's audit log
}

// Verdict is what one rule said.
type Verdict struct {
	Rule    string `json:"rule"`    // e.g. trust/production/commits
	Outcome string `json:"outcome"` // pass, fail, audit (failed, and was only told), excused (by an exception)
	Object  string `json:"object,omitempty"`
	Message string `json:"message,omitempty"`
	// Revision is what the policy was read from; "" where it is a part of the cluster.
	Revision string `json:"revision,omitempty"`
}

// Record is what an entry was about, kept beside the log under the digest of its
// JSON. Digests of objects are over their JSON as applied; those of a Secret, or
// of an object with values from one, are keyed ("hmac-sha256:..."), so that they
// cannot be guessed.
type Record struct {
	Objects []Change      `json:"objects,omitempty"`
	Render  *Render       `json:"render,omitempty"`
	Images  []trust.Image `json:"images,omitempty"`
	// Verdicts and Commits are all of them, where the entry had room for the first
	// only.
	Verdicts []Verdict      `json:"verdicts,omitempty"`
	Commits  []trust.Commit `json:"commits,omitempty"`
}

// Change returns the change of an object, in whatever version it was applied; nil if
// the record names none.
func (r *Record) Change(object string) *Change {
	for i := range r.Objects {
		if objectKey(r.Objects[i].Object) == objectKey(object) {
			return &r.Objects[i]
		}
	}
	return nil
}

// Change is what is done to one object.
type Change struct {
	Object    string   `json:"object"` // see [ObjectName]
	Operation string   `json:"operation,omitempty"`
	Before    string   `json:"before,omitempty"` // digest; "" if it was not there, or is not known
	After     string   `json:"after,omitempty"`  // digest; "" if it is gone
	File      string   `json:"file,omitempty"`
	Line      int      `json:"line,omitempty"`
	Images    []string `json:"images,omitempty"` // that it runs, pinned
	// Outcome and Message of an outcome's record.
	Outcome string `json:"outcome,omitempty"`
	Message string `json:"message,omitempty"`
	UID     string `json:"uid,omitempty"`
	// By and Fields of drift: who changed what.
	By     string   `json:"by,omitempty"`
	Fields []string `json:"fields,omitempty"`
	Added  []string `json:"added,omitempty"` // fields that others added
}

// Render is what was rendered from what.
type Render struct {
	Tool   string            `json:"tool"`
	Path   string            `json:"path"`
	Inputs map[string]string `json:"inputs,omitempty"` // file → digest
	More   int               `json:"more,omitempty"`   // inputs beyond those listed
}

// ObjectName names an object as records do: group/version/Kind/namespace/name.
func ObjectName(id object.ID, version string) string {
	return strings.Join([]string{id.Group, version, id.Kind, id.Namespace, id.Name}, "/")
}

// objectKey is an object's identity without its version: the same object is applied
// in another one some day.
func objectKey(name string) string {
	parts := strings.SplitN(name, "/", 3)
	if len(parts) < 3 {
		return name
	}
	return parts[0] + "/" + parts[2]
}
