package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestCredentialsAreNeverPrinted(t *testing.T) {
	c := NewCredential("team/secret@1", Secret{Username: "robot-user", Password: "s3cret-word"})
	if got := c.Secret(); got.Username != "robot-user" || got.Password != "s3cret-word" {
		t.Fatalf("Basic is %q %q", got.Username, got.Password)
	}
	req := Request{URL: "https://host/x", Credential: c}
	type hidden struct{ request Request } // fmt cannot call methods of unexported fields
	values := map[string]any{
		"credential": c, "pointer": &c, "request": req, "hidden": hidden{req}, "list": []Credential{c},
		"map": map[string]Credential{"x": c}, "key": req.Key(),
	}
	var out bytes.Buffer
	for name, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, "%s "+verb+"\n", name, v)
		}
		raw, err := json.Marshal(v)
		if err != nil {
			t.Errorf("JSON of %s: %v", name, err)
		}
		out.Write(raw)
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("x", "value", v)
		}
	}
	for _, secret := range []string{"robot-user", "s3cret-word", fmt.Sprintf("%x", "robot-user"), fmt.Sprintf("%x", "s3cret-word")} {
		if i := strings.Index(out.String(), secret); i >= 0 {
			t.Errorf("%q was printed: …%s", secret, out.String()[max(0, i-80):i+len(secret)])
		}
	}
	if !strings.Contains(out.String(), "credential(team/secret@1)") {
		t.Error("the credential's name is not printed")
	}
}

func TestCheckURL(t *testing.T) {
	tests := []struct {
		url       string
		allowFile bool
		kind      fault.Kind // with text
		text      string
	}{
		{url: "https://github.com/org/repo"},
		{url: "https://github.com/org/repo.git"},
		{url: "http://10.0.0.1:3000/a/b.git/"},
		{url: "http://[::1]:8080/x"},
		{url: "file:///srv/git/x", allowFile: true},
		{url: "file:///srv/git/x", kind: fault.Refused, text: "file URLs give access to the controller's own disk"},
		{url: "FILE:///srv/git/x", kind: fault.Refused, text: "file URLs"},
		{url: "file://host/x", allowFile: true, kind: fault.Invalid, text: "three slashes"},
		{url: "https://user:hunter2@host/x", kind: fault.Refused, text: "put username and password into a Secret"},
		{url: "https://token@host/x", kind: fault.Refused, text: "holds credentials"},
		{url: "https://host/team/../other/x", kind: fault.Invalid, text: "holds . or .."},
		{url: "https://host/team/%2E%2e/other/x", kind: fault.Invalid, text: "holds . or .."},
		{url: "https://host/team/..%2Fother%2Fx", kind: fault.Invalid, text: "holds . or .."},
		{url: "https://host/team/..%5cother", kind: fault.Invalid, text: "holds . or .."},
		{url: "https://host/team/./x", kind: fault.Invalid, text: "holds . or .."},
		{url: "https://host/team/..x/...git"},
		{url: "ssh://git@host/team/../other", kind: fault.Invalid, text: "holds . or .."},
		{url: "ssh://git@host/team/%2e%2e/other", kind: fault.Invalid, text: "holds . or .."},
		{url: "git@host:team/../other", kind: fault.Invalid, text: "holds . or .."},
		{url: "ssh://git@host/org/x"},
		{url: "ssh://host:2222/x.git"},
		{url: "ssh://git@[::1]:22/~user/x"},
		{url: "git@host:org/x.git"},
		{url: "org-123@host.example.com:/srv/x"},
		{url: "ssh://git:hunter2@host/x", kind: fault.Refused, text: "put username and password into a Secret"},
		{url: "ssh://git@-oProxyCommand=x/y", kind: fault.Invalid},
		{url: "ssh://-x@host/y", kind: fault.Invalid, text: "a user that no server has"},
		{url: "ssh://%3bid@host/y", kind: fault.Invalid, text: "a user that no server has"},
		{url: "ssh://git@host/a%0ab", kind: fault.Invalid, text: "names no repository"},
		{url: "ssh://git@host", kind: fault.Invalid, text: "names no repository"},
		{url: "ssh://git@host/", kind: fault.Invalid, text: "names no repository"},
		{url: "ssh://git@host/x?a=b", kind: fault.Invalid, text: "no query"},
		{url: "git@host:", kind: fault.Invalid, text: "git@host:path"},
		{url: "git@host:-x", kind: fault.Invalid, text: "git@host:path"},
		{url: "git@host::x", kind: fault.Invalid, text: "git@host:path"},
		{url: "git@-host:x", kind: fault.Invalid, text: "git@host:path"},
		{url: "-git@host:x", kind: fault.Invalid, text: "git@host:path"},
		{url: "a@b@host:x", kind: fault.Invalid, text: "cannot exist"},
		{url: "git@host:x;id", kind: fault.Invalid, text: "characters"},
		{url: "git@host:$(id)", kind: fault.Invalid, text: "characters"},
		{url: "git@host:`id`", kind: fault.Invalid, text: "characters"},
		{url: "git:hunter2@host:x", kind: fault.Unsupported},
		{url: "git+ssh://git@host/x", kind: fault.Unsupported, text: `scheme "git+ssh"`},
		{url: "git://host/x", kind: fault.Unsupported, text: `scheme "git"`},
		{url: "ext::sh -c x", kind: fault.Invalid, text: "characters"},
		{url: "ext::sh", kind: fault.Unsupported},
		{url: "https://host/x;id", kind: fault.Invalid, text: "characters"},
		{url: "https://host/$(id)", kind: fault.Invalid, text: "characters"},
		{url: "https://host/x\nHost: y", kind: fault.Invalid, text: "characters"},
		{url: "https://host/x?a=b", kind: fault.Invalid, text: "no query"},
		{url: "https://host/x#y", kind: fault.Invalid, text: "no fragment"},
		{url: "https:///x", kind: fault.Invalid, text: "names no host"},
		{url: "https://:80/x", kind: fault.Invalid, text: "names no host"},
		{url: "https://-oProxyCommand=x/y", kind: fault.Invalid},
		{url: "https://host:hunter2/x", kind: fault.Invalid, text: "cannot be parsed"},
		{url: "/srv/git/x", kind: fault.Invalid, text: "no scheme"},
		{url: "host/x", kind: fault.Invalid, text: "no scheme"},
		{url: "", kind: fault.Invalid, text: "empty"},
		{url: "https://host/" + strings.Repeat("x", 3000), kind: fault.Invalid, text: "too long"},
	}
	for _, test := range tests {
		err := CheckURL(test.url, test.allowFile)
		if test.kind == 0 {
			if err != nil {
				t.Errorf("%q: %v", test.url, err)
			}
			continue
		}
		if err == nil || fault.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%q: %v, want %v with %q", test.url, err, test.kind, test.text)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error repeats a password: %v", test.url, err)
		}
	}
}

func TestSplitSSH(t *testing.T) {
	tests := []struct{ url, user, address, path string }{
		{"git@host:org/x.git", "git", "host:22", "org/x.git"},
		{"git@Host:/srv/x", "git", "host:22", "/srv/x"},
		{"ssh://git@host/org/x.git", "git", "host:22", "/org/x.git"},
		{"ssh://host:2222/x", "", "host:2222", "/x"},
		{"ssh://me@[::1]/~/x", "me", "[::1]:22", "~/x"},
		{"ssh://me@host/a%20b", "me", "host:22", "/a b"},
	}
	for _, test := range tests {
		user, address, path, ok := SplitSSH(test.url)
		if !ok || user != test.user || address != test.address || path != test.path {
			t.Errorf("%q: %q %q %q %v", test.url, user, address, path, ok)
		}
	}
	for _, url := range []string{"https://host/x", "file:///x", "http://git@host:22/x", "%zz"} {
		if _, _, _, ok := SplitSSH(url); ok {
			t.Errorf("%q is taken for ssh", url)
		}
	}
}

func TestNormalizeURL(t *testing.T) {
	same := [][]string{
		{
			"https://github.com/Org/Repo", "https://github.com/Org/Repo.git", "http://github.com/Org/Repo/", "https://GitHub.com/Org/Repo.git/",
			"https://user:pw@github.com:443/Org/Repo", "http://github.com:80//Org/Repo", "ssh://git@github.com/Org/Repo.git",
			"ssh://git@github.com:22/Org/Repo.git", "git@github.com:Org/Repo.git", "git@github.com:/Org/Repo", "git://github.com/Org/Repo",
			"github.com/Org/Repo", " https://github.com./Org/Repo ",
		},
		{"http://127.0.0.1:3000/x.git", "http://127.0.0.1:3000/x", "127.0.0.1:3000/x"},
		{"http://[::1]:80/x", "https://[::1]/x"},
		{"file:///srv/x.git", "file:///srv/x/"},
	}
	seen := map[string]int{}
	for i, group := range same {
		for _, raw := range group {
			got := NormalizeURL(raw)
			if got != NormalizeURL(group[0]) {
				t.Errorf("%q gives %q, want %q", raw, got, NormalizeURL(group[0]))
			}
			if j, ok := seen[got]; ok && j != i {
				t.Errorf("%q means the same in groups %d and %d", got, i, j)
			}
			seen[got] = i
		}
	}
	if got := NormalizeURL("https://github.com/Org/Repo.git"); got != "github.com/Org/Repo" {
		t.Errorf("normalised: %q", got)
	}
	for _, other := range []string{"https://github.com/org/repo", "https://github.com/Org/Repo2", "https://github.com:8443/Org/Repo", "file:///Org/Repo", "%zz://"} {
		if NormalizeURL(other) == "github.com/Org/Repo" {
			t.Errorf("%q must not mean github.com/Org/Repo", other)
		}
	}
}

func FuzzNormalizeURL(f *testing.F) {
	for _, seed := range []string{"https://a/b.git", "git@a:b", "http://h:443/p", "a:1/b", "file:///x/.git", "https://h/x.git/.git/", "x@y@z:8", "h.:80./a%2eb"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		once := NormalizeURL(raw)
		if twice := NormalizeURL(once); once != "" && twice != once {
			t.Errorf("%q gives %q, and that gives %q", raw, once, twice)
		}
		if err := CheckURL(raw, false); err == nil && once == "" {
			t.Errorf("%q is accepted and has no normal form", raw)
		}
	})
}
