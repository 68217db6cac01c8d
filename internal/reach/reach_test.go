package reach

import (
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestAddresses(t *testing.T) {
	tests := []struct {
		reason, address string
		link, loopback  bool // refused
	}{
		{"a machine of the network", "10.1.2.3:443", false, false},
		{"the metadata of most clouds", "169.254.169.254:80", true, false},
		{"in IPv6", "[::ffff:169.254.169.254]:80", true, false},
		{"with a zone", "[fe80::1%eth0]:80", true, false},
		{"behind a network that translates", "[64:ff9b::a9fe:a9fe]:80", true, false},
		{"this machine, likewise", "[64:ff9b::7f00:1]:80", false, true},
		{"a public address, likewise", "[64:ff9b::102:304]:443", false, false},
		{"Amazon's in IPv6", "[fd00:ec2::254]:80", true, false},
		{"Azure's", "168.63.129.16:80", true, false},
		{"Alibaba's", "100.100.100.200:80", true, false},
		{"this machine", "127.0.0.1:8200", false, true},
		{"nowhere", "0.0.0.0:8200", false, true},
	}
	for _, tt := range tests {
		for check, want := range map[string]bool{"link": tt.link, "loopback": tt.loopback} {
			err := Link("it", tt.address)
			if check == "loopback" {
				err = Loopback("it", tt.address)
			}
			if (fault.KindOf(err) == fault.Refused && err != nil) != want {
				t.Errorf("%s: %s by %s: %v", tt.reason, tt.address, check, err)
			}
		}
	}
	if err := Link("it", "nonsense"); err == nil {
		t.Error("what cannot be read is not reached")
	}
}
