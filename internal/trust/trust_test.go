package trust

import "testing"

func TestSameFingerprint(t *testing.T) {
	const found = "sha256:0a1b2c"
	for _, tt := range []struct {
		reason, written string
		want            bool
	}{
		{"as evidence names it", "sha256:0a1b2c", true},
		{"digits alone, upper case", "0A1B2C", true},
		{"with colons and blanks around", " 0A:1B:2C\n", true},
		{"as openssl x509 -fingerprint -sha256 prints it", "sha256 Fingerprint=0A:1B:2C", true},
		{"as older openssl prints it", "SHA256 Fingerprint=0A:1B:2C", true},
		{"a part", "0a1b", false},
		{"another", "0a1b2d", false},
		{"nothing", "", false},
	} {
		if got := SameFingerprint(tt.written, found); got != tt.want {
			t.Errorf("%s: %q is %v, want %v", tt.reason, tt.written, got, tt.want)
		}
	}
}
