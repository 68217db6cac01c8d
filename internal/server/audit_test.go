package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/server"
)

// seed makes the same key in every run.
type seed byte

func (s seed) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s)
	}
	return len(p), nil
}

// record is a log with entries of two namespaces: 0 to 4.
func record(t *testing.T) (l *audit.Log, key audit.Key) {
	t.Helper()
	text, err := audit.NewKey(seed(7), "test")
	if err != nil {
		t.Fatal(err)
	}
	if key, err = audit.ParseKey(text); err != nil {
		t.Fatal(err)
	}
	l, err = audit.Open(t.Context(), audit.Options{Dir: t.TempDir(), Signer: key.Signer, Verifier: key.Verifier, Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // closed already where the test looks at the files
	const settings = "/v1/ConfigMap/shared/settings"
	change := &audit.Record{Objects: []audit.Change{{Object: settings, After: "sha256:1"}, {Object: "/v1/ConfigMap/shared/other"}}}
	zero := uint64(0)
	for _, e := range []struct {
		entry  audit.Entry
		record *audit.Record
	}{
		{audit.Entry{Action: audit.Sync, Delivery: "Kustomization/team-a/apps"}, change},
		{audit.Entry{Action: audit.Outcome, Delivery: "Kustomization/team-a/apps", Of: &zero, Result: audit.ResultDelivered}, change},
		{audit.Entry{Action: audit.Refuse, Delivery: "Application/team-b/shop", Reason: "not signed"}, change},
		{audit.Entry{Action: audit.Untouched, Deliveries: []string{"Kustomization/team-a/apps", "Application/team-b/shop"}}, nil},
		{audit.Entry{Action: audit.Policy, Reason: "production"}, nil},
	} {
		if _, err := l.Append(t.Context(), e.entry, e.record); err != nil {
			t.Fatal(err)
		}
	}
	return l, key
}

// rights are what bearers of tokens may read: namespaces, "" the whole log.
var rights = map[string]string{"auditor": "", "reader-a": "team-a"}

func review(_ context.Context, token, namespace string) (string, error) {
	right, known := rights[token]
	switch {
	case !known:
		return "", fault.New(fault.Unauthorized, "who is that")
	case right != "" && right != namespace:
		return "", fault.New(fault.Refused, "%s may not", token)
	}
	return token, nil
}

func serveAudit(t *testing.T) (client func(token string) *remote.Client, base string, key audit.Key) {
	t.Helper()
	l, key := record(t)
	s := httptest.NewServer(server.New(server.Options{Audit: &server.Audit{
		Log: remote.Kept(l), Files: audit.Files(l.Reader()), Key: key.Public, Review: review,
	}}).Handler())
	t.Cleanup(s.Close)
	return func(token string) *remote.Client {
		c, err := remote.Direct(s.URL, remote.Fixed(token))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}, s.URL, key
}

func TestAuditEntries(t *testing.T) {
	client, _, _ := serveAudit(t)
	from := func(i uint64) *uint64 { return &i }
	cases := map[string]struct {
		reason string
		token  string
		query  remote.Query
		want   []string
		kind   fault.Kind
		fails  bool
	}{
		"NoToken": {reason: "nobody in particular gets nothing", fails: true, kind: fault.Unauthorized},
		"Unknown": {reason: "a token that nobody knows gets nothing", token: "eve", fails: true, kind: fault.Unauthorized},
		"All": {
			reason: "newest first", token: "auditor",
			want: []string{"4 policy", "3 untouched [Kustomization/team-a/apps Application/team-b/shop]", "2 refuse Application/team-b/shop", "1 outcome Kustomization/team-a/apps", "0 sync Kustomization/team-a/apps"},
		},
		"From": {
			reason: "oldest first, from where somebody left off", token: "auditor", query: remote.Query{From: from(3)},
			want: []string{"3 untouched [Kustomization/team-a/apps Application/team-b/shop]", "4 policy"},
		},
		"BehindTheEnd": {reason: "who follows asks for what is not there yet", token: "auditor", query: remote.Query{From: from(5)}},
		"Before":       {reason: "the page before", token: "auditor", query: remote.Query{Before: from(1)}, want: []string{"0 sync Kustomization/team-a/apps"}},
		"Action":       {reason: "one action", token: "auditor", query: remote.Query{Action: audit.Refuse}, want: []string{"2 refuse Application/team-b/shop"}},
		"Delivery": {
			reason: "one delivery, of shared entries too", token: "auditor", query: remote.Query{Delivery: "Application/team-b/shop"},
			want: []string{"3 untouched [Kustomization/team-a/apps Application/team-b/shop]", "2 refuse Application/team-b/shop"},
		},
		"DeliveryAndAction": {
			reason: "the index knows them", token: "auditor", query: remote.Query{Delivery: "Application/team-b/shop", Action: audit.Refuse},
			want: []string{"2 refuse Application/team-b/shop"},
		},
		"Since": {reason: "nothing is newer than tomorrow", token: "auditor", query: remote.Query{Since: time.Now().Add(24 * time.Hour)}},
		"Namespaced": {
			reason: "a right in one namespace shows its deliveries, and not the names of others", token: "reader-a", query: remote.Query{Namespace: "team-a"},
			want: []string{"3 untouched [Kustomization/team-a/apps]", "1 outcome Kustomization/team-a/apps", "0 sync Kustomization/team-a/apps"},
		},
		"NamespacedAsksForAnother": {
			reason: "an index must not lead round the filter", token: "reader-a", query: remote.Query{Namespace: "team-a", Delivery: "Application/team-b/shop", Action: audit.Refuse},
		},
		"NamespacedAsksForAll":   {reason: "the whole log takes the whole right", token: "reader-a", fails: true, kind: fault.Refused},
		"NamespacedAsksForOther": {reason: "a right in one namespace is none in another", token: "reader-a", query: remote.Query{Namespace: "team-b"}, fails: true, kind: fault.Refused},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			page, err := client(tc.token).Entries(t.Context(), tc.query)
			if (err != nil) != tc.fails || tc.fails && fault.KindOf(err) != tc.kind {
				t.Fatalf("%s: got error %v", tc.reason, err)
			}
			var got []string
			for _, f := range page.Entries {
				line := fmt.Sprint(f.Index, " ", f.Entry.Action)
				if f.Entry.Delivery != "" {
					line += " " + f.Entry.Delivery
				}
				if len(f.Entry.Deliveries) > 0 {
					line += fmt.Sprint(" ", f.Entry.Deliveries)
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if !tc.fails && page.Size != 5 {
				t.Errorf("%s: the size of the log is %d", tc.reason, page.Size)
			}
		})
	}
}

func TestAuditPages(t *testing.T) {
	client, _, _ := serveAudit(t)
	var indexes []uint64
	q := remote.Query{Limit: 2}
	for {
		page, err := client("auditor").Entries(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.Entries {
			indexes = append(indexes, f.Index)
		}
		if q.Before = page.Next; q.Before == nil {
			break
		}
	}
	if diff := cmp.Diff([]uint64{4, 3, 2, 1, 0}, indexes); diff != "" {
		t.Errorf("pages join without a gap (-want +got):\n%s", diff)
	}
	zero := uint64(0)
	q, indexes = remote.Query{From: &zero, Limit: 2}, nil
	for len(indexes) < 5 {
		page, err := client("auditor").Entries(t.Context(), q)
		if err != nil || page.Next == nil || *page.Next == *q.From {
			t.Fatalf("next %v, %v", page.Next, err)
		}
		for _, f := range page.Entries {
			indexes = append(indexes, f.Index)
		}
		q.From = page.Next
	}
	if diff := cmp.Diff([]uint64{0, 1, 2, 3, 4}, indexes); diff != "" {
		t.Errorf("pages join without a gap (-want +got):\n%s", diff)
	}
}

func TestAuditAbout(t *testing.T) {
	client, _, _ := serveAudit(t)
	const settings = "/v2/ConfigMap/shared/settings" // in another version than it was applied
	type found struct {
		Index, Outcome uint64
		After          string
	}
	cases := map[string]struct {
		reason, token, object, namespace string
		want                             []found
		kind                             fault.Kind
		fails                            bool
	}{
		"All":        {reason: "what changed the object", token: "auditor", object: settings, want: []found{{2, 0, "sha256:1"}, {0, 1, "sha256:1"}}},
		"Namespaced": {reason: "what one's own deliveries did to it", token: "reader-a", object: settings, namespace: "team-a", want: []found{{0, 1, "sha256:1"}}},
		"Refused":    {reason: "who may read a namespace may not read about objects of others", token: "reader-a", object: settings, fails: true, kind: fault.Refused},
		"NoObject":   {reason: "garbage is refused", token: "auditor", object: "web", fails: true, kind: fault.Invalid},
		"Nothing":    {reason: "an unknown object is no failure", token: "auditor", object: "/v1/ConfigMap/shared/none"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			all, err := client(tc.token).About(t.Context(), tc.object, tc.namespace, 10)
			if (err != nil) != tc.fails || tc.fails && fault.KindOf(err) != tc.kind {
				t.Fatalf("%s: got error %v", tc.reason, err)
			}
			var got []found
			for _, f := range all {
				g := found{Index: f.Index}
				if f.Change != nil {
					g.After = f.Change.After
				}
				if f.Outcome != nil {
					g.Outcome = f.Outcome.Index
				}
				if f.Record != nil && f.Record.Objects != nil {
					t.Errorf("%s: other objects of the record are told", tc.reason)
				}
				got = append(got, g)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// The files of the log hold the entries of all.
func TestAuditFiles(t *testing.T) {
	client, base, key := serveAudit(t)
	verified := func(token string) error {
		_, err := audit.Verify(t.Context(), client(token), audit.VerifyOptions{Verifier: key.Verifier})
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; { // until a checkpoint signs it all
		if n, err := audit.Signed(t.Context(), client("auditor")); err == nil && n == 5 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("no checkpoint: %d, %v", n, err)
		}
	}
	if err := verified("auditor"); err != nil {
		t.Errorf("an auditor verifies it from elsewhere: %v", err)
	}
	if err := verified("reader-a"); fault.KindOf(err) != fault.Refused {
		t.Errorf("a reader of one namespace reads files: %v", err)
	}
	if err := verified(""); fault.KindOf(err) != fault.Unauthorized {
		t.Errorf("a stranger reads files: %v", err)
	}
	for _, path := range []string{"tile/entries/000.p/5?namespace=team-a", "checkpoint?namespace=team-a", "v1/key?namespace=team-a", "v1/entries/?namespace=team-a"} {
		if code := get(t, base+remote.Root+path, "reader-a"); code != http.StatusForbidden {
			t.Errorf("%s: a namespace in the address makes a reader of the whole: %d", path, code)
		}
	}
	for path, want := range map[string]int{
		"checkpoint": 200, "v1/key": 200, "lock": 404, ".state/treeState": 404, "../server_test.go": 404, "": 404,
		"v1/entries?limit=x": 400, "v1/entries?tail=1": 400, "v1/entries?from=1&before=2": 400, "v1/entries?from=-1": 400, "v1/entries?since=yesterday": 400,
		"v1/entries?namespace=team-a&namespace=": 400,
	} {
		if code := get(t, base+remote.Root+path, "auditor"); code != want {
			t.Errorf("GET %s: %d, want %d", path, code, want)
		}
	}
	if code := get(t, base+remote.PathEntries+"?namespace=team-a&namespace=", "reader-a"); code != http.StatusBadRequest {
		t.Errorf("two namespaces: one is judged, and the other answered: %d", code)
	}
	_, err := client("auditor").Read(t.Context(), "tile/0/999", 100)
	if fault.KindOf(err) != fault.NotFound {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := client("auditor").Read(t.Context(), "checkpoint", 10); fault.KindOf(err) != fault.Limit {
		t.Errorf("an answer without end: %v", err)
	}
}

func get(t *testing.T, url, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(remote.Header, token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode
}

// Requests beyond a few at once are asked to wait, whoever sends them.
func TestAuditAtOnce(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(server.New(server.Options{Audit: &server.Audit{
		Review: func(context.Context, string, string) (string, error) {
			enter <- struct{}{}
			<-leave
			return "", fault.New(fault.Unauthorized, "no")
		},
	}}).Handler())
	defer s.Close()
	done := make(chan int)
	for range 4 {
		go func() { done <- get(t, s.URL+remote.PathEntries, "x") }()
		<-enter
	}
	if code := get(t, s.URL+remote.PathEntries, "x"); code != http.StatusServiceUnavailable {
		t.Errorf("the fifth at once: %d", code)
	}
	close(leave)
	for range 4 {
		if code := <-done; code != http.StatusUnauthorized {
			t.Errorf("one of four: %d", code)
		}
	}
}
