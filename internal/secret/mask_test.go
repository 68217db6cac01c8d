package secret_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goyaml "go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
)

func masking(values ...string) *secret.Mask {
	m := &secret.Mask{}
	for _, v := range values {
		m.Add(v)
	}
	return m
}

const odd = "p<a>&ss \"wörd\"'s \\x/+?\t"

func TestMaskForms(t *testing.T) {
	quoted, _ := json.Marshal(odd)
	var bare strings.Builder
	e := json.NewEncoder(&bare)
	e.SetEscapeHTML(false)
	_ = e.Encode(odd)
	yes := goyaml.Unmarshal([]byte("hunter2-hunter2"), new(int)).Error()
	tests := []struct{ reason, value, said, want string }{
		{"as it is", word, "bad password " + word + "!", "bad password ***!"},
		{"a value with other characters", odd, "[" + odd + "]", "[***]"},
		{"as JSON writes it", odd, string(quoted), `"***"`},
		{"as JSON writes it without care for HTML", odd, strings.TrimSpace(bare.String()), `"***"`},
		{"as Go quotes it", odd, strconv.Quote(odd), `"***"`},
		{"as Go quotes it for ASCII", odd, strconv.QuoteToASCII(odd), `"***"`},
		{"as YAML quotes it", odd, strings.ReplaceAll(odd, "'", "''"), "***"},
		{"in a query", odd, "?a=" + url.QueryEscape(odd), "?a=***"},
		{"in a path", odd, "/" + url.PathEscape(odd), "/***"},
		{"in a URL's user", odd, (&url.URL{Scheme: "amqp", Host: "h", User: url.UserPassword("u", odd)}).String(), "amqp://u:***@h"},
		{"quotes at its end", `word"`, `so: "word\""`, `so: "***"`},
		{"in base64", odd, base64.StdEncoding.EncodeToString([]byte(odd)), "***"},
		{"in base64 for URLs", odd, base64.RawURLEncoding.EncodeToString([]byte(odd)), "***"},
		{"without the space around it", " " + word + "\n", "it is " + word, "it is ***"},
		{"each of its lines", "first line\nsecond line\n", "no second line here", "no *** here"},
		{"its beginning, as YAML cuts it off", word, yes, "yaml: unmarshal errors:\n  line 1: cannot unmarshal !!str `***...` into int"},
		{"its beginning, cut off by us", word, "said hunter2-hu…", "said ***…"},
		{"what is short", "abc", "abc", "abc"},
		{"what tells nothing", "true", "true", "true"},
		{"nothing", word, "", ""},
		{"no value", word, "all is well...", "all is well..."},
		{"twice", word, word + word, "***"},
	}
	for _, tt := range tests {
		m := masking(tt.value)
		if got := m.Text(tt.said); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.reason, got, tt.want)
		}
		if m.Holds(tt.said) != (tt.said != tt.want) {
			t.Errorf("%s: holds: %t", tt.reason, m.Holds(tt.said))
		}
	}
}

// Base64 of something longer holds a value at one of three places, and neighbours change
// its first and last character.
func TestMaskFindsValuesWithinBase64(t *testing.T) {
	for before := range 4 {
		for after := range 4 {
			whole := strings.Repeat("u", before) + word + strings.Repeat("v", after)
			got := masking(word).Text(base64.StdEncoding.EncodeToString([]byte(whole)))
			core := base64.StdEncoding.EncodeToString([]byte(word))[4:16]
			if !strings.Contains(got, "***") || strings.Contains(got, core) || len(got) > 3+2*(before+after)+8 {
				t.Errorf("%d before, %d after: %s", before, after, got)
			}
		}
	}
}

func TestMaskTakesWhatOverlapsTogether(t *testing.T) {
	m := masking("alpha-beta", "beta-gamma", "alpha")
	tests := []struct{ said, want string }{
		{"<alpha-beta-gamma>", "<***>"},
		{"<alpha>", "<***>"},
		{"<beta-gamma> alpha-beta", "<***> ***"},
	}
	for _, tt := range tests {
		if got := m.Text(tt.said); got != tt.want {
			t.Errorf("%s: %s", tt.said, got)
		}
	}
}

func TestMaskErrors(t *testing.T) {
	m := masking(word)
	cause := errors.New("cause")
	f := fault.New(fault.Invalid, "the value %s is bad", word).On("Secret/a/b").At("a.yaml", 3).WithHint("do not say %s", word).Because(cause)
	err := m.Error(fmt.Errorf("wrapped: %w", f))
	got, ok := errors.AsType[*fault.Error](err)
	if !ok || got.Kind != fault.Invalid || got.File != "a.yaml" || got.Line != 3 || !errors.Is(err, cause) ||
		err.Error() != "a.yaml:3: Secret/a/b: the value *** is bad (do not say ***)" {
		t.Errorf("got %v", err)
	}
	if strings.Contains(f.Msg, "*") {
		t.Error("the error itself was changed")
	}
	if err := m.Error(errors.New("x " + word)); fault.KindOf(err) != fault.Internal || err.Error() != "x ***" {
		t.Errorf("got %v", err)
	}
	plain := errors.New("plain")
	if m.Error(plain) != plain || m.Error(nil) != nil || m.Fault(nil) != nil { //nolint:errorlint // the very same
		t.Error("what holds nothing is changed")
	}
}

func TestMaskOfNothing(t *testing.T) {
	var none *secret.Mask
	if none.Text(word) != word || none.Holds(word) || none.Opened() || none.Texts([]string{word})[0] != word || (&secret.Mask{}).Text(word) != word {
		t.Error("nothing was opened")
	}
	m := masking(word)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(format, m); told(s) {
			t.Errorf("%s tells %s", format, s)
		}
	}
	if out, _ := json.Marshal([]any{m}); told(string(out)) {
		t.Errorf("JSON tells %s", out)
	}
}

func TestMaskIsBounded(t *testing.T) {
	m := &secret.Mask{}
	for i := range 6 {
		m.Add(fmt.Sprint(i) + strings.Repeat("x", 1<<20))
	}
	if got := m.Text("anything"); strings.Contains(got, "anything") {
		t.Errorf("more than can be searched for: %s", got)
	}
}

// What a tenant seals decides how many values there are: neither a message nor a
// thousand may cost the time of every one of them.
func TestMaskOfManyValues(t *testing.T) {
	m := &secret.Mask{}
	value := func(i int) string { return fmt.Sprintf("zzzz%08x", uint32(i*2654435761)) } // alike in the beginning
	for i := range 50_000 {
		m.Add(value(i))
	}
	last := value(49_999)
	said := "the value " + last + " was cut off: " + last[:6] + "..., and more of it " + strings.Repeat("zzzz...", 20)
	if got := m.Text(said); strings.Contains(got, last) || !strings.Contains(got, "cut off: ***...") {
		t.Errorf("said: %s", got)
	}
	const budget = 5 * time.Second // it takes some 50 ms; to look for every value takes minutes
	start := time.Now()
	for range 1000 {
		m.Text(said)
	}
	if took := time.Since(start); took > budget {
		t.Errorf("1000 messages took %s", took)
	}
	for i := range 60_000 {
		m.Add(fmt.Sprintf("other-%d", i))
	}
	if got := m.Text("anything"); strings.Contains(got, "anything") {
		t.Errorf("more than can be searched for: %s", got)
	}
}

func TestMaskAtOnce(t *testing.T) {
	m := &secret.Mask{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				value := fmt.Sprintf("value-%d-%d", i, j)
				m.Add(value)
				if got := m.Text("<" + value + ">"); got != "<***>" {
					t.Errorf("%s: %s", value, got)
				}
			}
		})
	}
	all.Wait()
}

func FuzzMask(f *testing.F) {
	f.Add(word, "a ", " b")
	f.Add(odd, "", "…")
	f.Fuzz(func(t *testing.T, value, before, after string) {
		m := masking(value)
		if !m.Opened() || strings.Trim(value, "*") != value {
			return // what stands in its place may join with what is beside it, and look like it
		}
		said := before + value + after
		if got := m.Text(said); strings.Contains(got, value) && !strings.Contains(value, "***") {
			t.Errorf("%q in %q is said: %q", value, said, got)
		}
	})
}

// A thousand values, and a report about as many objects.
func BenchmarkMask(b *testing.B) {
	values := make([]string, 1000)
	for i := range values {
		values[i] = fmt.Sprintf("%x-secret-%d", i*7919, i)
	}
	for b.Loop() {
		m := masking(values...)
		for i := range 1000 {
			m.Text("ConfigMap/team/settings: the source has changed: " + strconv.Itoa(i))
		}
		m.Text("no " + values[500])
	}
}

func TestMaskKnowsWhatWasSealed(t *testing.T) {
	m := &secret.Mask{}
	m.Add("said-in-plaintext")
	m.AddSealed("hunter2-hunter2")
	m.AddSealed("db")
	tests := []struct {
		text   string
		want   bool
		reason string
	}{
		{"hunter2-hunter2", true, "the value"},
		{"password=hunter2-hunter2", true, "a text with it"},
		{"db", true, "a short one"},
		{"feedback", false, "which others have in them by chance"},
		{"said-in-plaintext", false, "masked, and not sealed"},
		{"", false, "nothing"},
	}
	for _, tt := range tests {
		if got := m.FromSealed(tt.text); got != tt.want {
			t.Errorf("%q: %v, want %v: %s", tt.text, got, tt.want, tt.reason)
		}
	}
	if (*secret.Mask)(nil).FromSealed("a") {
		t.Error("nil knows nothing")
	}
}
