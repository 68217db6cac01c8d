package leak

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/zricethezav/gitleaks/v8/config"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// jobKind is the name of our job, and the subject of sentences about it.
const jobKind = "searching for secrets"

// order is a job: files, which are asked for by their index.
type order struct {
	Salt  []byte `json:"salt,omitempty"`
	Files []item `json:"files"`
}

type item struct {
	Path string `json:"path"`
	Role Role   `json:"role,omitempty"`
}

// found is what a job found in one file.
type found struct {
	Findings []Finding `json:"findings,omitempty"`
	Refs     []madeOf  `json:"refs,omitempty"`
}

// maxJob is how many bytes one job searches; the rest of its files it leaves.
const maxJob = 1 << 20

// Handlers returns what runs inside a worker, for [worker.RunIfWorker].
func Handlers() map[string]worker.Handler {
	return map[string]worker.Handler{jobKind: handle}
}

// handle is the job inside the worker. It searches files until it has had enough, and
// says of each that it searched what it found.
func handle(payload []byte, files worker.Files) ([]byte, error) {
	var o order
	if err := json.Unmarshal(payload, &o); err != nil {
		return nil, fault.New(fault.Internal, "the order cannot be read: %s", err)
	}
	c, err := gitleaks()
	if err != nil {
		return nil, err
	}
	done := make([]found, 0, len(o.Files))
	size := 0
	for i, it := range o.Files {
		content, err := files.ReadFile(strconv.Itoa(i))
		if err != nil {
			if fault.KindOf(err) != fault.Limit {
				return nil, err
			}
			done = append(done, unsearched(it, o.Salt))
			continue
		}
		done = append(done, search(c, it, content, o.Salt))
		if size += len(content); size >= maxJob {
			break
		}
	}
	return json.Marshal(done)
}

func unsearched(it item, salt []byte) found {
	f := Finding{
		File: it.Path, Line: 1, Column: 1, Rule: RuleUnsearched,
		Description: "The file has more than " + strconv.Itoa(maxFile>>20) + " MiB and was not searched.",
	}
	f.Fingerprint = fingerprint(salt, f, "", 0)
	return found{Findings: []Finding{f}}
}

// search finds what is open in one file.
func search(c *config.Config, it item, content []byte, salt []byte) found {
	text := string(content)
	if binary(content) {
		text = "" // only its name says something
	}
	// What is sealed in part is a Secret's value, too: what was left open in it is searched
	// as in any file. Not every open value there is a secret: a user's name is left open.
	if it.Role == asEnv || it.Role == asValue && !sealedFile(text) {
		return found{Findings: told(it.Path, text, asSecret(it.Role, text), salt)}
	}
	m := manifest{path: it.Path, text: text}
	m.read()
	visible := unsealed(text, m.sealed)
	hits := append(m.hits, byKeys(visible)...) //nolint:gocritic // m goes no further
	hits = append(hits, byRules(c, it.Path, visible)...)
	return found{Findings: told(it.Path, text, distinct(hits), salt), Refs: m.refs}
}

// binary: as Git does, by a zero byte at the beginning.
func binary(content []byte) bool {
	const head = 8000
	return bytes.IndexByte(content[:min(len(content), head)], 0) >= 0
}

// sealedParts are values that SOPS sealed, and keys that age and OpenPGP sealed for it.
var sealedParts = regexp.MustCompile(`ENC\[AES256_GCM,[^\]]*\]|-----BEGIN (?:AGE ENCRYPTED FILE|PGP MESSAGE)-----[A-Za-z0-9+/=\s\\]*?-----END (?:AGE ENCRYPTED FILE|PGP MESSAGE)-----`)

// unsealed returns a text in which what is sealed is blank.
func unsealed(text string, ranges [][2]int) string {
	for _, r := range ranges {
		text = text[:r[0]] + blank(text[r[0]:r[1]]) + text[r[1]:]
	}
	if !strings.Contains(text, "ENC[") && !strings.Contains(text, "-----BEGIN ") {
		return text
	}
	return sealedParts.ReplaceAllStringFunc(text, blank)
}

// distinct leaves out what was found before by a rule that says more: entropy where
// another rule found the same, and a rule where the structure of the file told of it.
func distinct(hits []hit) []hit {
	var out []hit
	for i, h := range hits {
		double := slices.ContainsFunc(hits[:i], func(o hit) bool {
			return h.start >= o.from && h.start < max(o.to, o.from+1) && (h.rule == o.rule || h.rule == generic || o.rule == RuleSealingKey && h.rule == RulePrivateKey)
		}) || h.rule == generic && slices.ContainsFunc(hits, func(o hit) bool {
			return o.rule != generic && o.start < h.end && h.start < o.end
		})
		if !double {
			out = append(out, h)
		}
	}
	return out
}

// told turns what was found into what may be told of it.
func told(path, text string, hits []hit, salt []byte) []Finding {
	slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.rule, b.rule)) })
	var all []Finding
	before := map[string]int{}
	for _, h := range hits[:min(len(hits), maxFindings)] {
		f := Finding{File: path, Rule: h.rule, Description: h.description}
		f.Line, f.Column = position(text, h.start)
		f.Inline = h.rule != "" && text != "" && strings.Contains(lines(text, h.from, h.to), inlineAllow)
		f.Fingerprint = fingerprint(salt, f, h.value, before[h.rule])
		before[h.rule]++
		all = append(all, f)
	}
	return all
}

func position(text string, at int) (line, column int) {
	at = min(at, len(text))
	start := strings.LastIndexByte(text[:at], '\n') + 1
	return strings.Count(text[:at], "\n") + 1, utf8.RuneCountInString(text[start:at]) + 1
}

// fingerprint names a finding in every commit. Findings are told in events and logs, to
// people who may not read the repository. A digest of the value would let them try
// passwords until one fits, so it is keyed by the salt, which stands in the repository:
// who can read that reads the value as well. Without a salt the value is no part of it.
func fingerprint(salt []byte, f Finding, value string, before int) string {
	what := f.Rule + "\x00" + f.File + "\x00"
	if len(salt) == 0 {
		sum := sha256.Sum256([]byte(what + strconv.Itoa(before)))
		return hex.EncodeToString(sum[:16])
	}
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(what + value))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
