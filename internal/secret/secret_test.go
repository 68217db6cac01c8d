package secret_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	goyaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

const word = "hunter2-hunter2"

// holder is how a value may end up in something that is printed.
type holder struct {
	Shown  secret.Text
	hidden secret.Text
	Deep   *secret.Text
	List   []secret.Text
	Map    map[string]secret.Text
}

func hold() holder {
	t := secret.Hide([]byte(word))
	return holder{Shown: t, hidden: t, Deep: &t, List: []secret.Text{t}, Map: map[string]secret.Text{"a": t}}
}

// ways are all the forms in which the word would be told.
func told(s string) bool {
	for _, way := range []string{
		word, base64.StdEncoding.EncodeToString([]byte(word)), hex.EncodeToString([]byte(word)), strings.ToUpper(hex.EncodeToString([]byte(word))),
		fmt.Sprintf("%d", []byte(word)), fmt.Sprintf("% x", word),
	} {
		if strings.Contains(s, strings.Trim(way, "[]")) {
			return true
		}
	}
	return false
}

func TestTextIsNotPrinted(t *testing.T) {
	h := hold()
	for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
		for _, flags := range []string{"", "+", "#", " ", "0", "-20", ".3"} {
			format := "%" + flags + string(verb)
			for _, v := range []any{h, &h, h.Shown, &h.Shown, h.List, h.Map, []any{h.Shown}, struct{ a secret.Text }{h.hidden}} {
				if s := fmt.Sprintf(format, v); told(s) {
					t.Errorf("%s of a %T tells %s", format, v, s)
				}
			}
		}
	}
	if s := fmt.Sprint(h.Shown); s != "[secret]" {
		t.Errorf("a text prints as %s", s)
	}
	for _, f := range []func(*bytes.Buffer) slog.Handler{
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(f(&b)).Info("said", "text", h.Shown, "holder", h, "deep", h.Deep, "group", slog.GroupValue(slog.Any("a", h.Shown)))
		if told(b.String()) || !strings.Contains(b.String(), "[secret]") {
			t.Errorf("a log says %s", b.String())
		}
	}
}

func TestTextIsNotMarshalled(t *testing.T) {
	h := hold()
	ways := map[string]func(any) ([]byte, error){
		"json": json.Marshal, "xml": xml.Marshal, "yaml": yaml.Marshal,
		"yaml.v3": func(v any) (out []byte, err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("%v", p)
				}
			}()
			return goyaml.Marshal(v)
		},
		"gob": func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
	}
	for name, marshal := range ways {
		for _, v := range []any{h.Shown, struct{ A secret.Text }{h.Shown}, struct{ A []secret.Text }{h.List}} {
			out, err := marshal(v)
			if err == nil || told(string(out)) || told(err.Error()) {
				t.Errorf("%s of a %T: %s, %v", name, v, out, err)
			}
		}
	}
}

func TestTextIsNotCompared(t *testing.T) {
	if reflect.TypeFor[secret.Text]().Comparable() {
		t.Error("two texts can be compared, or be the key of a map")
	}
	for f := range reflect.TypeFor[secret.Text]().Fields() {
		if f.IsExported() {
			t.Errorf("the field %s can be read without a word", f.Name)
		}
	}
	if a, b := secret.Hide([]byte(word)), secret.Hide([]byte(word)); reflect.DeepEqual(a, b) {
		t.Error("equal texts compare as such by reflection")
	}
	var none secret.Text
	if !none.IsZero() || none.Reveal() != nil || !secret.Hide(nil).IsZero() || secret.Hide([]byte{}).IsZero() {
		t.Error("nothing is not the same as a value that is empty")
	}
	if string(secret.Hide([]byte(word)).Reveal()) != word {
		t.Error("what is revealed is not what was hidden")
	}
}

// sealing opens files that begin with "sealed:".
type sealing struct{ err error }

func (s sealing) Open(_ context.Context, _ string, content []byte) (secret.Opened, bool, error) {
	rest, ok := bytes.CutPrefix(content, []byte("sealed:"))
	if !ok || s.err != nil {
		return secret.Opened{}, ok, s.err
	}
	return secret.Opened{Content: secret.Hide(bytes.Repeat(rest, 2)), Values: []secret.Text{secret.Hide(rest)}}, true, nil
}

func (sealing) ID() string { return "test" }

func TestTreeOpensWhatIsRead(t *testing.T) {
	below := treetest.FromFiles(map[string][]byte{"plain": []byte("as it is"), "a": []byte("sealed:" + word)})
	mask := &secret.Mask{}
	opened := secret.NewTree(t.Context(), below, sealing{}, mask)
	tests := []struct {
		reason, file string
		limit        int64
		want         string
		kind         fault.Kind
	}{
		{"what is not sealed", "plain", 100, "as it is", 0},
		{"what is", "a", 100, word + word, 0},
		{"the limit is on what is committed", "a", 10, "", fault.Limit},
		{"and on what comes out", "a", int64(len("sealed:"+word)) + 1, "", fault.Limit},
	}
	for _, tt := range tests {
		got, err := opened.ReadFile(tt.file, tt.limit)
		if string(got) != tt.want || (err != nil) != (tt.kind != 0) || err != nil && fault.KindOf(err) != tt.kind {
			t.Errorf("%s: %q, %v", tt.reason, got, err)
		}
	}
	if mask.Text("so it is "+word) != "so it is ***" || len(opened.Opened()) == 0 {
		t.Error("what was opened is not known")
	}
	before, _ := below.Stat("a")
	after, err := opened.Stat("a")
	if err != nil || before.Digest != after.Digest {
		t.Errorf("the digest is not that of the file as committed: %v, %v", after, err)
	}
	view := tree.NewView(opened, tree.Limits{FileBytes: 1 << 10, TotalBytes: 1 << 10})
	if _, err := view.ReadFile("a"); err != nil || !view.Trace().Holds(below) {
		t.Errorf("a trace of what was opened does not hold below: %v, %v", view.Trace(), err)
	}
	failing := secret.NewTree(t.Context(), below, sealing{fault.New(fault.NotFound, "no key").At("a", 0)}, mask)
	if got, err := failing.ReadFile("a", 100); got != nil || fault.KindOf(err) != fault.NotFound {
		t.Errorf("sealed content instead of an error: %q, %v", got, err)
	}
}

func TestNoneRefuses(t *testing.T) {
	none := secret.None{Sealed: func(_ string, c []byte) bool { return bytes.HasPrefix(c, []byte("sealed:")) }, Hint: "name a Secret with the keys"}
	_, sealed, err := none.Open(t.Context(), "a.yaml", []byte("sealed:"+word))
	if !sealed || fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "a.yaml: ") || !strings.Contains(err.Error(), "name a Secret") || told(err.Error()) {
		t.Errorf("got %v", err)
	}
	if _, sealed, err := none.Open(t.Context(), "b.yaml", []byte("x")); sealed || err != nil {
		t.Errorf("what is not sealed: %v, %v", sealed, err)
	}
	if _, sealed, err := (secret.None{}).Open(t.Context(), "a", nil); sealed || err != nil || none.ID() != "" {
		t.Errorf("nothing is known of sealed files: %v, %v", sealed, err)
	}
}
