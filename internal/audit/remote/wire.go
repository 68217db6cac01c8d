// Package remote reads the audit log of a controller from elsewhere: what is said
// over the wire, who may ask for what, and a client that finds its way through the
// API server of the cluster that the controller runs in.
//
// Whoever asks shows a short-lived token of a service account, made for this and
// nothing else ([Audience]), in a header of its own ([Header]): the API server, when
// it stands between, takes Authorization for itself. The controller has the token
// reviewed, and asks the API server whether its bearer may `get` auditlogs of
// holdfast.dev, in all namespaces or in one. With the right in one namespace only the
// entries of deliveries in it are told, and nothing of the log as it is stored.
package remote

import (
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
)

// What is agreed between the controller and its readers.
const (
	Header   = "Holdfast-Audit-Token"
	Audience = "holdfast-audit"

	// Group and Resource are what the right to read is about; the verb is get. No such
	// kind is served: it exists for RBAC.
	Group    = "holdfast.dev"
	Resource = "auditlogs"

	// Account is the service account whose tokens the command line asks for.
	Account = "holdfast-audit-reader"
)

// The paths. Below Root the log lies as it is stored (https://c2sp.org/tlog-tiles,
// and records), for those who may read all of it.
const (
	Root        = "/audit/"
	PathEntries = Root + "v1/entries"
	PathAbout   = Root + "v1/about"

	// KeyName is, below Root, the public key that the log is signed with.
	KeyName = "v1/key"
)

// Bounds of one answer.
const (
	MaxEntries = 1000    // in a page
	MaxScan    = 20_000  // entries that are looked at for a page
	MaxPage    = 4 << 20 // bytes of entries in a page, the last one apart
	MaxAbout   = 50      // entries about an object
)

// Found is an entry of the log.
type Found struct {
	Index uint64      `json:"index"`
	Entry audit.Entry `json:"entry"`
	// Change is what the entry did to the object that was asked about; nil where none was.
	Change *audit.Change `json:"change,omitempty"`
	// Record is the entry's, without its objects; nil where no object was asked about.
	Record *audit.Record `json:"record,omitempty"`
	// Outcome closes an intent; nil where it is not there yet, or was not asked for.
	Outcome *Found `json:"outcome,omitempty"`
}

// Query chooses entries.
type Query struct {
	// Namespace, if not empty, is the only one whose deliveries' entries are told; the
	// right to read is asked for in it.
	Namespace string
	Delivery  string // Kind/namespace/name; empty: any
	Action    audit.Action
	Since     time.Time
	// From is the first index that is told, oldest first; nil: the newest entries
	// before Before are, newest first.
	From   *uint64
	Before *uint64 // nil: the end of the log
	Limit  int     // 0: MaxEntries
}

// Page is an answer to a Query. It may be short, or empty, before the end: a page is
// bounded by what it takes to look for it.
type Page struct {
	Entries []Found `json:"entries"`
	// Next is where to go on: From, or Before, of the next query; nil at the end.
	// Towards the end of the log it is never nil: more entries may come.
	Next *uint64 `json:"next,omitempty"`
	Size uint64  `json:"size"` // of the log
}

// Matches reports whether an entry is one that q chooses, wherever it stands.
func (q *Query) Matches(e *audit.Entry) bool {
	return (q.Delivery == "" || e.Delivery == q.Delivery || slices.Contains(e.Deliveries, q.Delivery)) &&
		(q.Action == "" || e.Action == q.Action) &&
		!e.Time.Before(q.Since)
}

// Visible returns what of an entry readers of one namespace may see, and whether
// that is anything: the entries of its deliveries, and of an entry that several
// deliveries share, the names of those of the namespace.
func Visible(e audit.Entry, namespace string) (audit.Entry, bool) {
	if namespace == "" {
		return e, true
	}
	within := func(delivery string) bool {
		parts := strings.Split(delivery, "/")
		return len(parts) == 3 && parts[1] == namespace
	}
	if e.Delivery != "" && !within(e.Delivery) {
		return audit.Entry{}, false
	}
	e.Deliveries = slices.DeleteFunc(slices.Clone(e.Deliveries), func(d string) bool { return !within(d) })
	return e, e.Delivery != "" || len(e.Deliveries) > 0
}
