package builtin

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// span is addresses of one family, from first to last.
type span struct{ first, last netip.Addr }

// private are addresses that are not reached from the Internet: the private, shared,
// loopback, link-local, multicast and reserved blocks of
// https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry.
var private = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3",
	"::/127", "fc00::/7", "fe80::/10", "ff00::/8",
}

// parseCIDR reads an address block; bits of its address beyond the block do not count, as
// for those who enforce it. An IPv4 block written as IPv6 is the IPv4 block.
func parseCIDR(text string) (span, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil {
		return span{}, fmt.Errorf("%q is not an address block such as 10.0.0.0/8", text)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	end, _ := netip.AddrFromSlice(last)
	return span{p.Addr(), end}, nil
}

func parseCIDRs(list []string) ([]span, error) {
	spans := make([]span, 0, len(list))
	for _, text := range list {
		s, err := parseCIDR(text)
		if err != nil {
			return nil, err
		}
		spans = append(spans, s)
	}
	return spans, nil
}

// without returns what of s is in none of holes.
func (s span) without(holes []span) []span {
	holes = slices.Clone(holes)
	slices.SortFunc(holes, func(a, b span) int { return a.first.Compare(b.first) })
	var rest []span
	for _, h := range holes {
		if h.first.BitLen() != s.first.BitLen() || h.last.Less(s.first) || s.last.Less(h.first) {
			continue
		}
		if s.first.Less(h.first) {
			rest = append(rest, span{s.first, h.first.Prev()})
		}
		if h.last.Compare(s.last) >= 0 {
			return rest
		}
		s.first = h.last.Next()
	}
	return append(rest, s)
}

// String renders a span as first-last.
func (s span) String() string {
	if s.first == s.last {
		return s.first.String()
	}
	return s.first.String() + "-" + s.last.String()
}

// tell names the first few of spans.
func tell(spans []span) string {
	const most = 3
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.first.BitLen(), b.first.BitLen()), a.first.Compare(b.first))
	})
	parts := make([]string, 0, most+1)
	for _, s := range spans[:min(len(spans), most)] {
		parts = append(parts, s.String())
	}
	if more := len(spans) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(parts, ", ")
}
