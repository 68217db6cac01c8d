package render

import (
	"regexp"
	"slices"
	"strings"
)

// Asked says which of the capabilities a result depends on.
type Asked struct {
	KubeVersion bool     `json:"kubeVersion,omitempty"`
	APIVersions []string `json:"apiVersions,omitempty"` // those that were looked for
	All         bool     `json:"all,omitempty"`         // too much to tell
}

// Note is what a reader of a result should know about one of its files.
type Note struct {
	File string `json:"file"`
	// Functions are those whose results follow from the request's seed, and are
	// not random or of this moment.
	Functions []string `json:"functions,omitempty"`
	// Repeated are keys that are in a mapping more than once; the last one counted.
	Repeated []string `json:"repeated,omitempty"`
}

// extra is what a rendering gives besides objects.
type extra struct {
	asked Asked
	notes []*Note
}

// note returns the note on a file.
func (x *extra) note(file string) *Note {
	for _, n := range x.notes {
		if n.File == file {
			return n
		}
	}
	n := &Note{File: file}
	x.notes = append(x.notes, n)
	return n
}

// sorted returns the notes by file, each with its lists in order.
func (x *extra) sorted() []Note {
	var list []Note
	for _, n := range x.notes {
		slices.Sort(n.Functions)
		slices.Sort(n.Repeated)
		list = append(list, *n)
	}
	slices.SortFunc(list, func(a, b Note) int { return strings.Compare(a.File, b.File) })
	return list
}

var (
	capabilityUse = regexp.MustCompile("[.\"`]Capabilities" +
		"(\\.APIVersions\\.Has\\s+(\"[^\"\n]*\"|`[^`]*`)|\\.KubeVersion\\b|\\.HelmVersion\\b)?")
	// wholeContext is a template that writes out everything it is given.
	wholeContext = regexp.MustCompile(`\b(?:to[A-Z]\w+|print\w*|quote|squote)\s+[.$]\s*[|})]`)
)

// scan finds what a text that may run as a template asks of the capabilities.
// It may find more than is asked when it runs, never less: what it does not
// understand counts as everything.
func (a *Asked) scan(text []byte) {
	for _, m := range capabilityUse.FindAllSubmatch(text, -1) {
		switch use := string(m[1]); {
		case use == "":
			a.All = true
		case use == ".KubeVersion":
			a.KubeVersion = true
		case use != ".HelmVersion":
			a.APIVersions = appendNew(a.APIVersions, strings.Trim(string(m[2]), "\"`"))
		}
	}
	if wholeContext.Match(text) {
		a.All = true
	}
}

// add joins what another rendering asked.
func (a *Asked) add(b Asked) {
	a.KubeVersion = a.KubeVersion || b.KubeVersion
	a.All = a.All || b.All
	for _, v := range b.APIVersions {
		a.APIVersions = appendNew(a.APIVersions, v)
	}
}

// Answers returns what caps say to what was asked, as text to compare: a result
// stands as long as the answers are the same. nil is the empty Capabilities.
func (a *Asked) Answers(caps *Capabilities) string {
	if caps == nil {
		caps = &Capabilities{}
	}
	var given []string
	if a.KubeVersion || a.All {
		given = append(given, caps.KubeVersion)
	}
	for _, v := range caps.APIVersions {
		if a.All || slices.Contains(a.APIVersions, v) {
			given = append(given, v)
		}
	}
	slices.Sort(given)
	return strings.Join(given, "\n")
}
