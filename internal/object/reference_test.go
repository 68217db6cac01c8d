package object

import (
	"regexp"
	"strings"
	"testing"
)

func TestParseImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	tests := []struct {
		reason, name string
		want         ImageName // zero: it is refused
	}{
		{"a bare word", "nginx", ImageName{"docker.io", "library/nginx", "", ""}},
		{"with a tag", "nginx:1.25", ImageName{"docker.io", "library/nginx", "1.25", ""}},
		{"of a user", "grafana/grafana:11", ImageName{"docker.io", "grafana/grafana", "11", ""}},
		{"the registry that is meant, said", "docker.io/nginx", ImageName{"docker.io", "library/nginx", "", ""}},
		{"its other name", "index.docker.io/nginx", ImageName{"docker.io", "library/nginx", "", ""}},
		{"its other name, said whole", "index.docker.io/library/nginx", ImageName{"docker.io", "library/nginx", "", ""}},
		{"a host of one word is a user", "registry/app", ImageName{"docker.io", "registry/app", "", ""}},
		{"a port makes a host", "registry:5000/app", ImageName{"registry:5000", "app", "", ""}},
		{"a port is no tag", "registry.example.com:5000/app", ImageName{"registry.example.com:5000", "app", "", ""}},
		{"a host alone is an image of Docker Hub", "ghcr.io:v1", ImageName{"docker.io", "library/ghcr.io", "v1", ""}},
		{"localhost", "localhost/app", ImageName{"localhost", "app", "", ""}},
		{"an address", "10.0.0.1:5000/a/b/c:v1", ImageName{"10.0.0.1:5000", "a/b/c", "v1", ""}},
		{"an address of IPv6", "[::1]:5000/app", ImageName{"[::1]:5000", "app", "", ""}},
		{"a digest", "ghcr.io/o/app@" + digest, ImageName{"ghcr.io", "o/app", "", digest}},
		{"tag and digest", "ghcr.io/o/app:v1@" + digest, ImageName{"ghcr.io", "o/app", "v1", digest}},
		{reason: "empty", name: ""},
		{reason: "blanks", name: " nginx"},
		{reason: "a line break", name: "nginx\n"},
		{reason: "a user before the host", name: "ghcr.io@evil.org/app"},
		{reason: "a user and a word before the host", name: "user:word@ghcr.io/app"},
		{reason: "a scheme", name: "https://ghcr.io/app"},
		{reason: "a host in upper case", name: "GHCR.io/app"},
		{reason: "a host that only upper case makes one", name: "GHCR/app"},
		{reason: "a repository in upper case", name: "ghcr.io/App"},
		{reason: "a host with a dot at its end", name: "ghcr.io./app"},
		{reason: "a host with an empty label", name: "ghcr..io/app"},
		{reason: "a way up", name: "ghcr.io/../app"},
		{reason: "an empty part", name: "ghcr.io//app"},
		{reason: "a slash at the end", name: "ghcr.io/app/"},
		{reason: "a query", name: "ghcr.io/app?x"},
		{reason: "a percent sign", name: "ghcr.io/a%2fb"},
		{reason: "a port that is none", name: "ghcr.io:port/app"},
		{reason: "an empty tag", name: "nginx:"},
		{reason: "a tag that is none", name: "nginx:-x"},
		{reason: "another algorithm", name: "nginx@sha512:" + strings.Repeat("0", 128)},
		{reason: "a short digest", name: "nginx@sha256:00"},
		{reason: "a digest in upper case", name: "nginx@sha256:" + strings.Repeat("A", 64)},
		{reason: "two digests", name: "nginx@" + digest + "@" + digest},
		{reason: "an id", name: strings.Repeat("0a", 32)},
		{reason: "letters that look like others", name: "ghcr.iо/app"},
		{reason: "too long", name: "ghcr.io/" + strings.Repeat("a", 300)},
	}
	for _, tc := range tests {
		got, err := ParseImage(tc.name)
		if (err != nil) != (tc.want == ImageName{}) || got != tc.want {
			t.Errorf("%s: %q: %+v, %v", tc.reason, tc.name, got, err)
		}
	}
}

func TestImagePattern(t *testing.T) {
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"**", []string{"nginx", "ghcr.io/a/b", "localhost:5000/x"}, nil},
		{"nginx", []string{"nginx", "docker.io/library/nginx:1", "index.docker.io/nginx"}, []string{"evil/nginx", "ghcr.io/nginx", "nginx2", "ghcr.io/library/nginx"}},
		{"grafana/*", []string{"grafana/grafana", "docker.io/grafana/loki"}, []string{"ghcr.io/grafana/grafana", "grafana/a/b"}},
		{"grafana/**", []string{"grafana/grafana", "grafana/a/b"}, []string{"nginx", "ghcr.io/grafana/x"}},
		{"index.docker.io/**", []string{"nginx", "a/b"}, []string{"ghcr.io/x"}},
		{"docker.io/**", []string{"nginx", "grafana/grafana"}, []string{"docker.io.evil.org/nginx", "ghcr.io/docker.io/nginx"}},
		{"index.docker.io/library/*", []string{"nginx"}, []string{"grafana/grafana"}},
		{"registry.example.com", []string{"registry.example.com/a", "registry.example.com/a/b"}, []string{
			"registry.example.com.evil.org/a", "registry.example.com:5000/a", "evil.org/registry.example.com/a", "registry-example.com/a", "nginx",
		}},
		{"registry.example.com/**", []string{"registry.example.com/a/b/c"}, []string{"registry.example.com.evil.org/a", "xregistry.example.com/a"}},
		{"registry.example.com/*", []string{"registry.example.com/a"}, []string{"registry.example.com/a/b"}},
		{"registry.example.com:5000/team/**", []string{"registry.example.com:5000/team/a"}, []string{"registry.example.com/team/a", "registry.example.com:5000/teams/a", "registry.example.com:5000/team"}},
		{"*.example.com/**", []string{"a.example.com/x", "a.b.example.com/x"}, []string{"example.com/x", "a.example.com.evil.org/x", "aexample.com/x"}},
		{"*/team/app", []string{"ghcr.io/team/app", "team/app"}, []string{"ghcr.io/other/app"}},
		{"**/app", []string{"ghcr.io/team/app", "ghcr.io/app", "docker.io/app/app"}, []string{"ghcr.io/team/myapp", "ghcr.io/app/x"}},
		{"ghcr.io/team-*/app-**", []string{"ghcr.io/team-a/app-x/y"}, []string{"ghcr.io/team-a/b/app-x"}},
	}
	for _, tc := range tests {
		p, err := ParseImagePattern(tc.pattern)
		if err != nil {
			t.Errorf("%s: %v", tc.pattern, err)
			continue
		}
		for want, names := range map[bool][]string{true: tc.yes, false: tc.no} {
			for _, name := range names {
				n, err := ParseImage(name)
				if err != nil {
					t.Fatal(err)
				}
				if p.Matches(n) != want {
					t.Errorf("%s matches %s: %v", tc.pattern, name, !want)
				}
			}
		}
	}
	for _, wrong := range []string{
		"", "registry.example.com*", "registry.example.com**/x", "registry.*.com/x", "reg*/x", "*example.com/x", "REGISTRY.example.com/**",
		"user@registry.example.com/**", "ghcr.io/app:v1", "ghcr.io/app@sha256:00", "ghcr.io/[a-z]", "ghcr.io/", "https://ghcr.io/**", "ghcr.io/a b", "*/[ab]", "*/app:v1",
	} {
		if _, err := ParseImagePattern(wrong); err == nil {
			t.Errorf("%q is a pattern", wrong)
		}
		if !Concerns([]string{wrong}, ImageName{Registry: "ghcr.io", Repository: "app"}) {
			t.Errorf("%q: what cannot be read must be for every image", wrong)
		}
	}
	if !Concerns(nil, ImageName{}) || Concerns([]string{"ghcr.io"}, ImageName{Registry: "docker.io", Repository: "library/x"}) {
		t.Error("no pattern is every image; one is its own")
	}
}

// FuzzWild holds the matching to what regular expressions say.
func FuzzWild(f *testing.F) {
	for _, seed := range [][2]string{{"a*b", "axb"}, {"**/x", "a/b/x"}, {"*a*b**c", "aab/bc"}, {"**a*b", "aa/ab"}, {"***", "a/b"}, {"*", ""}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if len(pattern) > 30 || len(value) > 100 {
			return
		}
		expression := regexp.QuoteMeta(pattern)
		expression = strings.ReplaceAll(expression, `\*\*`, "\x00")
		expression = strings.ReplaceAll(expression, `\*`, "[^/]*")
		expression = strings.ReplaceAll(expression, "\x00", ".*")
		want, err := regexp.MatchString("^(?s:"+expression+")$", value)
		if err != nil || strings.Contains(pattern, "\x00") || !validText(pattern) || !validText(value) {
			return
		}
		if got := Wild(pattern, value); got != want {
			t.Errorf("Wild(%q, %q) = %v", pattern, value, got)
		}
	})
}

func validText(s string) bool { return strings.ToValidUTF8(s, "") == s }

// FuzzParseImage holds what is read to mean itself when it is read again.
func FuzzParseImage(f *testing.F) {
	for _, seed := range []string{"nginx", "ghcr.io/a/b:v1", "localhost:5000/x@sha256:" + strings.Repeat("0", 64), "a@b", "[::1]:1/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		n, err := ParseImage(name)
		if err != nil {
			return
		}
		again, err := ParseImage(n.String())
		if err != nil || again != n {
			t.Errorf("%q is %+v, and that is %+v, %v", name, n, again, err)
		}
	})
}
