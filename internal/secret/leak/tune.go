package leak

import (
	"regexp"
	"strings"

	"github.com/holdfastcd/holdfast/internal/secret"
)

// What stands where a value will be put later.
var (
	// placeholders of templates: {{ }}, ${VAR} without a default, and argocd-vault-plugin's
	// <path:...>; one of them anywhere makes a template of the text.
	template = regexp.MustCompile(`\{\{[^}]*\}\}|\$\{[A-Za-z_][A-Za-z0-9_.]*(?::\?[^}]*)?\}|<path:[^<>\n]+>|` + templateMark)
	// references, which are all of a value: $VAR, $(VAR), <name>, and those of vals,
	// the Vault webhook and 1Password.
	reference = regexp.MustCompile(`\A(?:\$[A-Z_][A-Z0-9_]*|\$\([A-Za-z_][A-Za-z0-9_]*\)|<[A-Za-z][^<>\n]*>|ref\+[a-z0-9]+://\S+|vault:[^#\s]+#\S+|op://\S+)\z`)
	// public blocks of PEM: certificates, requests, public keys.
	public = regexp.MustCompile(`-----BEGIN (?:TRUSTED CERTIFICATE|X509 CRL|CERTIFICATE(?: REQUEST)?|(?:[A-Z]+ )?PUBLIC KEY)-----[A-Za-z0-9+/=\s]*-----END [A-Z0-9 ]+-----`)
)

// templateMark stands in the text for an action of a template, see untemplate.
const templateMark = "TPL__"

// open reports whether a text is a value that nobody sealed: neither empty, sealed, a
// placeholder, nor something public.
func open(text string) bool {
	text = strings.TrimSpace(text)
	switch {
	case text == "", strings.HasPrefix(text, secret.SOPS), sealedFile(text):
		return false
	case template.MatchString(text), reference.MatchString(text):
		return false
	}
	return strings.TrimSpace(public.ReplaceAllString(text, "")) != ""
}

// sealedFile reports whether a text is a file that SOPS sealed: it carries the sealed
// code by which SOPS knows that nobody changed it.
func sealedFile(text string) bool {
	return strings.Contains(text, "sops") && sealedCode.MatchString(text)
}

// sealedCode is that code, in YAML, JSON, dotenv and INI.
var sealedCode = regexp.MustCompile(`(?m)(?:\bmac["']?\s*[:=]|^sops_mac=)\s*["']?ENC\[AES256_GCM,`)

// What harmless goes by.
var (
	// names are words and numbers with separators, as people call things.
	name = regexp.MustCompile(`\A(?:[A-Za-z]+[0-9]{0,3}|v?[0-9]{1,4}(?:[a-z]+[0-9]{0,2})?)(?:[-_./:@](?:[A-Za-z]+[0-9]{0,3}|v?[0-9]{1,4}(?:[a-z]+[0-9]{0,2})?))*\z`)
	// hexadecimal sums of the usual lengths.
	sum = regexp.MustCompile(`\A(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{56}|[0-9a-fA-F]{64}|[0-9a-fA-F]{96}|[0-9a-fA-F]{128})\z`)
	// recipients of age, which are public keys.
	recipient = regexp.MustCompile(`\Aage1[02-9ac-hj-np-z]{50,}\z`)
	// what a sum of something public is called.
	summed = regexp.MustCompile(`(?i)(?:checksum|digest|sha-?(?:1|224|256|384|512)|fingerprint|revision|commit|etag|hash)`)
	// fields that name a thing and do not hold it.
	naming = regexp.MustCompile(`(?i)(?:name|ref|selector|class|path|file|issuer|provider|existing[-_]?secret|uid)["']?\s*[:=]+\s*["']?\s*\z`)
)

// harmless is by how much entropy alone is wrong in manifests: it reports whether a
// value, with the line it is on and what the rule matched before it, is the name of something, a sum of something public, a
// public key of age, a certificate, or a placeholder.
func harmless(line, before, value string) bool {
	switch {
	case recipient.MatchString(value):
		return true
	case name.MatchString(value) && strings.ContainsAny(value, "-_./:@"):
		return true
	case naming.MatchString(before) && !strings.ContainsAny(value, "+="):
		return true
	case sum.MatchString(value) && summed.MatchString(strings.SplitN(line, value, 2)[0]):
		return true
	case strings.Contains(before, "{{"), strings.Contains(before, "${"), strings.Contains(before, "<path:"):
		return true
	}
	return strings.HasPrefix(value, "LS0tLS1CRUdJTiBDRVJU") // a certificate in base64
}
