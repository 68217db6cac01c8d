package render

import (
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// vocabulary are the words that a message about a chart may have: those of its
// templates, and those of the libraries that write messages. Every other word
// may be a value, and a value may be a secret.
type vocabulary map[string]bool

// libraryWords are the words of messages from Go's templates, sprig, YAML and
// JSON schema.
const libraryWords = `
	a additional additionalProperties after all allowed alternate an and any anchor any are arg args argument arguments
	array associated at bad be before between block bool but by calling can cannot char character character's clone command
	comment comparable comparing const constant convert could creating decode decoding defined did document dict does end
	enum equal error evaluate evaluating execute executing execution expected failed false field fields find float64 floats
	for format found from func function got greater had has have in incompatible incomplete index indicator int int64
	integer interface into invalid is it item items iterate key keys last length less line list map mapping match matches
	maximum maxItems maxLength method minimum minItems minLength missing more most multiple must name nested nil no not null
	number object of on one only operand or out over parse parsing pattern pipeline pointer properties property range
	reached reference rendering required s scalar schema sequence signature slice start string struct syntax t tag template
	templates than that the to token tpl true type types unable unclosed undefined unexpected unknown untyped unterminated
	uint8 validation valid value values variable want was with while within wrong YAML yaml
	Invalid Kubernetes apiVersion kind metadata this there least item's its strconv ParseInt ParseFloat Atoi
	chartutil common Values Files files engine
	error strings Repeat negative count semver version constraint improper recursed nests deeper levels twice
	generateName holds deep bytes MiB JSON document's list NaN Inf knows`

func newVocabulary() vocabulary {
	v := vocabulary{}
	v.learn([]byte(libraryWords))
	return v
}

var word = regexp.MustCompile(`[\pL\pN_]+`)

// learn adds the words of a text that everybody who sees the source may see.
func (v vocabulary) learn(text []byte) {
	for _, w := range word.FindAll(text, -1) {
		v[string(w)] = true
	}
}

// redact replaces what is not in the vocabulary by an ellipsis.
func (v vocabulary) redact(text string) string {
	var kept []string
	for piece := range strings.FieldsSeq(text) {
		for _, w := range word.FindAllString(piece, -1) {
			if !v[w] {
				piece = "…"
				break
			}
		}
		if piece == "…" && len(kept) > 0 && kept[len(kept)-1] == "…" {
			continue
		}
		kept = append(kept, piece)
	}
	return shorten(strings.Join(kept, " "))
}

// explain makes a fault of what a library of Helm says of the whole chart.
func (r *release) explain(what string, err error) error {
	return fault.New(fault.Invalid, "%s: %s", what, r.words.redact(err.Error())).At(path.Join(r.dir, chartFile), 0)
}

var (
	templatePlace  = regexp.MustCompile(`([\w./@+-]+):(\d+)`)
	templateAction = regexp.MustCompile(`at <([^<>\n]*)>:`)
	chartsOwnWords = regexp.MustCompile(`(?s)^execution error at \([^)]*\): (.*)$`)
	parseWords     = regexp.MustCompile(`(?s)^parse error (?:at|in) \([^)]*\): (.*)$`)
)

// templateFault says in which template, and where in it, a rendering failed:
// the innermost place that the engine names, and the template that led there.
func (r *release) templateFault(err error) error {
	text := err.Error()
	type place struct {
		file string
		line int
	}
	var places []place
	for _, m := range templatePlace.FindAllStringSubmatch(text, -1) {
		if file, ok := r.paths[m[1]]; ok {
			line, _ := strconv.Atoi(m[2])
			places = append(places, place{file, line})
		}
	}
	f := fault.New(fault.Invalid, "%s", r.templateWords(text))
	if len(places) == 0 {
		return f.At(path.Join(r.dir, chartFile), 0)
	}
	first, last := places[0], places[len(places)-1]
	if first.file != last.file {
		f = f.WithHint("reached from %s:%d", first.file, first.line)
	}
	return f.At(last.file, last.line)
}

// templateWords is what may be said of the engine's error.
func (r *release) templateWords(text string) string {
	if m := chartsOwnWords.FindStringSubmatch(text); m != nil { // required or fail
		return r.words.redact(m[1])
	}
	if m := parseWords.FindStringSubmatch(text); m != nil {
		return "not a template: " + r.words.redact(m[1])
	}
	message := strings.TrimSpace(text)
	message = message[strings.LastIndex(message, "\n")+1:]
	message = r.words.redact(message[strings.LastIndex(message, ">: ")+1:])
	message = strings.TrimPrefix(message, ": ")
	if at := templateAction.FindAllStringSubmatch(text, -1); len(at) > 0 {
		message += " at <" + r.words.redact(at[len(at)-1][1]) + ">"
	}
	return message
}
