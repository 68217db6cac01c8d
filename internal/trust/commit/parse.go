package commit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pjbgf/sha1cd"
)

// maxTime is the end of the year 9999: what is later is no date.
const maxTime = 253_402_300_799

// signed is a commit or a tag, taken apart byte by byte.
type signed struct {
	payload   []byte // what was signed: the object without its signature
	signature []byte // armoured; empty: there is none
	by        ident  // author, or tagger
	made      time.Time
	parents   []string

	target, kind, name string // of a tag: what it points to, and its own name
}

// maxIdent is longer than any name and address: they are told, and recorded.
const maxIdent = 1 << 10

// ident is who made something, by their own account.
type ident struct {
	name, address string
	when          time.Time
}

func (i ident) String() string { return i.name + " <" + i.address + ">" }

var (
	hexID    = regexp.MustCompile(`^[0-9a-f]{40}$`)
	identity = regexp.MustCompile(`^([^<>\x00-\x1f\x7f]*) ?<([^<>\x00-\x20\x7f]*)> ([0-9]{1,12}) ([+-][0-9]{4})$`)
)

// hashes reports whether raw is the object of that kind and id, as Git hashes it.
// An object that was made to collide with another is none.
func hashes(kind, id string, raw []byte) bool {
	h := sha1cd.New()
	fmt.Fprintf(h, "%s %d\x00", kind, len(raw))
	h.Write(raw)
	return hex.EncodeToString(h.Sum(nil)) == id
}

func digestOf(raw []byte) [sha256.Size]byte { return sha256.Sum256(raw) }

// header is one line of an object's head, with those that continue it.
type header struct {
	key   string
	value []byte // continued lines joined by a newline, as a signature has them
	from  int    // where it begins and ends in the object
	to    int
}

// parseHeaders reads the head of a commit or tag up to the empty line
// (https://git-scm.com/docs/gitformat-signature, and commit.c and tag.c of Git). It
// refuses what Git does not write and another reader could take otherwise.
func parseHeaders(raw []byte) (headers []header, message int, err error) {
	if bytes.IndexByte(raw, 0) >= 0 {
		return nil, 0, errors.New("it holds a NUL byte, behind which Git does not show what was signed")
	}
	for at := 0; ; {
		end := bytes.IndexByte(raw[at:], '\n')
		if end < 0 {
			return nil, 0, errors.New("its head does not end")
		}
		line := raw[at : at+end]
		next := at + end + 1
		switch {
		case len(line) == 0:
			return headers, next, nil
		case bytes.IndexByte(line, '\r') >= 0:
			return nil, 0, errors.New("there is a carriage return in its head")
		case line[0] == ' ':
			if len(headers) == 0 {
				return nil, 0, errors.New("its head begins with a continued line")
			}
			last := &headers[len(headers)-1]
			last.value = append(append(last.value, '\n'), line[1:]...)
			last.to = next
		default:
			key, value, ok := bytes.Cut(line, []byte(" "))
			if !ok || len(key) == 0 {
				return nil, 0, fmt.Errorf("there is a line in its head that is no header: %.40q", line)
			}
			headers = append(headers, header{string(key), bytes.Clone(value), at, next})
		}
		at = next
	}
}

// parseCommit takes a commit apart. Errors say what is wrong with it; of one that is
// well made and not signed, the signature is empty.
func parseCommit(raw []byte) (signed, error) {
	headers, _, err := parseHeaders(raw)
	if err != nil {
		return signed{}, err
	}
	c := signed{payload: raw}
	take := taker{headers: headers}
	if tree := take.one("tree"); !hexID.Match(tree) {
		return c, errors.New("it does not begin with its tree")
	}
	for {
		parent := take.one("parent")
		if parent == nil {
			break
		}
		if !hexID.Match(parent) {
			return c, errors.New("a parent is no commit id")
		}
		c.parents = append(c.parents, string(parent))
	}
	if c.by, err = parseIdent(take.one("author")); err != nil {
		return c, fmt.Errorf("its author cannot be read: %w", err)
	}
	committer, err := parseIdent(take.one("committer"))
	if err != nil {
		return c, fmt.Errorf("its committer cannot be read: %w", err)
	}
	c.made = committer.when
	return c, c.findSignature(raw, take.headers)
}

// taker takes headers in their order.
type taker struct{ headers []header }

// one takes the next header if it has that name, else nil.
func (t *taker) one(key string) []byte {
	if len(t.headers) == 0 || t.headers[0].key != key {
		return nil
	}
	value := t.headers[0].value
	t.headers = t.headers[1:]
	if value == nil {
		value = []byte{}
	}
	return value
}

// once are headers that must not be there a second time.
var once = map[string]bool{"tree": true, "parent": true, "author": true, "committer": true, "object": true, "type": true, "tag": true, "tagger": true, "encoding": true}

// findSignature takes the signature out of a commit, whose headers from the
// committer's on are rest.
func (c *signed) findSignature(raw []byte, rest []header) error {
	encodings := 0
	for i, h := range rest {
		switch {
		case h.key == "gpgsig" && i != len(rest)-1 && rest[i+1].key == h.key:
			return errors.New("it has two signatures")
		case h.key == "gpgsig" && i != len(rest)-1:
			return fmt.Errorf("there is a header %q behind its signature", rest[i+1].key)
		case h.key == "gpgsig":
			c.signature = slices.Concat(h.value, []byte{'\n'})
			c.payload = append(bytes.Clone(raw[:h.from]), raw[h.to:]...)
		case strings.HasPrefix(h.key, "gpgsig"):
			return fmt.Errorf("it has a signature of a kind that is not supported: %s", h.key)
		case h.key == "encoding":
			if encodings++; encodings > 1 {
				return errors.New("it has two headers \"encoding\"")
			}
		case once[h.key]:
			return fmt.Errorf("there is another header %q, or one in the wrong place", h.key)
		}
	}
	return nil
}

// signatures begin a line of a tag's message.
var signatures = regexp.MustCompile(`(?m)^-----BEGIN [A-Z0-9 ]+-----`)

// parseTag takes a tag apart: its signature ends its message.
func parseTag(raw []byte) (signed, error) {
	headers, message, err := parseHeaders(raw)
	if err != nil {
		return signed{}, err
	}
	t := signed{payload: raw}
	take := taker{headers: headers}
	t.target, t.kind, t.name = string(take.one("object")), string(take.one("type")), string(take.one("tag"))
	if !hexID.MatchString(t.target) || t.kind == "" || t.name == "" {
		return t, errors.New("it does not begin with what it points to, and its name")
	}
	if t.by, err = parseIdent(take.one("tagger")); err != nil {
		return t, fmt.Errorf("its tagger cannot be read: %w", err)
	}
	t.made = t.by.when
	if len(take.headers) > 0 {
		return t, fmt.Errorf("it has a header %q, which is not supported", take.headers[0].key)
	}
	marks := signatures.FindAllIndex(raw[message:], -1)
	switch len(marks) {
	case 0:
		return t, nil
	case 1:
		at := message + marks[0][0]
		t.payload, t.signature = raw[:at], raw[at:]
		return t, nil
	}
	return t, errors.New("it has two signatures")
}

// parseIdent reads "Name <address> seconds zone".
func parseIdent(value []byte) (ident, error) {
	if value == nil {
		return ident{}, errors.New("it is missing, or not in its place")
	}
	if len(value) > maxIdent {
		return ident{}, fmt.Errorf("it is longer than %d bytes", maxIdent)
	}
	m := identity.FindSubmatch(value)
	if m == nil {
		return ident{}, errors.New("it is not of the form \"name <address> time zone\"")
	}
	seconds, err := strconv.ParseInt(string(m[3]), 10, 64)
	if err != nil || seconds > maxTime {
		return ident{}, errors.New("its time is none")
	}
	name := strings.ToValidUTF8(strings.TrimSpace(string(m[1])), "\uFFFD")
	return ident{name, strings.ToValidUTF8(string(m[2]), "\uFFFD"), time.Unix(seconds, 0).UTC()}, nil
}
