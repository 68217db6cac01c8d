package builtin

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestParseCIDR(t *testing.T) {
	tests := []struct{ text, want, reason string }{
		{"10.0.0.0/8", "10.0.0.0-10.255.255.255", "a block"},
		{" 10.1.2.3/8 ", "10.0.0.0-10.255.255.255", "bits beyond it, and blanks"},
		{"1.2.3.4/32", "1.2.3.4", "one address"},
		{"0.0.0.0/0", "0.0.0.0-255.255.255.255", "all"},
		{"2001:db8::/126", "2001:db8::-2001:db8::3", "IPv6"},
		{"::ffff:10.0.0.0/104", "10.0.0.0-10.255.255.255", "IPv4 written as IPv6"},
		{"10.0.0.0", "", "no block"},
		{"010.0.0.0/8", "", "octal or decimal: readers differ"},
		{"fe80::%eth0/64", "", "a zone"},
		{"10.0.0.0/33", "", "too long"},
		{"", "", "nothing"},
	}
	for _, test := range tests {
		got, err := parseCIDR(test.text)
		if test.want == "" && err == nil || test.want != "" && (err != nil || got.String() != test.want) {
			t.Errorf("%q: %v %v, want %q: %s", test.text, got, err, test.want, test.reason)
		}
	}
}

// What without leaves is compared with asking each of 256 addresses.
func TestWithout(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	block := func() string {
		bits := 24 + random.IntN(9)
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(256))}), bits).String()
	}
	in := func(s span, a netip.Addr) bool { return !a.Less(s.first) && !s.last.Less(a) }
	for range 2000 {
		whole, err := parseCIDR(block())
		if err != nil {
			t.Fatal(err)
		}
		var holes []span
		for range random.IntN(5) {
			hole, _ := parseCIDR(block())
			holes = append(holes, hole)
		}
		holes = append(holes, span{netip.IPv6Unspecified(), netip.IPv6LinkLocalAllNodes()}) // of another family
		rest := whole.without(holes)
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			has := func(s span) bool { return in(s, a) }
			want := in(whole, a) && !slices.ContainsFunc(holes, has)
			if got := slices.ContainsFunc(rest, has); got != want {
				t.Fatalf("%v without %v leaves %v: %s is in it: %v, want %v", whole, holes, rest, a, got, want)
			}
		}
	}
}

// Blocks to both ends of a family leave nothing, and do not overflow.
func TestWithoutEnds(t *testing.T) {
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		whole, _ := parseCIDR(all)
		if rest := whole.without([]span{whole}); len(rest) > 0 || !whole.whole() {
			t.Errorf("%s without itself leaves %v", all, rest)
		}
	}
	half, _ := parseCIDR("128.0.0.0/1")
	whole, _ := parseCIDR("0.0.0.0/0")
	if got := fmt.Sprint(whole.without([]span{half})); got != "[0.0.0.0-127.255.255.255]" {
		t.Error(got)
	}
}

func FuzzParseCIDR(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8", "::/0", "::ffff:0.0.0.0/96", "1.2.3.4/33", "%/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseCIDR(text)
		if err == nil && (s.last.Less(s.first) || s.first.BitLen() != s.last.BitLen()) {
			t.Errorf("%q: %v", text, s)
		}
	})
}
