package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Request is one request that the API server got.
type Request struct {
	// User is who sent it, and As who they asked to be instead; As is empty if they did not.
	User, As string
	// UserAgent is what the client calls itself.
	UserAgent string
	// Verb is the API server's: get, list, watch, create, update, patch, delete, deletecollection. A server-side apply is a
	// patch.
	Verb string
	// Group, Version, Resource, Subresource, Namespace and Name say of what. They are empty for a URL that is no resource's.
	Group, Version, Resource, Subresource, Namespace, Name string
	// URI is the path and query.
	URI string
	// DryRun says that nothing was to be stored, as far as the URL tells: a deletion says so in its body.
	DryRun bool
	// FieldManager is the name a write gave itself.
	FieldManager string
	// Code is the answer's status code, or 0 while there is no answer, as in a watch that goes on.
	Code int
	// At is when it came in.
	At time.Time

	id   string
	done bool
}

// Filter says whether a request is of interest.
type Filter func(Request) bool

// ByUserAgent keeps the requests of clients whose name begins with prefix.
func ByUserAgent(prefix string) Filter {
	return func(r Request) bool { return strings.HasPrefix(r.UserAgent, prefix) }
}

// ByUser keeps the requests that were carried out as user, who may have been impersonated.
func ByUser(user string) Filter {
	return func(r Request) bool { return r.As == user || (r.As == "" && r.User == user) }
}

// ByVerb keeps the requests with one of verbs.
func ByVerb(verbs ...string) Filter {
	return func(r Request) bool { return slices.Contains(verbs, r.Verb) }
}

// InNamespace keeps the requests about objects of a namespace, and about the namespace itself.
func InNamespace(namespace string) Filter {
	return func(r Request) bool { return r.Namespace == namespace }
}

// Writes keeps the requests that store something if they succeed.
func Writes(r Request) bool {
	return !r.DryRun && ByVerb("create", "update", "patch", "delete", "deletecollection")(r)
}

// Mark is a moment in the life of a cluster.
type Mark int

// Mark returns the present moment, for RequestsSince.
func (c *Cluster) Mark(tb testing.TB) Mark {
	tb.Helper()
	return Mark(len(c.Requests(tb)))
}

// Requests returns the requests of clients since the cluster started that all filters keep, in the order in which they came
// in. A request whose answer anybody has is among them. The control plane's own are not.
func (c *Cluster) Requests(tb testing.TB, filters ...Filter) []Request {
	tb.Helper()
	return c.RequestsSince(tb, 0, filters...)
}

// RequestsSince is Requests of those that came in after mark.
func (c *Cluster) RequestsSince(tb testing.TB, mark Mark, filters ...Filter) []Request {
	tb.Helper()
	all, err := c.audit.settled()
	if err != nil {
		tb.Fatalf("read the audit log: %v", err)
	}
	return slices.DeleteFunc(all[mark:], func(r Request) bool {
		return slices.ContainsFunc(filters, func(keeps Filter) bool { return !keeps(r) })
	})
}

// Audited returns all requests so far, for programs that are no tests.
func (c *Cluster) Audited() ([]Request, error) { return c.audit.settled() }

// auditLog reads an audit log as it grows.
type auditLog struct {
	path string

	mu       sync.Mutex
	offset   int64
	requests []Request
	byID     map[string]int // index in requests
}

// event is one line of the log. The API server writes one when a request comes in, and another when it is done.
type event struct {
	AuditID    string    `json:"auditID"`
	Stage      string    `json:"stage"`
	RequestURI string    `json:"requestURI"`
	Verb       string    `json:"verb"`
	UserAgent  string    `json:"userAgent"`
	Received   time.Time `json:"requestReceivedTimestamp"`
	User       userInfo  `json:"user"`
	As         userInfo  `json:"impersonatedUser"`
	Object     objectRef `json:"objectRef"`
	Response   struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// userInfo is a user in an event.
type userInfo struct {
	Username string `json:"username"`
}

// objectRef is what an event's request is about.
type objectRef struct {
	APIGroup    string `json:"apiGroup"`
	APIVersion  string `json:"apiVersion"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
}

// settleWithin is how long settled waits for requests to be done, and settleDelay its pause between two looks at the file.
const (
	settleWithin = time.Second
	settleDelay  = 5 * time.Millisecond
)

// settled returns all requests, once those that have come in are done: what a client asked for is in the log before it has the
// answer, but the code of a long answer is written some microseconds after the client has it. Watches go on, and a request may
// hang, so it does not wait for long.
func (l *auditLog) settled() ([]Request, error) {
	requests, err := l.read()
	for deadline := time.Now().Add(settleWithin); err == nil && time.Now().Before(deadline); {
		if !slices.ContainsFunc(requests, func(r Request) bool { return !r.done && r.Verb != "watch" }) {
			break
		}
		time.Sleep(settleDelay)
		var later []Request
		if later, err = l.read(); err == nil {
			requests = later[:len(requests)]
		}
	}
	return requests, err
}

// read takes in what was added to the log and returns a copy of all requests.
func (l *auditLog) read() ([]Request, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" {
		return nil, errors.New("the cluster keeps none: start it with Options.Audit")
	}
	added, err := readFrom(l.path, l.offset)
	if err != nil {
		return nil, err
	}
	complete := added[:bytes.LastIndexByte(added, '\n')+1] // the last line may be half written
	l.offset += int64(len(complete))
	for line := range bytes.Lines(complete) {
		if err := l.add(line); err != nil {
			return nil, err
		}
	}
	return append([]Request(nil), l.requests...), nil
}

// readFrom reads a file from offset to its end. The API server makes the file with its first event.
func readFrom(path string, offset int64) ([]byte, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
}

// add takes in one line.
func (l *auditLog) add(line []byte) error {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("decode %q: %w", line, err)
	}
	request := e.request()
	if index, known := l.byID[request.id]; known {
		l.requests[index] = request // what the answer adds: the code, and the name of an object that got it on creation
		return nil
	}
	if l.byID == nil {
		l.byID = map[string]int{}
	}
	l.byID[request.id] = len(l.requests)
	l.requests = append(l.requests, request)
	return nil
}

// request is the request that the event is about.
func (e event) request() Request {
	r := Request{
		User:        e.User.Username,
		As:          e.As.Username,
		UserAgent:   e.UserAgent,
		Verb:        e.Verb,
		Group:       e.Object.APIGroup,
		Version:     e.Object.APIVersion,
		Resource:    e.Object.Resource,
		Subresource: e.Object.Subresource,
		Namespace:   e.Object.Namespace,
		Name:        e.Object.Name,
		URI:         e.RequestURI,
		Code:        e.Response.Code,
		At:          e.Received,
		id:          e.AuditID,
		done:        e.Stage != "RequestReceived",
	}
	if location, err := url.ParseRequestURI(e.RequestURI); err == nil {
		query := location.Query()
		r.DryRun = query.Has("dryRun")
		r.FieldManager = query.Get("fieldManager")
	}
	return r
}
