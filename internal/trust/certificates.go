package trust

import (
	"crypto/x509"
	"encoding/pem"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Certificates reads certificates in PEM (RFC 7468), one or more; no other block may stand beside them. Errors
// are Invalid: they say what is wrong and what to do, and never what the text holds.
func Certificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, fault.New(fault.Invalid, "there is a private key; replace it, and write certificates alone")
		case block.Type != "CERTIFICATE":
			return nil, fault.New(fault.Invalid, "there is a %.40s; write certificates in PEM", strings.ToLower(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.New(fault.Invalid, "certificate %d cannot be read", len(all)+1).Because(err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fault.New(fault.Invalid, "there is no certificate in PEM")
	}
	return all, nil
}
