package depot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		reason, text, want string // want: bucket, prefix; "" if it is refused
	}{
		{"a bucket", "s3://logs?region=eu-central-1", "logs "},
		{"a log of several in a bucket", "s3://logs/cluster-1/audit/?database=/etc/dsn", "logs cluster-1/audit"},
		{"what speaks like S3", "s3://logs?endpoint=https://minio.example:9000&path-style=true", "logs "},
		{"Google's", "gs://logs/a?spanner=projects/p/instances/i/databases/d", "logs a"},
		{"another scheme", "file:///var/log", ""},
		{"credentials in it", "s3://key:hunter2@logs", ""},
		{"credentials in the endpoint", "s3://logs?endpoint=https://key:hunter2@minio.example", ""},
		{"a password as a parameter", "s3://logs?password=hunter2", ""},
		{"Spanner beside S3", "s3://logs?spanner=x", ""},
		{"a parameter twice", "s3://logs?region=a&region=b", ""},
		{"a prefix out of the bucket", "s3://logs/../other", ""},
		{"no bucket", "s3:///x", ""},
		{"not an address", "s3://lo gs:hunter2", ""},
		{"no truth", "s3://logs?path-style=1", ""},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			a, err := parse(tc.text)
			if tc.want == "" {
				if fault.KindOf(err) != fault.Invalid || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%+v %v", a, err)
				}
				return
			}
			if got := a.bucket + " " + a.prefix; err != nil || got != tc.want {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("s3://logs/a?region=b")
	f.Fuzz(func(t *testing.T, text string) {
		if a, err := parse(text); err == nil && (a.bucket == "" || strings.Contains(a.prefix, "..")) {
			t.Errorf("%q: %+v", text, a)
		}
	})
}

func TestOpen(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "dsn")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("AWS_REGION", "")
	for _, tc := range []struct {
		reason, text string
		kind         fault.Kind
	}{
		{"no file", "s3://logs?region=a&database=" + dir + "/none", fault.NotFound},
		{"an empty file", "s3://logs?region=a&database=" + file(" \n"), fault.Invalid},
		{"no region", "s3://logs", fault.Invalid},
	} {
		if _, err := Open(t.Context(), tc.text, none); fault.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", tc.reason, err)
		}
	}
	for dsn, kind := range map[string]fault.Kind{
		"hunter2":                                fault.Invalid,
		"u:hunter2@tcp(db.example:3306)/log":     fault.Refused, // without TLS
		"u:hunter2@tcp(127.0.0.1:1)/log":         fault.Unreachable,
		"u:hunter2@tcp(127.0.0.1:1)/":            fault.Invalid,
		"u:hunter2@tcp(127.0.0.1:1)/log?tls=odd": fault.Invalid,
	} {
		_, err := Open(t.Context(), "s3://logs?region=a&database="+file(dsn), none)
		if fault.KindOf(err) != kind || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	s, err := Open(t.Context(), "s3://logs/x?region=a", none)
	if err != nil || s.Where() != "s3://logs/x" {
		t.Fatalf("without a database, it can be read: %v", err)
	}
	if _, err := s.Own(t.Context(), dir); fault.KindOf(err) != fault.Invalid {
		t.Errorf("and not written: %v", err)
	}
}
