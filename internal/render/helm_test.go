package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"

	"github.com/holdfastcd/holdfast/internal/worker"
)

// TestHelmCorpus is TestCorpus for charts, testdata/helm/*.txtar. Requests are
// written in JSON, and files below a name that ends in .tgz are packed.
func TestHelmCorpus(t *testing.T) {
	archives, err := filepath.Glob("testdata/helm/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no corpus", err)
	}
	r := newRenderer(t, worker.Options{Size: 1})
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) { corpus(t, r, name) })
	}
}

// showExtra prints what a result has besides objects, as comments.
func showExtra(result Result) string {
	var b strings.Builder
	for _, n := range result.Notes {
		fmt.Fprintf(&b, "# note %s: functions %q repeated %q\n", n.File, n.Functions, n.Repeated)
	}
	if a := result.Asked; a.KubeVersion || a.All || len(a.APIVersions) > 0 {
		fmt.Fprintf(&b, "# asked: version %v, all %v, %q\n", a.KubeVersion, a.All, a.APIVersions)
	}
	return b.String()
}

// packed replaces the files below x.tgz by the archive x.tgz.
func packed(t testing.TB, pairs []string) []string {
	t.Helper()
	var plain []string
	inside := map[string][]string{}
	for i := 0; i < len(pairs); i += 2 {
		if name, below, ok := strings.Cut(pairs[i], ".tgz/"); ok {
			inside[name+".tgz"] = append(inside[name+".tgz"], below, pairs[i+1])
			continue
		}
		plain = append(plain, pairs[i], pairs[i+1])
	}
	for _, name := range slices.Sorted(maps.Keys(inside)) {
		plain = append(plain, name, pack(t, inside[name]...))
	}
	return plain
}

func pack(t testing.TB, pairs ...string) string {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for i := 0; i < len(pairs); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// BenchmarkHelm renders a chart of five objects in a warm worker.
func BenchmarkHelm(b *testing.B) {
	pairs := []string{
		"c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
		"c/values.yaml", "replicas: 2\nimage: nginx\nport: 80\n",
		"c/templates/_h.tpl", `{{ define "c.labels" }}{app: {{ .Chart.Name }}, release: {{ .Release.Name }}}{{ end }}`,
	}
	for _, kind := range []string{"Deployment", "Service", "ConfigMap", "ServiceAccount", "Ingress"} {
		pairs = append(pairs, "c/templates/"+kind+".yaml", "apiVersion: v1\nkind: "+kind+
			"\nmetadata:\n  name: {{ .Release.Name }}\n  labels: {{ include \"c.labels\" . }}\nspec:\n  replicas: {{ .Values.replicas }}\n"+
			"  values:\n    {{- toYaml .Values | nindent 4 }}\n")
	}
	r := newRenderer(b, worker.Options{Size: 1, Recycle: 1 << 30})
	source := files(b, pairs...)
	req := Request{Path: "c", Tool: Helm, Helm: &HelmRequest{ReleaseName: "r", Namespace: "n"}}
	render := func() {
		if result, err := r.Render(b.Context(), req, source); err != nil || len(result.Objects) != 5 {
			b.Fatal(err, len(result.Objects))
		}
	}
	for range 5 { // warm
		render()
	}
	before := child(b)
	for b.Loop() {
		render()
	}
	b.StopTimer()
	after := child(b)
	b.ReportMetric(after.pss, "PSS-MiB")
	b.ReportMetric((after.cpu-before.cpu)/float64(b.N), "worker-cpu-ms/op")
}

// FuzzUnpack: an archive gives files of a chart, or a fault, within bounds.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte(pack(f, "x/Chart.yaml", "{apiVersion: v2, name: x, version: 1.0.0}", "x/templates/a.yaml", "a: 1")))
	f.Add([]byte(pack(f, "x/../y", "")))
	f.Fuzz(func(t *testing.T, packed []byte) {
		l := &chartLoader{origins: map[*common.File]string{}, raw: map[*common.File]string{}}
		files, err := l.unpack(packed)
		if err != nil {
			return
		}
		for _, file := range files {
			if !fs.ValidPath(file.Name) || len(file.Data) > maxFile {
				t.Errorf("%q of %d bytes", file.Name, len(file.Data))
			}
		}
		_, _ = l.build("x", files, 0, false)
	})
}

// FuzzRedact: no word that is not known gets through.
func FuzzRedact(f *testing.F) {
	f.Add(`template: x:1: executing "x" at <.Values.x>: error calling atoi: parsing "secret"`)
	f.Fuzz(func(t *testing.T, text string) {
		words := newVocabulary()
		for _, w := range word.FindAllString(words.redact(text), -1) {
			if !words[w] {
				t.Errorf("%q is in the redacted %q", w, text)
			}
		}
	})
}
