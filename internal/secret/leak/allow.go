package leak

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// AllowFile is where a repository keeps its list of findings that are allowed.
const AllowFile = ".holdfast/allow-secrets.yaml"

const (
	maxAllowFile = 256 << 10
	maxEntries   = 1000
	notice       = 7 * 24 * time.Hour // how long before its end an entry is told of
)

// Allowance excuses findings.
type Allowance struct {
	// Path is a pattern on the file: * ends at a slash, ** does not.
	Path string `json:"path"`
	Rule string `json:"rule"` // "*" for any
	// Fingerprint, where it is not "", must be that of the finding.
	Fingerprint string `json:"fingerprint,omitempty"`
	Reason      string `json:"reason"`
	// Expires is the last day on which it counts, in UTC.
	Expires time.Time `json:"expires"`
}

// AllowList is what excuses findings.
type AllowList struct {
	// Salt keys fingerprints, see [Finding]; nil: none.
	Salt    []byte
	Entries []Allowance
}

// Check says what is wrong with an entry at a moment; nil if nothing is. Errors are
// *fault.Error of kind Invalid.
func (a Allowance) Check(now time.Time) error {
	switch {
	case strings.TrimSpace(a.Path) == "":
		return fault.New(fault.Invalid, "path is missing")
	case strings.TrimSpace(a.Rule) == "":
		return fault.New(fault.Invalid, "rule is missing").WithHint(`name the rule of the finding, or write "*" for any`)
	case a.Fingerprint != "" && !fingerprinted.MatchString(a.Fingerprint):
		return fault.New(fault.Invalid, "%q is no fingerprint", a.Fingerprint)
	case strings.TrimSpace(a.Reason) == "":
		return fault.New(fault.Invalid, "reason is missing").WithHint("say why the value is no secret")
	case a.Expires.IsZero():
		return fault.New(fault.Invalid, "expires is missing").WithHint("write a date, such as %s", now.AddDate(0, 3, 0).Format(time.DateOnly))
	case a.Expires.After(now.AddDate(1, 0, 0)):
		return fault.New(fault.Invalid, "expires is more than a year ahead")
	}
	return nil
}

var fingerprinted = regexp.MustCompile(`\A[0-9a-f]{32}\z`)

// end is the moment from which on an entry does not count.
func (a Allowance) end() time.Time { return a.Expires.Truncate(24*time.Hour).AddDate(0, 0, 1) }

// covers reports whether an entry is for a finding.
func (a Allowance) covers(f Finding) bool {
	return (a.Rule == "*" || a.Rule == f.Rule) && (a.Fingerprint == "" || a.Fingerprint == f.Fingerprint) && pattern(a.Path).MatchString(f.File)
}

// pattern compiles a glob of * ? and **.
func pattern(glob string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`\A`)
	for i := 0; i < len(glob); i++ {
		switch {
		case strings.HasPrefix(glob[i:], "**/"):
			b.WriteString(`(?:.*/)?`)
			i += 2
		case strings.HasPrefix(glob[i:], "**"):
			b.WriteString(`.*`)
			i++
		case glob[i] == '*':
			b.WriteString(`[^/]*`)
		case glob[i] == '?':
			b.WriteString(`[^/]`)
		default:
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		}
	}
	return regexp.MustCompile(`(?s)` + strings.ToValidUTF8(b.String(), "") + `\z`)
}

// Judged is what is left of findings.
type Judged struct {
	Findings []Finding // that nothing excuses
	Allowed  int       // how many are excused
	// Notices are about entries that end within a week, or have ended while something
	// still needs them.
	Notices []string
	// Until is when something else is to be said of the same findings: an entry ends, or
	// is about to; zero: never.
	Until time.Time
}

// Judge leaves out the findings that a list excuses at a moment.
func (l AllowList) Judge(all []Finding, now time.Time) Judged {
	var j Judged
	told := map[int]bool{}
	for _, f := range all {
		i := l.excuse(f, now)
		if i < 0 {
			j.Findings = append(j.Findings, f)
			l.lament(&j, told, f)
			continue
		}
		j.Allowed++
		end := l.Entries[i].end()
		change := end.Add(-notice)
		if !change.After(now) {
			change = end
		}
		if j.Until.IsZero() || change.Before(j.Until) {
			j.Until = change
		}
		if left := end.Sub(now); left <= notice && !told[i] {
			told[i] = true
			j.Notices = append(j.Notices, fmt.Sprintf("%s: %s is allowed until %s only: %s", f.File, f.Rule, l.Entries[i].Expires.Format(time.DateOnly), l.Entries[i].Reason))
		}
	}
	return j
}

// excuse returns the entry that excuses a finding for the longest; -1: none does.
func (l AllowList) excuse(f Finding, now time.Time) int {
	best := -1
	for i, a := range l.Entries {
		if a.end().After(now) && a.covers(f) && (best < 0 || a.end().After(l.Entries[best].end())) {
			best = i
		}
	}
	return best
}

// lament tells of entries that excused a finding until they ended.
func (l AllowList) lament(j *Judged, told map[int]bool, f Finding) {
	for i, a := range l.Entries {
		if a.covers(f) && !told[i] {
			told[i] = true
			j.Notices = append(j.Notices, fmt.Sprintf("%s: %s was allowed until %s and is not any more", f.File, f.Rule, a.Expires.Format(time.DateOnly)))
		}
	}
}

// allowFile is the form of the file.
type allowFile struct {
	Salt  string       `yaml:"salt"`
	Allow []allowEntry `yaml:"allow"`
}

type allowEntry struct {
	Path        string `yaml:"path"`
	Rule        string `yaml:"rule"`
	Fingerprint string `yaml:"fingerprint"`
	Reason      string `yaml:"reason"`
	Expires     string `yaml:"expires"`
	line        int
}

// UnmarshalYAML notes the line of an entry.
func (e *allowEntry) UnmarshalYAML(n *yaml.Node) error {
	type plain allowEntry
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch key := n.Content[i]; key.Value {
		case "path", "rule", "fingerprint", "reason", "expires":
		default: // the decoder is strict above the first custom type only
			return fmt.Errorf("line %d: field %s is not known", key.Line, key.Value)
		}
	}
	if err := n.Decode((*plain)(e)); err != nil {
		return err
	}
	e.line = n.Line
	return nil
}

// ParseAllowList reads an [AllowFile] as it is at a moment. Errors are *fault.Error of
// kind Invalid or Limit, with file and line.
func ParseAllowList(content []byte, now time.Time) (AllowList, error) {
	if len(content) > maxAllowFile {
		return AllowList{}, fault.New(fault.Limit, "the file has more than %d bytes", maxAllowFile).At(AllowFile, 0)
	}
	var file allowFile
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return AllowList{}, fault.New(fault.Invalid, "not a list of allowed findings: %s", strings.TrimPrefix(err.Error(), "yaml: ")).At(AllowFile, 0)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return AllowList{}, fault.New(fault.Invalid, "the file has more than one document").At(AllowFile, 0)
	}
	if len(file.Allow) > maxEntries {
		return AllowList{}, fault.New(fault.Limit, "the file has more than %d entries", maxEntries).At(AllowFile, 0)
	}
	return file.list(now)
}

func (file allowFile) list(now time.Time) (AllowList, error) {
	var l AllowList
	if file.Salt != "" {
		salt, err := hex.DecodeString(file.Salt)
		if err != nil || len(salt) < 16 || len(salt) > 64 {
			return AllowList{}, fault.New(fault.Invalid, "salt must be 32 hexadecimal digits or more").
				At(AllowFile, 0).WithHint("make one with: openssl rand -hex 16")
		}
		l.Salt = salt
	}
	for _, e := range file.Allow {
		day, err := time.Parse(time.DateOnly, e.Expires)
		if err != nil && e.Expires != "" {
			return AllowList{}, fault.New(fault.Invalid, "expires: %q is no date", e.Expires).At(AllowFile, e.line).WithHint("write it as 2006-01-02")
		}
		a := Allowance{Path: e.Path, Rule: e.Rule, Fingerprint: e.Fingerprint, Reason: e.Reason, Expires: day}
		err = a.Check(now)
		if err == nil && a.Fingerprint != "" && l.Salt == nil {
			err = fault.New(fault.Invalid, "an entry names a fingerprint, and the file has no salt: it would excuse whatever stands at the same place").
				WithHint("add salt: and the output of: openssl rand -hex 16")
		}
		if err != nil {
			return AllowList{}, fault.From(err).At(AllowFile, e.line)
		}
		l.Entries = append(l.Entries, a)
	}
	return l, nil
}
