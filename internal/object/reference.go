package object

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ImageName is the name of an image in full, as container runtimes read it: what
// is left out has its default (registry docker.io, library/ before a bare word).
// The grammar is that of
// https://github.com/distribution/reference/blob/main/reference.go.
type ImageName struct {
	Registry   string // host, with its port where it has one
	Repository string
	Tag        string // "" where none is given
	Digest     string // sha256:...; "" where none is given
}

// String returns registry/repository, with the tag and the digest that it has.
func (n ImageName) String() string {
	s := n.Registry + "/" + n.Repository
	if n.Tag != "" {
		s += ":" + n.Tag
	}
	if n.Digest != "" {
		s += "@" + n.Digest
	}
	return s
}

// What the parts of an image's name may be.
var (
	imageHost       = regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(?::[0-9]{1,5})?$`)
	imageRepository = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	imageTag        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	imageDigest     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	imageID         = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

const (
	dockerHub      = "docker.io"
	maxImageName   = 255
	maxImageString = 1024
)

// ParseImage reads the name of an image, strictly: what two readers could take
// for two different images is an error, which says what is wrong in one line.
func ParseImage(name string) (ImageName, error) {
	if len(name) > maxImageString {
		return ImageName{}, fmt.Errorf("the image's name has %d characters, more than %d", len(name), maxImageString)
	}
	rest, digest, hasDigest := strings.Cut(name, "@")
	if hasDigest && !imageDigest.MatchString(digest) {
		return ImageName{}, fmt.Errorf("image %q: what follows @ is not sha256: and 64 hexadecimal digits in lower case", name)
	}
	tag := ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		rest, tag = rest[:i], rest[i+1:]
		if !imageTag.MatchString(tag) {
			return ImageName{}, fmt.Errorf("image %q: %q is not a tag", name, tag)
		}
	}
	if imageID.MatchString(rest) {
		return ImageName{}, fmt.Errorf("image %q: this is an id, not a name", name)
	}
	registry, repository := splitRegistry(rest)
	switch {
	case !imageHost.MatchString(registry):
		return ImageName{}, fmt.Errorf("image %q: %q is not the host of a registry in lower case", name, registry)
	case !imageRepository.MatchString(repository) || len(registry)+len(repository) >= maxImageName:
		return ImageName{}, fmt.Errorf("image %q: %q is not a repository", name, repository)
	}
	return ImageName{Registry: registry, Repository: repository, Tag: tag, Digest: digest}, nil
}

// splitRegistry separates the host from the repository, with the defaults. A
// first word is a host if it looks like nothing else: a dot, a port, upper case,
// or the one name localhost.
func splitRegistry(name string) (registry, repository string) {
	host, rest, slash := strings.Cut(name, "/")
	if !slash || !strings.ContainsAny(host, ".:") && host != "localhost" && strings.ToLower(host) == host {
		host, rest = dockerHub, name
	}
	if host == "index.docker.io" {
		host = dockerHub
	}
	if host == dockerHub && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	return host, rest
}

// ImagePattern is a pattern on registry/repository: * is any run of characters but
// slashes, ** any run at all. Only [ParseImagePattern] makes one.
type ImagePattern struct{ host, repository string }

// ParseImagePattern reads a pattern. What is left out has the default that an
// image's name has; a host alone is all of its repositories; ** alone is every
// image. In the host, a wildcard stands for whole labels at its beginning only
// (*.example.org), so that no pattern reaches into somebody else's domain. The
// error says what is wrong in one line.
func ParseImagePattern(pattern string) (ImagePattern, error) {
	switch pattern {
	case "":
		return ImagePattern{}, errors.New("a pattern is empty")
	case "**":
		return ImagePattern{host: "*", repository: "**"}, nil
	}
	host, repository := pattern, "**"
	if strings.Contains(pattern, "/") || !strings.ContainsAny(pattern, ".:") && pattern != "localhost" {
		host, repository = patternParts(pattern)
	}
	if host == "index.docker.io" {
		host = dockerHub
	}
	plain := strings.TrimPrefix(host, "*.")
	if host != "*" && !imageHost.MatchString(plain) {
		return ImagePattern{}, fmt.Errorf("pattern %q: %q is not a host in lower case; a wildcard stands for its first labels only, as in *.example.org", pattern, host)
	}
	if strings.ContainsAny(repository, ":@?[\\ ") || repository == "" {
		return ImagePattern{}, fmt.Errorf("pattern %q: only letters, digits, ., _, -, / and the wildcards * and ** are known, and neither tags nor digests", pattern)
	}
	return ImagePattern{host: host, repository: repository}, nil
}

// patternParts is splitRegistry for patterns, where the first part may be *.
func patternParts(pattern string) (host, repository string) {
	if first, rest, slash := strings.Cut(pattern, "/"); slash {
		switch {
		case first == "**":
			return "*", pattern
		case strings.Contains(first, "*"), rest == "**" && (first == dockerHub || first == "index.docker.io"):
			return first, rest
		}
	}
	return splitRegistry(pattern)
}

// Matches reports whether n is one of the images that p is for.
func (p ImagePattern) Matches(n ImageName) bool {
	suffix, wild := strings.CutPrefix(p.host, "*")
	switch {
	case !wild && p.host != n.Registry, wild && !strings.HasSuffix(n.Registry, suffix):
		return false
	case strings.HasPrefix(p.repository, "**/"):
		return Wild(p.repository, n.Repository) || Wild(p.repository[3:], n.Repository)
	}
	return Wild(p.repository, n.Repository)
}

// Concerns reports whether patterns are for an image: one of them matches or
// cannot be read, or there are none.
func Concerns(patterns []string, n ImageName) bool {
	for _, pattern := range patterns {
		if p, err := ParseImagePattern(pattern); err != nil || p.Matches(n) {
			return true
		}
	}
	return len(patterns) == 0
}

// Wild matches value against a pattern in which * is any run of characters but
// slashes and ** any run at all. Everything else stands for itself.
func Wild(pattern, value string) bool {
	// reach[i]: what was read of the pattern matches the first i bytes of value.
	reach := make([]bool, len(value)+1)
	reach[0] = true
	for pattern != "" {
		rest, deep := strings.CutPrefix(pattern, "**")
		star := deep
		if !deep {
			rest, star = strings.CutPrefix(pattern, "*")
		}
		if star {
			for i := 1; i <= len(value); i++ {
				reach[i] = reach[i] || reach[i-1] && (deep || value[i-1] != '/')
			}
		} else {
			for i := len(value); i > 0; i-- {
				reach[i] = reach[i-1] && value[i-1] == pattern[0]
			}
			reach[0], rest = false, pattern[1:]
		}
		pattern = rest
	}
	return reach[len(value)]
}
