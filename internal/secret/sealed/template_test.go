package sealed

import (
	"crypto/rsa"
	"encoding/base64"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/sprig/v3"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	stock "github.com/bitnami/sealed-secrets/pkg/apis/sealedsecrets/v1alpha1"

	"github.com/holdfastcd/holdfast/internal/fault"
)

var templates = map[string]string{
	"plain":    "no template",
	"url":      "postgres://{{ .user }}:{{ .password | urlquery }}@{{ .host }}/db",
	"host":     "db.shop",
	"password": "never: the sealed one wins",
	"json":     `{{ dict "user" .user "list" (list 1 2 3) | toJson }}`,
	"pretty":   `{{ dict "user" .user | toPrettyJson }}`,
	"loop":     "{{ range $i, $l := splitList \",\" .many }}{{ if $i }};{{ end }}{{ $l | trim | upper | quote }}{{ end }}",
	"named":    `{{ define "x" }}[{{ . }}]{{ end }}{{ template "x" .user }}{{ template "x" .many }}`,
	"text":     `{{ printf "%-10s|%5d|%q" .user 42 .many }}{{ .user | b64enc | indent 4 }}{{ "a-b" | replace "-" "+" | repeat 3 }}`,
	"regex":    `{{ regexReplaceAll "(a)(b*)" .many "${2}-" }} {{ regexMatch "^a" .many }}`,
	"default":  `{{ .nothing | default "x" }}{{ default "y" .nothing }}{{ coalesce .nothing "z" }}`,
	"asked":    `{{ if .nothing }}x{{ else }}{{ with .nothing }}x{{ end }}{{ end }}{{ $x := .nothing }}{{ quote $x }}{{ $x = .user }}{{ $x }}{{ empty .nothing }}`,
	"compare":  `{{ if and (eq .user "admin") (gt (len .many) 2) }}yes{{ else }}no{{ end }}`,
	"until":    `{{ range until 3 }}{{ . }}{{ end }}{{ seq 1 3 }}{{ range $i := untilStep 10 0 -5 }}{{ $i }}{{ end }}`,
	"wrapped":  `{{ wrapWith 3 "\n" .many }}{{ join "," (list "a" "b") }}{{ without (list 1 2) 1 }}{{ "xxaxx" | trimAll "x" }}`,
	"with":     `{{ with $x := fromJson "{\"a\":{\"b\":1}}" }}{{ $x.a.b }}{{ dig "a" "c" "none" $x }}{{ end }}`,
	"break":    `{{ range until 10 }}{{ if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}`,
	"escape":   `{{ html "<" }}{{ js "'" }}{{ print 1 2 "x" }}{{ println .user }}{{ index . "user" }}{{ slice (list 1 2 3) 1 2 }}`,
}

func TestTemplatesRenderAsTheStockControllerDoes(t *testing.T) {
	plain := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"},
		Data:       map[string][]byte{"user": []byte("admin"), "password": []byte("p@ss/w"), "many": []byte("abb, b,c")},
	}
	o := stockSealed(t, key(t, 0), plain)
	set(toAny(templates), "spec", "template", "data")(o)
	got, err := keys(t, key(t, 0)).Unseal(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, err := scheme.Codecs.UniversalDeserializer().Decode(b, nil, &stock.SealedSecret{})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := theirs.(*stock.SealedSecret)
	k := key(t, 0)
	want, err := s.Unseal(scheme.Codecs, map[string]*rsa.PrivateKey{k.Fingerprint: k.private()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Data, decoded(t, got.Object["data"])); diff != "" {
		t.Errorf("it differs (-stock +ours):\n%s", diff)
	}
}

func toAny(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func decoded(t *testing.T, data any) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	m, _ := data.(map[string]any)
	for k, v := range m {
		text, _ := v.(string)
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		out[k] = b
	}
	return out
}

// TestEveryFunctionIsDecidedAbout keeps a new version of sprig from bringing functions
// that nobody has looked at.
func TestEveryFunctionIsDecidedAbout(t *testing.T) {
	open, shut := offered(), withheld()
	stockLacks := map[string]bool{"env": true, "expandenv": true, "getHostByName": true}
	all := sprig.GenericFuncMap()
	for name := range all {
		if _, ok := open[name]; ok == (shut[name] != "" || stockLacks[name]) {
			t.Errorf("%s is neither offered nor withheld, or both", name)
		}
	}
	for name := range open {
		if all[name] == nil {
			t.Errorf("%s is offered, and there is no such function", name)
		}
	}
}

func TestTemplatesEndAndSayWhy(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		kind       fault.Kind
		says       string
	}{
		{"range over a number", `{{ range 1000000000 }}{{ end }}`, fault.Limit, "without end"},
		{"nested ranges", `{{ $x := until 1000 }}{{ range $x }}{{ range $x }}{{ range $x }}{{ end }}{{ end }}{{ end }}`, fault.Limit, "without end"},
		{"recursion", `{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}`, fault.Limit, "without end"},
		{"twice each", strings.Repeat(`{{ $x := .user }}`, 1) + `{{ range until 60 }}{{ $x = cat $x $x }}{{ end }}`, fault.Limit, "without end"},
		{"lists of lists", `{{ $x := list 1 }}{{ range until 60 }}{{ $x = list $x $x }}{{ end }}{{ $x }}`, fault.Limit, "without end"},
		{"repeat", `{{ repeat 1000000000 "x" }}`, fault.Limit, "counts or repeats"},
		{"repeat long", `{{ $x := repeat 10000 "x" }}{{ repeat 10000 $x }}`, fault.Limit, "without end"},
		{"until", `{{ until 1000000000 }}`, fault.Limit, "counts or repeats"},
		{"seq", `{{ seq 1 1000000000 }}`, fault.Limit, "counts or repeats"},
		{"indent", `{{ indent 100000000 "x" }}`, fault.Limit, "counts or repeats"},
		{"width", `{{ printf "%100000000d" 1 }}`, fault.Limit, "counts or repeats"},
		{"star", `{{ printf "%*d" 100000000 1 }}`, fault.Limit, "without end"},
		{"many verbs", `{{ $x := repeat 10000 "x" }}{{ $f := repeat 10000 "%[1]s" }}{{ printf $f $x }}`, fault.Limit, "without end"},
		{"replace", `{{ $x := repeat 10000 "x" }}{{ replace "x" $x $x }}`, fault.Limit, "without end"},
		{"wrapWith", `{{ $x := repeat 10000 "x" }}{{ wrapWith 1 $x $x }}`, fault.Limit, "without end"},
		{"join", `{{ $x := repeat 10000 "x" }}{{ join $x (until 10000) }}`, fault.Limit, "without end"},
		{"regex", `{{ $x := repeat 10000 "x" }}{{ regexMatch "(x{0,1000}){1}y(x{0,1000}){1}" $x }}`, fault.Limit, "without end"},
		{"regex without end", `{{ regexMatch "((((x{0,1000}){0,1000}){0,1000}){0,1000})" .user }}`, fault.Invalid, "fails"},
		{"regex output", `{{ $x := repeat 10000 "x" }}{{ regexReplaceAll "x" $x $x }}`, fault.Limit, "without end"},
		{"uniq", `{{ uniq (until 10000) }}`, fault.Limit, "without end"},
		{"comparing", `{{ $x := repeat 10000 (repeat 100 "x") }}{{ $y := cat $x "" }}{{ range until 10000 }}{{ $z := eq $x $y $y }}{{ end }}`, fault.Limit, "without end"},
		{"output", `{{ $x := repeat 10000 (repeat 50 "x") }}{{ $x }}{{ $x }}{{ $x }}`, fault.Limit, "without end"},
		{"too long", strings.Repeat("x", maxText+1), fault.Limit, "bytes"},
		{"environment", `{{ env "HOME" }}`, fault.Unsupported, "calls env"},
		{"network", `{{ getHostByName "localhost" }}`, fault.Unsupported, "calls getHostByName"},
		{"chance", `{{ randAlphaNum 10 }}`, fault.Unsupported, "calls randAlphaNum"},
		{"chance, deep inside", `{{ if false }}{{ range until 1 }}{{ print (cat (htpasswd "a" "b") 1) }}{{ end }}{{ end }}`, fault.Unsupported, "calls htpasswd"},
		{"chance, in a part", `{{ define "x" }}{{ with genCA "a" 1 }}{{ end }}{{ end }}`, fault.Unsupported, "calls genCA"},
		{"clock", `{{ now | date "2006" }}`, fault.Unsupported, "calls"},
		{"in place", `{{ $d := dict }}{{ $_ := set $d "x" $d }}{{ $d }}`, fault.Unsupported, "calls set"},
		{"own function", `{{ step -1000000 }}`, fault.Unsupported, "calls step"},
		{"own function of values", `{{ written "x" .user }}`, fault.Unsupported, "calls written"},
		{"missing", "\n{{ .host }}", fault.Invalid, "the template t (line 2) writes .host, which is not there"},
		{"missing, in an expression that is true", `{{ if .user }}{{ .host }}{{ end }}`, fault.Invalid, "writes .host, which"},
		{"missing, in a variable", `{{ $h := .host }}{{ $h }}`, fault.Invalid, "writes $h, which"},
		{"missing, in a part", `{{ define "x" }}{{ . }}{{ end }}{{ template "x" .host }}`, fault.Invalid, "writes ., which"},
		{"missing, in what was read", `{{ $x := fromJson "{\"a\":null}" }}{{ $x.a }}{{ $x.b }}`, fault.Invalid, "writes $x.a, which"},
		{"missing, as a text", `{{ .host | upper }}`, fault.Invalid, "writes what is not there"},
		{"missing, in a list", `{{ first (list) | upper }}`, fault.Invalid, "writes what is not there"},
		{"missing, printed", `{{ printf "%s:%s" .user .host }}`, fault.Invalid, "writes what is not there"},
		{"missing, turned into a text", `{{ .host | toString }}`, fault.Invalid, "writes what is not there"},
		{"missing, for an address", `{{ .host | urlquery }}`, fault.Invalid, "writes what is not there"},
		{"not closed", "a\n{{ if }", fault.Invalid, "(line 2) is not one of Go"},
		{"fails, with a value", "{{ fail .password }}", fault.Invalid, "fails"},
		{"fails, in an argument", "\n{{ .password.x }}", fault.Invalid, "(line 2) fails"},
		{"panics", `{{ chunk 0 (list 1 2) }}`, fault.Invalid, "fails"},
		{"deep", strings.Repeat("{{if 1}}", 7000) + strings.Repeat("{{end}}", 500), fault.Invalid, "is not one of Go"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			_, err := newBudget().render("t", tc.text, map[string]string{"user": "admin", "password": "hunter2hunter2"})
			runtime.ReadMemStats(&after)
			if fault.KindOf(err) != tc.kind || err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %v %q", err, tc.kind, tc.says)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells a value: %v", err)
			}
			if spent := time.Since(begin); spent > 30*time.Second {
				t.Errorf("it took %v", spent)
			}
			if made := after.TotalAlloc - before.TotalAlloc; made > 512<<20 {
				t.Errorf("it made %d MiB", made>>20)
			}
		})
	}
}

// A template that writes a value which is not there is refused on the object, with what
// is there. The stock controller delivers "<no value>", as a password for example.
func TestAValueThatIsMissingIsToldOnTheObject(t *testing.T) {
	plain := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Data: map[string][]byte{"user": []byte("admin"), "password": []byte("hunter2")}}
	o := stockSealed(t, key(t, 0), plain)
	set(map[string]any{"url": "db://{{ .user }}@{{ .host }}"}, "spec", "template", "data")(o)
	_, err := keys(t, key(t, 0)).Unseal(o, nil)
	f := fault.From(err)
	if f == nil || f.Kind != fault.Invalid || !strings.HasSuffix(f.Object, "shop/db") || f.Msg != "the template url (line 1) writes .host, which is not there" ||
		!strings.Contains(f.Hint, "there are: password, url, user;") {
		t.Errorf("got %+v", f)
	}
}

func FuzzTemplates(f *testing.F) {
	for _, text := range templates {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const canary = "hunter2hunter2"
		begin := time.Now()
		out, err := newBudget().render("t", text, map[string]string{"user": "admin", "password": canary})
		if err != nil && strings.Contains(err.Error(), canary) && !strings.Contains(text, canary) {
			t.Errorf("the error tells a value: %v", err)
		}
		if strings.Contains(string(out), "<no value>") && !strings.Contains(text, "<no value>") {
			t.Errorf("it writes what is not there: %q", out)
		}
		if len(out) > maxValue || time.Since(begin) > 30*time.Second {
			t.Errorf("%d bytes in %v", len(out), time.Since(begin))
		}
	})
}
