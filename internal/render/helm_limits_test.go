package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// TestHelmEndless: a chart that would never end, or fill the machine, ends its
// worker and nothing else; the fault names the chart.
func TestHelmEndless(t *testing.T) {
	tests := []struct{ reason, template, msg string }{
		{"nested loops", `{{ range until 100000 }}{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}{{ end }}`, "took longer"},
		{"a giant string", `{{ repeat 2000000000 "x" }}`, "memory"},
		{"a giant string in pieces", `{{ $x := "xxxxxxxxxxxxxxxx" }}{{ range until 40 }}{{ $x = print $x $x }}{{ end }}`, "memory"},
		{"a giant list", `{{ until 2000000000 }}`, "memory"},
		{"templates that call each other", `{{ define "a" }}{{ template "b" . }}{{ end }}{{ define "b" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`, ""},
		{"a template that includes itself", `{{ define "again" }}{{ include "again" . }}{{ end }}{{ include "again" . }}`, ""},
		{"tpl that calls itself", `{{ define "t" }}{{ tpl "{{ include \"t\" . }}" . }}{{ end }}{{ include "t" . }}`, ""},
		{"a giant output", `{{ $x := repeat 1000000 "x" }}{{ range until 1000 }}{{ $x }}{{ end }}`, "memory"},
	}
	r := newRenderer(t, worker.Options{Size: 1, Deadline: 10 * time.Second, MemoryLimit: memoryFactor * 128 << 20})
	good := files(t, "c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}", "c/templates/a.yaml", configMap("a"))
	req := Request{Path: "c", Helm: &HelmRequest{ReleaseName: "r", Namespace: "n"}}
	for _, tt := range tests {
		source := files(t, "c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}", "c/templates/a.yaml", tt.template)
		start := time.Now()
		_, err := r.Render(t.Context(), req, source)
		var f *fault.Error
		if !errors.As(err, &f) || !strings.HasPrefix(f.File, "c/") || !strings.Contains(f.Msg, tt.msg) {
			t.Errorf("%s: %v", tt.reason, err)
		}
		if tt.msg != "" && f.Kind != fault.Limit || f.Kind != fault.Limit && f.Kind != fault.Invalid {
			t.Errorf("%s: kind %s", tt.reason, f.Kind)
		}
		t.Logf("%s: %v after %s", tt.reason, err, time.Since(start).Round(time.Millisecond))
		if result, err := r.Render(t.Context(), req, good); err != nil || len(result.Objects) != 1 {
			t.Fatalf("after %s nothing is rendered: %v", tt.reason, err)
		}
	}
}

// TestHelmLimits: what is too large is refused before it is unfolded.
func TestHelmLimits(t *testing.T) {
	chart := func(pairs ...string) []string {
		return append([]string{"c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}"}, pairs...)
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'h'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ","))
	}
	var many, objects []string
	for i := range maxChartFiles {
		many = append(many, fmt.Sprintf("x%d/Chart.yaml", i), "")
	}
	objects = append(objects, "c/templates/a.yaml", `{{ range $i := until 20001 }}`+"\n---\n"+configMap("x{{ $i }}")+"{{ end }}")
	tests := []struct {
		reason string
		files  []string
		kind   fault.Kind
		msg    string
	}{
		{"a 10 MiB template", chart("c/templates/a.yaml", strings.Repeat("x", 10<<20)), fault.Limit, "c/templates/a.yaml: the file has"},
		{"deep values", chart("c/values.yaml", "a: "+strings.Repeat("[", 20000)), fault.Invalid, "c/values.yaml"},
		{"an alias bomb in a file of values", chart("c/v.yaml", bomb), fault.Limit, "c/v.yaml: YAML aliases"},
		{"an alias bomb that a template gives", chart("c/templates/a.yaml", configMap("x")+"data:\n  "+strings.ReplaceAll(bomb, "\n", "\n  ")), fault.Limit, "c/templates/a.yaml"},
		{"a deep object", chart("c/templates/a.yaml", configMap("x")+"data: "+strings.Repeat("[", 200)+strings.Repeat("]", 200)), fault.Limit, "c/templates/a.yaml"},
		{"too many objects", chart(objects...), fault.Limit, "more than 20000 objects"},
		{"too many files in an archive", chart("c/charts/x.tgz", pack(t, many...)), fault.Limit, "more than 10000 files"},
		{"an archive of nothing", chart("c/charts/x.tgz", "not packed"), fault.Invalid, "not a chart's archive"},
		{"an archive that is cut off", chart("c/charts/x.tgz", pack(t, "x/Chart.yaml", strings.Repeat("x", 5000))[:60]), fault.Invalid, "not a chart's archive"},
		{"a path out of the archive", chart("c/charts/x.tgz", pack(t, "x/../../y", "")), fault.Refused, "leaves the chart"},
		{"a large file in an archive", chart("c/charts/x.tgz", pack(t, "x/Chart.yaml", strings.Repeat("x", 11<<20))), fault.Limit, "Chart.yaml has more than"},
		{"an archive that unpacks to much", chart("c/charts/x.tgz", zeros(t, 72<<20)), fault.Limit, "more than 64 MiB"},
		{"a link in an archive", chart("c/charts/x.tgz", linked(t)), fault.Refused, "not a file"},
	}
	r := newRenderer(t, worker.Options{Deadline: time.Minute, MemoryLimit: memoryFactor * 256 << 20})
	for _, tt := range tests {
		req := Request{Path: "c", Helm: &HelmRequest{ReleaseName: "r", Namespace: "n", ValueFiles: []string{"v.yaml"}, IgnoreMissingValueFiles: true}}
		_, err := r.Render(t.Context(), req, files(t, tt.files...))
		if fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.msg) {
			t.Errorf("%s: %s %.300v", tt.reason, fault.KindOf(err), err)
		}
	}
}

// zeros packs files of nothing but zeros, each small enough.
func zeros(t *testing.T, total int) string {
	t.Helper()
	const each = 8 << 20
	content := strings.Repeat("\x00", each)
	var pairs []string
	for i := range total / each {
		pairs = append(pairs, fmt.Sprintf("x/f%d", i), content)
	}
	return pack(t, pairs...)
}

func linked(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "x/values.yaml", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
