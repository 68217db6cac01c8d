package source

import (
	"cmp"
	"net"
	"net/url"
	"path"
	"strings"
	"unicode"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// maxURL is longer than any address that works in practice.
const maxURL = 2048

// CheckURL refuses what must not be fetched. What is fetched is http, https and
// ssh, the latter also as git@host:path; allowFile is the process owner's word
// (never a tenant's) that file is, too. Errors are *fault.Error and never repeat
// a password: Invalid, Refused (file, credentials), Unsupported (other schemes).
func CheckURL(raw string, allowFile bool) error {
	if raw == "" {
		return fault.New(fault.Invalid, "the URL is empty")
	}
	if len(raw) > maxURL || strings.ContainsFunc(raw, unfit) {
		return fault.New(fault.Invalid, "the URL is too long or holds characters that have no place in one")
	}
	if before, _, _ := strings.Cut(raw, ":"); isSCP(raw) && strings.Contains(before, "@") {
		return checkSCP(raw)
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
	case "ssh":
		return checkSSH(u)
	case "":
		return fault.New(fault.Invalid, "the URL has no scheme").WithHint("write https://host/path")
	}
	return fault.New(fault.Unsupported, "URLs of scheme %q are not supported", u.Scheme).WithHint("use https or ssh")
}

func checkHTTP(u *url.URL) error {
	if u.User != nil {
		return errCredentials()
	}
	if strays(u.Path) || strings.Contains(strings.ToLower(u.EscapedPath()), "%2f") {
		return errStrays()
	}
	return checkHost(u)
}

// strays reports whether a path has steps that a server takes for another place.
// Whoever is permitted what lies below host/team would reach host/team/../other,
// with the credentials that are for the whole host.
func strays(path string) bool {
	if strings.ContainsRune(path, '\\') {
		return true
	}
	for step := range strings.SplitSeq(path, "/") {
		if step == "." || step == ".." {
			return true
		}
	}
	return false
}

func errStrays() error {
	return fault.New(fault.Invalid, "the path of the URL holds . or .. or an escaped slash").WithHint("write the path of the repository itself")
}

func checkSSH(u *url.URL) error {
	if _, ok := u.User.Password(); ok {
		return errCredentials()
	}
	user := u.User.Username()
	if strings.HasPrefix(user, "-") || strings.ContainsFunc(user, unfit) {
		return fault.New(fault.Invalid, "the URL names a user that no server has")
	}
	if strings.ContainsFunc(u.Path, unicode.IsControl) || len(u.Path) < 2 {
		return fault.New(fault.Invalid, "the URL names no repository")
	}
	if strays(u.Path) {
		return errStrays()
	}
	return checkHost(u)
}

func checkHost(u *url.URL) error {
	switch {
	case u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-"):
		return fault.New(fault.Invalid, "the URL names no host")
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return fault.New(fault.Invalid, "the URL of a repository has no query and no fragment")
	}
	return nil
}

// checkSCP checks user@host:path. A name that begins with a dash would be an
// option to a command, here or at the other end.
func checkSCP(raw string) error {
	user, host, p := splitSCP(raw)
	for _, part := range []string{user, host, p} {
		if part == "" || part[0] == '-' || part[0] == ':' {
			return fault.New(fault.Invalid, "the URL is not of the form git@host:path")
		}
	}
	if strings.Trim(user, nameChars+"_+") != "" || strings.Trim(host, nameChars) != "" {
		return fault.New(fault.Invalid, "the URL names a user or a host that cannot exist")
	}
	if strays(p) {
		return errStrays()
	}
	return nil
}

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"

func splitSCP(raw string) (user, host, p string) {
	user, rest, _ := strings.Cut(raw, "@")
	host, p, _ = strings.Cut(rest, ":")
	return user, host, p
}

// SplitSSH takes a URL that [CheckURL] accepts apart: the user ("" if none is
// named), host:port in lower case, and the repository's path as the server wants to hear it.
// ok is false if it is not one of ssh.
func SplitSSH(raw string) (user, address, p string, ok bool) {
	if isSCP(raw) {
		user, host, p := splitSCP(raw)
		return user, net.JoinHostPort(strings.ToLower(host), "22"), p, true
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "ssh" {
		return "", "", "", false
	}
	p = u.Path
	if strings.HasPrefix(p, "/~") { // a home directory is no absolute path
		p = p[1:]
	}
	return u.User.Username(), net.JoinHostPort(strings.ToLower(u.Hostname()), cmp.Or(u.Port(), "22")), p, true
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

func errCredentials() error {
	return fault.New(fault.Refused, "the URL holds credentials").WithHint("put username and password into a Secret and refer to it")
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
	address := host + trimPath(u.EscapedPath())
	if _, err := url.Parse("https://" + address); err != nil {
		return "" // a host that is none, such as ::
	}
	return address
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
