package git

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/crypto/ssh"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// lockedKey is made once: hashing its passphrase takes seconds with the race detector.
var lockedKey = sync.OnceValues(func() (*pem.Block, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("passphrase"))
})

// slowKey is an encrypted key of OpenSSH's format that says it is hashed in so many
// rounds.
func slowKey(t *testing.T, rounds uint32) []byte {
	t.Helper()
	made, err := lockedKey()
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: made.Type, Bytes: bytes.Clone(made.Bytes)}
	// The options end in the rounds, and follow the name of the function.
	at := bytes.Index(block.Bytes, []byte("bcrypt")) + len("bcrypt")
	size := int(binary.BigEndian.Uint32(block.Bytes[at:]))
	binary.BigEndian.PutUint32(block.Bytes[at+size:], rounds)
	return pem.EncodeToMemory(block)
}

func plainKey(t *testing.T) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

// TestSecretsThatNeverEnd: a Secret is a tenant's, and what it makes this process
// compute is bounded before it is begun.
func TestSecretsThatNeverEnd(t *testing.T) {
	r := newRemote(t.TempDir(), Options{})
	good := plainKey(t) // hashing a passphrase takes seconds with the race detector
	host := strings.Repeat("a", 250)
	const key = " ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBSW3wqOKmEbn2Pf9wIWZbhPOqpxNRUfYMzpr1OTzvCu\n"
	tests := map[string]struct {
		reason string
		secret source.Secret
		says   string
	}{
		"rounds":   {"a passphrase is hashed as often as the key says", source.Secret{SSHKey: slowKey(t, 1<<32-1), Password: "passphrase", KnownHosts: []byte(host + key)}, "rounds"},
		"size":     {"arithmetic with a key takes time by the cube of its size", source.Secret{SSHKey: bytes.Repeat([]byte("x"), maxKey+1), KnownHosts: []byte(host + key)}, "larger than"},
		"stars":    {"matching takes time by the power of the stars", source.Secret{SSHKey: good, KnownHosts: []byte(strings.Repeat("*a", 40) + "b" + key)}, "stars"},
		"marker":   {"also after a marker", source.Secret{SSHKey: good, KnownHosts: []byte("@cert-authority \t" + strings.Repeat("*a", 40) + "b" + key)}, "stars"},
		"one line": {"also as one pattern of several", source.Secret{SSHKey: good, KnownHosts: []byte("x,!" + strings.Repeat("*a", 40) + "b" + key)}, "stars"},
		"many":     {"many patterns take many times as long", source.Secret{SSHKey: good, KnownHosts: []byte(strings.Repeat("*a*b"+key, maxWildcards+1))}, "patterns"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() {
				_, err := r.sshConfig(tc.secret, "git", host+":22")
				done <- err
			}()
			select {
			case err := <-done:
				if fault.KindOf(err) != fault.Limit || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%v, want Limit and %q: %s", err, tc.says, tc.reason)
				}
			case <-time.After(time.Minute):
				t.Fatal("it computes still: " + tc.reason)
			}
		})
	}
	locked := source.Secret{SSHKey: slowKey(t, 16), Password: "passphrase", KnownHosts: []byte(host + key)}
	if _, err := r.sshConfig(locked, "git", host+":22"); err != nil {
		t.Errorf("a key as ssh-keygen locks it: %v", err)
	}
	for _, lines := range []string{host + key, "*.example.com,10.0.*.*,!x" + key + host + key, "# *****\n" + host + key} {
		if _, err := r.sshConfig(source.Secret{SSHKey: good, KnownHosts: []byte(lines)}, "git", host+":22"); err != nil {
			t.Errorf("known_hosts as people write it: %v", err)
		}
	}
}

func TestLinkLocal(t *testing.T) {
	tests := []struct {
		reason, address string
		kind            fault.Kind
	}{
		{"metadata of most clouds", "169.254.169.254:80", fault.Refused},
		{"written as IPv6", "[::ffff:169.254.169.254]:80", fault.Refused},
		{"by an interface", "[fe80::1%eth0]:443", fault.Refused},
		{"Amazon's, by IPv6", "[fd00:ec2::254]:80", fault.Refused},
		{"everybody at once", "224.0.0.1:80", fault.Refused},
		{"a cluster's own addresses are where Git servers are", "10.96.0.1:443", 0},
		{"tests and demonstrations", "127.0.0.1:80", 0},
	}
	for _, tc := range tests {
		if err := checkAddress(tc.address); err != nil != (tc.kind != 0) || err != nil && fault.KindOf(err) != tc.kind {
			t.Errorf("%s: %v, want %v: %s", tc.address, err, tc.kind, tc.reason)
		}
	}
}

// TestMetadataIsOutOfReach asks by every way that a tenant has.
func TestMetadataIsOutOfReach(t *testing.T) {
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest"+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
	}))
	defer front.Close()
	proxied := func(url string) source.Secret { return source.Secret{Proxy: &source.Proxy{URL: url}} }
	const lines = "169.254.169.254 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBSW3wqOKmEbn2Pf9wIWZbhPOqpxNRUfYMzpr1OTzvCu\n"
	tests := map[string]struct {
		url    string
		secret source.Secret
	}{
		"directly":     {"http://169.254.169.254/x", source.Secret{}},
		"redirect":     {front.URL + "/x", source.Secret{}},
		"ssh":          {"ssh://git@169.254.169.254/x", source.Secret{SSHKey: plainKey(t), KnownHosts: []byte(lines)}},
		"proxy":        {"http://git.example.com/x", proxied("http://169.254.169.254:80")},
		"socks":        {"https://git.example.com/x", proxied("socks5://169.254.169.254:80")},
		"proxy of ssh": {"ssh://git@169.254.169.254/x", source.Secret{SSHKey: plainKey(t), KnownHosts: []byte(lines), Proxy: &source.Proxy{URL: "http://169.254.169.254"}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := newStore(t, t.TempDir(), Options{}).Fetch(t.Context(), source.Request{URL: tc.url, Credential: source.NewCredential(name, tc.secret)})
			if fault.KindOf(err) != fault.Refused || !strings.Contains(err.Error(), "link-local") {
				t.Errorf("%v, want Refused", err)
			}
		})
	}
}

// TestStoresAreNotShared between addresses that only may mean the same.
func TestStoresAreNotShared(t *testing.T) {
	for _, pair := range [][2]string{
		{"https://host/x", "https://host:22/x"},
		{"https://host/x", "https://host/x.git"},
		{"ssh://alice@host/~/x", "ssh://bob@host/~/x"},
		{"alice@host:x", "bob@host:x"},
		{"http://host/x", "https://host/x"},
	} {
		if storeID(source.Request{URL: pair[0]}) == storeID(source.Request{URL: pair[1]}) {
			t.Errorf("%s and %s share a store", pair[0], pair[1])
		}
	}
	if storeID(source.Request{URL: "https://HOST/x/"}) != storeID(source.Request{URL: "https://host/x"}) {
		t.Error("one address, two stores")
	}
}

// TestManyNamedCommits: a server names commits without end before it sends a pack.
func TestManyNamedCommits(t *testing.T) {
	for _, line := range []string{pkt("shallow " + strings.Repeat("a", 40)), pkt("ACK " + strings.Repeat("a", 40) + "\n")} {
		endless := io.MultiReader(strings.NewReader(line), &repeating{line: line})
		b := &bounded{ReadCloser: io.NopCloser(endless), left: 1 << 40}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{b}, make([]byte, 7)) // in pieces
		if most := int64(maxNamed+1) * int64(len(line)+1); fault.KindOf(err) != fault.Limit || n > most {
			t.Errorf("%q: %d bytes are taken, then %v", line, n, err)
		}
	}
}

type repeating struct {
	line string
	at   int
}

func (r *repeating) Read(p []byte) (int, error) {
	n := copy(p, r.line[r.at:])
	r.at = (r.at + n) % len(r.line)
	return n, nil
}

// TestDeltasThatAddUp: each delta of a chain is within its bound, all together are not.
func TestDeltasThatAddUp(t *testing.T) {
	const size = 8 << 20
	insert := "\x7f" + strings.Repeat("\x00", 127)
	body := "\x01\x80\x80\x80\x04" + strings.Repeat(insert, size/128) // one byte becomes 8 MiB
	again := "\x80\x80\x80\x04\x80\x80\x80\x04" + strings.Repeat(insert, size/128)
	first, next := deflated(body), deflated(again)
	parts := [][]byte{blobPart("x")}
	for i := range 40 {
		size, delta := len(again), next
		if i == 0 {
			size, delta = len(body), first
		}
		part := append(objectHeader(plumbing.OFSDeltaObject, int64(size)), back(len(parts[len(parts)-1]))...)
		parts = append(parts, append(part, delta...))
	}
	file, err := os.Create(t.TempDir() + "/pack")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	raw := packOf(byte(len(parts)), parts...)
	if _, err := file.Write(raw); err != nil {
		t.Fatal(err)
	}
	p := &pack{file: file, size: int64(len(raw)), bases: newLRU[baseKey, base](0)}
	last := int64(len(raw) - hashSize - len(parts[len(parts)-1]))
	if _, _, err := p.build(last, maxDeltaBytes); fault.KindOf(err) != fault.Limit {
		t.Errorf("the last of 40 deltas of %d bytes: %v, want Limit", size, err)
	}
}

// back writes how far before a delta its base begins, as parseBack reads it.
func back(n int) []byte {
	b := []byte{byte(n & 0x7f)}
	for n >>= 7; n > 0; n >>= 7 {
		n--
		b = append([]byte{byte(n&0x7f) | 0x80}, b...)
	}
	return b
}

// TestDeepDirectories: nested directories are found, all of them and each once.
func TestDeepDirectories(t *testing.T) {
	var parts [][]byte
	add := func(kind plumbing.ObjectType, content string) plumbing.Hash {
		parts = append(parts, append(objectHeader(kind, int64(len(content))), deflated(content)...))
		return plumbing.ComputeHash(kind, []byte(content))
	}
	id := add(plumbing.BlobObject, "x")
	mode := "100644"
	for range 200 {
		id = add(plumbing.TreeObject, mode+" d\x00"+string(id[:]))
		mode = "40000"
	}
	head := add(plumbing.CommitObject, fmt.Sprintf("tree %s\nauthor a <a> 0 +0000\n\n", id))
	s := newStore(t, t.TempDir(), Options{})
	r := s.repo(source.Request{URL: "https://host/x"})
	if err := r.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.unlock()
	p, err := r.install(t.Context(), bytes.NewReader(packOf(byte(len(parts)), parts...)), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.add(p, state{Tips: []plumbing.Hash{head}}); err != nil {
		t.Fatal(err)
	}
	snap, err := r.snapshot(head, source.Request{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := r.reachable([]*snapshot{snap})
	if err != nil || len(ids) != len(parts) {
		t.Errorf("%d objects are found, %v; want %d", len(ids), err, len(parts))
	}
}
