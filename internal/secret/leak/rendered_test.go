package leak

import (
	"testing"
)

func TestStanding(t *testing.T) {
	const value = "correct-horse-1"
	tests := []struct {
		reason, key, text, content string
		line                       int // 0: not found
	}{
		{"a values file", "password", value, "auth:\n  password: " + value + "\n", 2},
		{"in base64", "password", value, "auth: {password: " + b64(value) + "}\n", 1},
		{"quoted", "password", value, "auth:\n\n  password: \"" + value + "\"\n", 3},
		{"a part of a word", "password", value, "x: my" + value + "0\n", 0},
		{"a part of a word, and then by itself", "password", value, "x: my" + value + "0\ny: " + value + "\n", 2},
		{"elsewhere", "password", value, "auth: {existingSecret: a}\n", 0},
		{"short", "password", "admin", "user: admin\n", 0},
		{"no secret by its key", "db-username", "shop-reader", "user: shop-reader\n", 0},
		{"but an address with a password", "uri", "pg://a:" + value + "@db", "uri: pg://a:" + value + "@db\n", 1},
		{"a placeholder", "password", "${DATABASE_PASSWORD}", "p: ${DATABASE_PASSWORD}\n", 0},
		{"several lines", "conf", "first line\nsecond line", "first line\nsecond line\n", 0},
	}
	for _, tt := range tests {
		f := &folder{files: map[string]string{"values.yaml": tt.content}}
		got := Standing([]Value{{Object: "Secret/a/b", Key: tt.key, Text: tt.text}}, f.list(), nil, nil)
		line := 0
		if len(got) > 0 {
			line = got[0].Line
		}
		if line != tt.line || len(got) > 1 {
			t.Errorf("%s: %+v, want line %d", tt.reason, got, tt.line)
		}
		if tt.line > 0 && len(Standing([]Value{{Key: tt.key, Text: tt.text}}, f.list(), got, nil)) != 0 {
			t.Errorf("%s: told twice", tt.reason)
		}
	}
}
