package commit

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bounds of a file of allowed signers.
const (
	maxAllowedLine = 16 << 10
	maxAllowed     = 10_000
)

// allowedForm is what people are told to write.
const allowedForm = "lines of allowed_signers: ADDRESS ssh-ed25519 AAAA…"

// allowed is one line of allowed_signers (ssh-keygen(1), ALLOWED SIGNERS).
type allowed struct {
	principals    string // a list of patterns
	key           ssh.PublicKey
	authority     bool   // cert-authority: the key signs certificates
	namespaces    string // a list of patterns; "" for any
	after, before time.Time
}

// parseAllowed reads allowed_signers. What is not known is refused with its line.
// Times without a Z are read as UTC, whatever the machine's zone.
func parseAllowed(text []byte) ([]allowed, error) {
	if bytes.Contains(text, []byte("PRIVATE KEY-----")) {
		return nil, errors.New("there is a private key; replace it, and write " + allowedForm)
	}
	var list []allowed
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if len(line) > maxAllowedLine {
			return nil, fmt.Errorf("line %d is longer than %d bytes", n, maxAllowedLine)
		}
		trimmed := strings.TrimSpace(string(line))
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		a, err := parseAllowedLine(trimmed)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if list = append(list, a); len(list) > maxAllowed {
			return nil, fmt.Errorf("there are more than %d lines", maxAllowed)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no signer is allowed: there is no line but comments; write " + allowedForm)
	}
	return list, nil
}

func parseAllowedLine(line string) (allowed, error) {
	var a allowed
	if !slices.ContainsFunc(strings.Fields(line)[1:], isKeyType) {
		return a, errors.New("there is no key behind principals; write " + allowedForm)
	}
	principals, rest, err := word(line)
	if err != nil {
		return a, err
	}
	a.principals = principals
	if len(principals) >= 2 && principals[0] == '"' && strings.IndexByte(principals[1:], '"') == len(principals)-2 {
		a.principals = principals[1 : len(principals)-1]
	}
	if a.principals == "" || strings.ContainsRune(a.principals, '"') {
		return a, errors.New("it does not begin with principals")
	}
	options, after, err := word(rest)
	if err != nil {
		return a, err
	}
	if !isKeyType(options) {
		if err := setOptions(&a, options); err != nil {
			return a, err
		}
		rest = after
	}
	if a.key, err = parseKey(rest); err != nil {
		return a, err
	}
	if !a.after.IsZero() && !a.before.IsZero() && !a.after.Before(a.before) {
		return a, errors.New("valid-before is not after valid-after")
	}
	return a, nil
}

// word cuts off what stands before the first blank outside of quotes.
func word(line string) (first, rest string, err error) {
	quoted := false
	for i := range len(line) {
		switch {
		case line[i] == '"':
			quoted = !quoted
		case (line[i] == ' ' || line[i] == '\t') && !quoted:
			return line[:i], strings.TrimLeft(line[i:], " \t"), nil
		}
	}
	if quoted {
		return "", "", errors.New("a quote is not closed")
	}
	return line, "", nil
}

// setOptions reads the options of a line. Errors name what is not supported.
func setOptions(a *allowed, text string) error {
	seen := map[string]bool{}
	for more := true; more; {
		var option string
		option, text, more = cutOption(text)
		name, value, hasValue := strings.Cut(option, "=")
		name = strings.ToLower(name)
		switch {
		case option == "":
			return errors.New("there is an empty option")
		case seen[name]:
			return fmt.Errorf("the option %q is given twice", name)
		}
		seen[name] = true
		if err := setOption(a, name, value, hasValue); err != nil {
			return err
		}
	}
	return nil
}

// cutOption cuts off what stands before the first comma outside of quotes.
func cutOption(text string) (option, rest string, more bool) {
	quoted := false
	for i := range len(text) {
		switch {
		case text[i] == '"':
			quoted = !quoted
		case text[i] == ',' && !quoted:
			return text[:i], text[i+1:], true
		}
	}
	return text, "", false
}

func setOption(a *allowed, name, value string, hasValue bool) (err error) {
	if name == "cert-authority" && !hasValue {
		a.authority = true
		return nil
	}
	if name != "namespaces" && name != "valid-after" && name != "valid-before" {
		return fmt.Errorf("the option %.40q is not supported", name)
	}
	if len(value) < 3 || value[0] != '"' || strings.IndexByte(value[1:], '"') != len(value)-2 {
		return fmt.Errorf("the option %q needs a value in quotes", name)
	}
	value = value[1 : len(value)-1]
	switch name {
	case "namespaces":
		a.namespaces = value
	case "valid-after":
		a.after, err = parseAllowedTime(value)
	case "valid-before":
		a.before, err = parseAllowedTime(value)
	}
	return err
}

// parseAllowedTime reads YYYYMMDD[Z] or YYYYMMDDHHMM[SS][Z].
func parseAllowedTime(text string) (time.Time, error) {
	digits := strings.TrimSuffix(strings.TrimSuffix(text, "Z"), "z")
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(layout) == len(digits) {
			if t, err := time.Parse(layout, digits); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%.40q is not a time such as 20270131 or 202701312359Z", text)
}

// keyTypes are the keys that are supported. DSA is not.
var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoRSA,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256,
}

func isKeyType(text string) bool {
	return strings.HasPrefix(text, "ssh-") || strings.HasPrefix(text, "ecdsa-") || strings.HasPrefix(text, "sk-")
}

// parseKey reads "type base64 comment".
func parseKey(text string) (ssh.PublicKey, error) {
	kind, rest, _ := strings.Cut(text, " ")
	if !isKeyType(kind) {
		return nil, fmt.Errorf("there is no key, but %.40q", kind)
	}
	if !slices.Contains(keyTypes, kind) {
		return nil, fmt.Errorf("keys of type %.40q are not supported", kind)
	}
	encoded, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), " ")
	key, _, _, left, err := ssh.ParseAuthorizedKey([]byte(kind + " " + encoded))
	if err != nil || len(left) > 0 || key.Type() != kind {
		return nil, errors.New("the key cannot be read")
	}
	return key, checkStrength(key)
}

// checkStrength refuses keys that are too weak to prove anything.
func checkStrength(key ssh.PublicKey) error {
	if !slices.Contains(keyTypes, key.Type()) {
		return fmt.Errorf("keys of type %.40q are not supported", key.Type())
	}
	held, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil // held in hardware, and of a fixed strength
	}
	if k, ok := held.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() < minRSA {
		return fmt.Errorf("an RSA key of %d bits is too weak: %d are the least", k.N.BitLen(), minRSA)
	}
	return nil
}

// matchesList matches a name with a list of patterns as OpenSSH does (ssh_config(5),
// PATTERNS): one must match, and none of those with an exclamation mark.
func matchesList(name, patterns string) bool {
	found := false
	for p := range strings.SplitSeq(patterns, ",") {
		p, not := strings.CutPrefix(p, "!")
		if !matches(name, p) {
			continue
		}
		if not {
			return false
		}
		found = true
	}
	return found
}

// matches compares a name to a pattern of * and ?, in time proportional to the product
// of their lengths.
func matches(name, pattern string) bool {
	n, p, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			n++
			p++
		case star >= 0:
			mark++
			n, p = mark, star+1
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
