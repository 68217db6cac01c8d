// Package reach says which addresses a tenant's text may lead this process to. A name is
// judged by the address that it was found to have, when the connection is made.
package reach

import (
	"net/netip"
	"slices"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// metadata is where machines of Amazon by IPv6, of Azure, of Alibaba and of Oracle find
// what is for them alone; elsewhere that is link-local.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("168.63.129.16"),
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"),
}

// translated is what stands before an IPv4 address where a network translates (RFC 6052).
var translated = netip.MustParsePrefix("64:ff9b::/96")

// Link refuses the addresses at which machines keep what is for nobody but them: link-local
// ones (RFC 3927, RFC 4291) and those of metadata services. what names who is reached.
// Errors: Refused.
func Link(what, address string) error {
	ip, err := meant(what, address)
	if err != nil {
		return err
	}
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || slices.Contains(metadata, ip) {
		return fault.New(fault.Refused, "%s is at %s, a link-local address", what, ip).
			WithHint("such addresses are for a machine itself, as the metadata of a cloud; --allow-link-local permits them")
	}
	return nil
}

// Loopback refuses the addresses of the machine itself. Errors: Refused.
func Loopback(what, address string) error {
	ip, err := meant(what, address)
	if err != nil {
		return err
	}
	if ip.IsLoopback() || ip.IsUnspecified() {
		return fault.New(fault.Refused, "%s is at %s, an address of the machine itself", what, ip)
	}
	return nil
}

// meant is the address that is reached in the end.
func meant(what, address string) (netip.Addr, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Addr{}, fault.New(fault.Internal, "the address of %s cannot be read", what)
	}
	ip := at.Addr().Unmap().WithZone("")
	if b := ip.As16(); translated.Contains(ip) {
		return netip.AddrFrom4([4]byte(b[12:])), nil
	}
	return ip, nil
}
