package source

import (
	"net/url"
	"path"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// maxURL is longer than any address that works in practice.
const maxURL = 2048

// CheckURL refuses what must not be fetched. Only http and https are fetched;
// allowFile is the process owner's word (never a tenant's) that file is, too.
// Errors are *fault.Error and never repeat a password: Invalid, Refused (file),
// Unsupported (ssh and other schemes).
func CheckURL(raw string, allowFile bool) error {
	if raw == "" {
		return fault.New(fault.Invalid, "the URL is empty")
	}
	if len(raw) > maxURL || strings.ContainsFunc(raw, unfit) {
		return fault.New(fault.Invalid, "the URL is too long or holds characters that have no place in one")
	}
	if isSCP(raw) {
		return unsupportedSSH()
	}
	u, err := url.Parse(raw)
	if err != nil {
		// The error's text repeats the URL, which may hold a password.
		return fault.New(fault.Invalid, "the URL cannot be parsed")
	}
	switch u.Scheme {
	case "http", "https":
		return checkHTTP(u)
	case "file":
		return checkFile(u, allowFile)
	case "ssh", "git+ssh":
		return unsupportedSSH()
	case "":
		return fault.New(fault.Invalid, "the URL has no scheme").WithHint("write https://host/path")
	}
	return fault.New(fault.Unsupported, "URLs of scheme %q are not supported", u.Scheme).WithHint("use https")
}

func checkHTTP(u *url.URL) error {
	switch {
	case u.User != nil:
		return fault.New(fault.Refused, "the URL holds credentials").WithHint("put username and password into a Secret and refer to it")
	case u.Hostname() == "" || strings.HasPrefix(u.Host, "-"):
		return fault.New(fault.Invalid, "the URL names no host")
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return fault.New(fault.Invalid, "the URL of a repository has no query and no fragment")
	}
	return nil
}

func checkFile(u *url.URL, allowed bool) error {
	if !allowed {
		return fault.New(fault.Refused, "file URLs give access to the controller's own disk").WithHint("serve the repository over https")
	}
	if u.Host != "" || !path.IsAbs(u.Path) {
		return fault.New(fault.Invalid, "a file URL has three slashes and an absolute path")
	}
	return nil
}

func unsupportedSSH() error {
	return fault.New(fault.Unsupported, "ssh URLs are not supported yet").WithHint("use https with a user name and a token")
}

// unfit is true for what belongs to shells, terminals and headers, not to URLs.
func unfit(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune("\"'`<>|\\^{}$;", r)
}

// isSCP reports whether raw is of the form [user@]host:path.
func isSCP(raw string) bool {
	host, rest, ok := strings.Cut(raw, ":")
	if !ok || host == "" || strings.Contains(raw, "://") || strings.ContainsAny(host, "/[") {
		return false
	}
	port, _, _ := strings.Cut(rest, "/")
	return strings.Contains(host, "@") || port == "" || strings.Trim(port, "0123456789") != ""
}

// defaultPorts are dropped whatever the scheme: nothing else is served there.
var defaultPorts = map[string]bool{"80": true, "443": true, "22": true, "9418": true}

// NormalizeURL reduces the many ways to write a repository's address to one,
// so that a webhook's addresses find the sources that mean the same: scheme,
// user, default port, case of the host, ".git" and trailing slashes go, and
// git@host:path becomes host/path. It is idempotent, and proves nothing about
// identity: use it to find what to ask again, never to decide who may read.
// What cannot be parsed gives "".
func NormalizeURL(raw string) string {
	raw = strings.TrimSpace(raw)
	if isSCP(raw) {
		host, p, _ := strings.Cut(raw, ":")
		raw = "ssh://" + host + (&url.URL{Path: "/" + p}).EscapedPath()
	}
	if !strings.Contains(raw, "://") {
		raw = "https://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	if u.Scheme == "file" {
		return "file://" + trimPath(u.EscapedPath())
	}
	host := strings.TrimRight(strings.ToLower(u.Hostname()), ".")
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" && !defaultPorts[port] {
		host += ":" + port
	}
	return host + trimPath(u.EscapedPath())
}

// trimPath cleans a repository's path: one leading slash, none at the end, no ".git".
func trimPath(p string) string {
	for {
		trimmed := strings.TrimSuffix(strings.TrimSuffix(path.Clean("/"+p), "/"), ".git")
		if trimmed == p {
			return p
		}
		p = trimmed
	}
}
