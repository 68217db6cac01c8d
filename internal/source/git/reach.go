package git

import (
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// metadata6 is where Amazon's machines find their metadata by IPv6; by IPv4, and
// with other clouds, it is link-local.
var metadata6 = netip.MustParseAddr("fd00:ec2::254")

// dialer connects to Git servers and proxies: wherever a tenant's URL, or a redirect
// of that server, leads, but for link-local addresses, where machines keep what is
// for nobody but them. It is asked with the address that a name was found to have.
func (o Options) dialer() *net.Dialer {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if !o.AllowLinkLocal {
		d.Control = func(_, address string, _ syscall.RawConn) error { return checkAddress(address) }
	}
	return d
}

// checkAddress refuses link-local addresses (RFC 3927, RFC 4291) and those of
// metadata services. Errors: Refused.
func checkAddress(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fault.New(fault.Internal, "the address of the Git server cannot be read")
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip == metadata6 {
		return fault.New(fault.Refused, "the Git server, or its proxy, is at %s, a link-local address", ip).
			WithHint("such addresses are for a machine itself, as the metadata of a cloud; --allow-link-local permits them")
	}
	return nil
}
