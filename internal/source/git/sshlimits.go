package git

import (
	"encoding/pem"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of what a Secret can make this process compute for one connection. The
// libraries have none: a key names how often its passphrase is hashed, and their
// match of a pattern with many stars takes exponential time.
const (
	maxKey       = 16 << 10 // an RSA key of 16384 bits
	maxRounds    = 256      // ssh-keygen takes 16 or 24
	maxStars     = 2        // in one pattern of known_hosts
	maxWildcards = 256      // patterns with stars
)

// checkKey refuses a private key, as text, that costs too much to use. Errors:
// Limit. A key that cannot be read is left to who reads it.
func checkKey(text []byte) *fault.Error {
	if len(text) > maxKey {
		return fault.New(fault.Limit, "the private key in the Secret is larger than %d bytes", maxKey)
	}
	if n := rounds(text); n > maxRounds {
		return fault.New(fault.Limit, "the passphrase of the SSH key is hashed in %d rounds, %d are allowed", n, maxRounds).
			WithHint("write it again with ssh-keygen -p -a 16")
	}
	return nil
}

// rounds returns how often the passphrase of a key is hashed, by OpenSSH's own
// format of keys (its PROTOCOL.key); 0 if it is of another or has none.
func rounds(text []byte) uint32 {
	block, _ := pem.Decode(text)
	if block == nil {
		return 0
	}
	body, ok := strings.CutPrefix(string(block.Bytes), "openssh-key-v1\x00")
	if !ok {
		return 0
	}
	var key struct {
		Cipher, Function, Options string

		Rest []byte `ssh:"rest"`
	}
	var options struct {
		Salt   string
		Rounds uint32
	}
	if ssh.Unmarshal([]byte(body), &key) != nil || key.Function != "bcrypt" || ssh.Unmarshal([]byte(key.Options), &options) != nil {
		return 0
	}
	return options.Rounds
}

// checkPatterns refuses lines of known_hosts whose patterns take too long to match.
// Errors: Limit.
func checkPatterns(lines []byte) *fault.Error {
	wildcards := 0
	for line := range strings.Lines(string(lines)) {
		for pattern := range strings.SplitSeq(hostsOf(line), ",") {
			stars := strings.Count(pattern, "*")
			if stars > maxStars {
				return fault.New(fault.Limit, "a host pattern in known_hosts has more than %d stars", maxStars).
					WithHint("write hosts as ssh-keyscan prints them, or *.example.com")
			}
			wildcards += min(stars, 1)
		}
	}
	if wildcards > maxWildcards {
		return fault.New(fault.Limit, "known_hosts has more than %d patterns with stars", maxWildcards)
	}
	return nil
}

// hostsOf returns the field of a line that names hosts, split as the library does
// it: after a marker such as @cert-authority, by blanks and tabs only.
func hostsOf(line string) string {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "#") {
		return ""
	}
	if strings.HasPrefix(line, "@") {
		_, line = word(line)
	}
	hosts, _ := word(line)
	return hosts
}

func word(line string) (first, rest string) {
	i := strings.IndexAny(line, "\t ")
	if i < 0 {
		return line, ""
	}
	return line[:i], strings.TrimSpace(line[i:])
}
