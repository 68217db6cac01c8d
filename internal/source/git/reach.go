package git

import (
	"net"
	"syscall"
	"time"

	"github.com/holdfastcd/holdfast/internal/reach"
)

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

func checkAddress(address string) error { return reach.Link("the Git server, or its proxy,", address) }
