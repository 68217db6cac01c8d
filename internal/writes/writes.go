// Package writes remembers who wrote to objects lately, as the API server's audit log
// tells it (https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/). A field
// manager is a name that whoever writes gives to himself; the user of an audit event is
// who the API server authenticated. Only metadata of events is read, never a body.
package writes

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of the memory.
const (
	maxWrites  = 20000
	maxPerName = 64 // of one object
	maxName    = 512
	keepFor    = 5 * time.Minute
)

// Target is the object that was written to.
type Target struct {
	Group, Resource, Namespace, Name string
}

// Query asks who made one change.
type Query struct {
	Target
	// Manager is the field manager that the change is recorded under; empty: any.
	Manager string
	// At is when the API server recorded it, to the second; zero: whenever.
	At time.Time
	// Gone: the change is that the object was deleted.
	Gone bool
}

// Memory is what was told lately. It is safe for concurrent use.
type Memory struct {
	clock func() time.Time
	told  func()

	mu    sync.Mutex
	of    map[Target][]write
	order []Target // of each write, oldest first
}

// write is one write that succeeded.
type write struct {
	user, manager  string
	received, done time.Time
	gone           bool
}

// New returns an empty memory.
func New(clock func() time.Time) *Memory {
	return &Memory{clock: clock, of: map[Target][]write{}}
}

// OnNote sets who is told that there is something new; it must not block. It is set
// before the first note.
func (m *Memory) OnNote(told func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = told
}

// event is what is read of an audit event.
type event struct {
	Stage      string    `json:"stage"`
	RequestURI string    `json:"requestURI"`
	Verb       string    `json:"verb"`
	UserAgent  string    `json:"userAgent"`
	Received   time.Time `json:"requestReceivedTimestamp"`
	Staged     time.Time `json:"stageTimestamp"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	As *struct {
		Username string `json:"username"`
	} `json:"impersonatedUser"`
	Object *struct {
		APIGroup    string `json:"apiGroup"`
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
	} `json:"objectRef"`
	Response *struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// Note takes a list of audit events as JSON, the body of the API server's webhook, which
// the caller has bounded, and returns how many writes it told of. It fails with Invalid.
func (m *Memory) Note(body []byte) (int, error) {
	var list struct {
		Kind       string  `json:"kind"`
		APIVersion string  `json:"apiVersion"`
		Items      []event `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return 0, fault.New(fault.Invalid, "the body is no list of audit events in JSON")
	}
	if list.Kind != "EventList" || list.APIVersion != "audit.k8s.io/v1" {
		return 0, fault.New(fault.Invalid, "the body is no EventList of audit.k8s.io/v1")
	}
	n := 0
	m.mu.Lock()
	for i := range list.Items {
		if target, w, ok := list.Items[i].write(); ok {
			m.add(target, w)
			n++
		}
	}
	m.forget()
	told := m.told
	m.mu.Unlock()
	if n > 0 && told != nil {
		told()
	}
	return n, nil
}

// write reads a write that succeeded from an event.
func (e *event) write() (Target, write, bool) {
	if e.Stage != "ResponseComplete" || e.Object == nil || e.Response == nil || e.Response.Code/100 != 2 {
		return Target{}, write{}, false
	}
	if !slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, e.Verb) || e.Object.Subresource == "status" {
		return Target{}, write{}, false
	}
	query := url.Values{}
	if u, err := url.ParseRequestURI(e.RequestURI); err == nil {
		query = u.Query()
	}
	user := e.User.Username
	if e.As != nil && e.As.Username != "" {
		user = e.As.Username + ", asked for by " + user
	}
	if query.Get("dryRun") != "" || user == "" || len(user) > maxName {
		return Target{}, write{}, false
	}
	o := e.Object
	t := Target{Group: o.APIGroup, Resource: o.Resource, Namespace: o.Namespace, Name: o.Name}
	if len(t.Group)+len(t.Resource)+len(t.Namespace)+len(t.Name) > maxName {
		return Target{}, write{}, false
	}
	return t, write{
		user: strings.Clone(user), manager: managerOf(query.Get("fieldManager"), e.UserAgent),
		received: e.Received, done: e.Staged, gone: strings.HasPrefix(e.Verb, "delete"),
	}, true
}

// managerOf is the name that the API server records for a write: what the request says,
// or else the beginning of the client's name.
func managerOf(asked, agent string) string {
	const most = 128
	if asked == "" {
		asked, _, _ = strings.Cut(agent, "/")
	}
	return strings.Clone(asked[:min(len(asked), most)])
}

func (m *Memory) add(t Target, w write) {
	m.of[t] = append(m.of[t], w)
	m.of[t] = m.of[t][max(0, len(m.of[t])-maxPerName):]
	m.order = append(m.order, t)
}

// forget drops the oldest writes, where there are too many, and those that are too old.
func (m *Memory) forget() {
	oldest := m.clock().Add(-keepFor)
	n := max(0, len(m.order)-maxWrites)
	for n < len(m.order) {
		all := m.of[m.order[n]]
		if len(all) > 0 && !all[0].done.Before(oldest) {
			break
		}
		n++
	}
	for _, t := range m.order[:n] {
		if all := m.of[t]; len(all) > 1 {
			m.of[t] = all[1:]
		} else {
			delete(m.of, t)
		}
	}
	m.order = slices.Clone(m.order[n:])
}

// Wrote returns the users who may have made a change, each once: one, if the answer is
// certain; none, if nothing is known of it.
func (m *Memory) Wrote(q Query) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var users []string
	targets := []Target{q.Target}
	if q.Gone { // a deletion of a whole collection names no object, and one of a namespace takes all
		targets = append(targets, Target{q.Group, q.Resource, q.Namespace, ""}, Target{"", "namespaces", "", q.Namespace}, Target{"", "namespaces", q.Namespace, q.Namespace})
	}
	for _, t := range targets {
		for _, w := range m.of[t] {
			if w.gone == q.Gone && w.made(q) && !slices.Contains(users, w.user) {
				users = append(users, w.user)
			}
		}
		if len(users) > 0 {
			return users
		}
	}
	return nil
}

// made reports whether w may have made a change: it has its name, and was under way in
// the second of it.
func (w write) made(q Query) bool {
	if q.Manager != "" && w.manager != q.Manager {
		return false
	}
	if q.At.IsZero() {
		return true
	}
	at := q.At.Truncate(time.Second)
	return w.received.Before(at.Add(time.Second)) && !w.done.Before(at)
}
