package leak

import (
	"encoding/base64"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/secret"
)

// madeOf refers to a file that a secretGenerator makes a Secret of.
type madeOf struct {
	Path string `json:"path"` // from the root of the tree
	Role Role   `json:"role"`
}

// Role is what a file is searched as.
type Role string

// The roles.
const (
	asFile  Role = ""      // whatever it is
	asValue Role = "value" // all of it is a value of a Secret
	asEnv   Role = "env"   // each line NAME=VALUE is
)

// manifest is what is found by the structure of a file.
type manifest struct {
	path, text string
	hits       []hit
	refs       []madeOf
	sealed     [][2]int // ranges of the text that are sealed, or say how
}

// maxNesting bounds how deep lists and aliases are followed.
const maxNesting = 20

// interesting are the words without which a file's structure says nothing of secrets.
var interesting = regexp.MustCompile(`Secret|secretGenerator|encryptedData|sops`)

// read finds Secrets, secretGenerators and what is sealed. What is no YAML has none.
func (m *manifest) read() {
	switch path.Ext(m.path) {
	case ".yaml", ".yml", ".json", ".tpl", "":
	default:
		return
	}
	if !interesting.MatchString(m.text) {
		return
	}
	start := 0
	for start < len(m.text) {
		end := len(m.text)
		if i := separator.FindStringIndex(m.text[start:]); i != nil {
			end = start + i[1]
		}
		m.document(start, end)
		start = end
	}
}

var separator = regexp.MustCompile(`(?m)^---(?:[ \t].*)?\r?\n`)

// document reads one document; that of a template as far as it is YAML without its
// actions.
func (m *manifest) document(start, end int) {
	text := separator.ReplaceAllStringFunc(m.text[start:end], blank)
	text = strings.ReplaceAll(text, "\t", " ") // JSON may be indented by them
	var root yaml.Node
	if yaml.Unmarshal([]byte(text), &root) != nil {
		if !strings.Contains(text, "{{") {
			return
		}
		root = yaml.Node{}
		text = untemplate(text)
		if yaml.Unmarshal([]byte(text), &root) != nil {
			return
		}
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) == 0 {
		return
	}
	d := &document{manifest: m, text: text, start: start, lines: offsets(text)}
	d.object(root.Content[0], 0)
}

// action is one of a Go template. Actions of several lines are rare in manifests.
var action = regexp.MustCompile(`\{\{(?s:.*?)\}\}`)

// untemplate replaces the actions of a template by text of the same length: lines that
// only consist of them by nothing, others by a mark.
func untemplate(text string) string {
	marked := action.ReplaceAllStringFunc(text, func(s string) string {
		if strings.Contains(s, "\n") {
			return blank(s)
		}
		return (templateMark + strings.Repeat("_", len(s)))[:len(s)]
	})
	return onlyMarks.ReplaceAllStringFunc(marked, blank)
}

var onlyMarks = regexp.MustCompile(`(?m)^[ \t]*(?:TPL_[_L]*[ \t]*)+\r?$`)

// blank returns a text of the same lines and length, of spaces.
func blank(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] != '\n' {
			b[i] = ' '
		}
	}
	return string(b)
}

// document is one of a file.
type document struct {
	*manifest

	text  string
	start int   // in the file
	lines []int // where each begins in text
}

func offsets(text string) []int {
	list := []int{0}
	for i := range len(text) {
		if text[i] == '\n' {
			list = append(list, i+1)
		}
	}
	return list
}

// at returns where a node begins in the file.
func (d *document) at(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(d.lines) {
		return d.start
	}
	at := d.lines[n.Line-1]
	for range n.Column - 1 { // columns are characters
		_, size := utf8.DecodeRuneInString(d.text[at:])
		at += size
	}
	return d.start + at
}

// pairs calls visit with the entries of a mapping, those that it merges included; next
// is the key that follows, nil for the last.
func pairs(n *yaml.Node, depth int, visit func(key, value, next *yaml.Node)) {
	n = resolved(n)
	if n == nil || n.Kind != yaml.MappingNode || depth > maxNesting {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolved(n.Content[i+1])
		var next *yaml.Node
		if i+2 < len(n.Content) {
			next = n.Content[i+2]
		}
		switch {
		case value == nil:
		case key.Tag == "!!merge" && value.Kind == yaml.SequenceNode:
			for _, each := range value.Content {
				pairs(each, depth+1, visit)
			}
		case key.Tag == "!!merge":
			pairs(value, depth+1, visit)
		default:
			visit(key, value, next)
		}
	}
}

func resolved(n *yaml.Node) *yaml.Node {
	for range maxNesting {
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

// field returns a value of a mapping, nil if it has none of the name.
func field(n *yaml.Node, name string) *yaml.Node {
	var found *yaml.Node
	pairs(n, 0, func(key, value, _ *yaml.Node) {
		if key.Value == name && found == nil {
			found = value
		}
	})
	return found
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// object looks at one object, or at those of a list.
func (d *document) object(n *yaml.Node, depth int) {
	n = resolved(n)
	if n == nil || depth > maxNesting {
		return
	}
	if n.Kind == yaml.SequenceNode {
		for _, each := range n.Content {
			d.object(each, depth+1)
		}
		return
	}
	kind, version := text(field(n, "kind")), text(field(n, "apiVersion"))
	d.seals(n)
	switch {
	case kind == "Secret" && (version == "" || version == "v1"):
		d.secret(n)
	case strings.HasSuffix(kind, "List"):
		d.object(field(n, "items"), depth+1)
	case kind == "SealedSecret":
		pairs(field(n, "spec"), 0, func(key, value, next *yaml.Node) {
			if key.Value == "encryptedData" {
				d.seal(value, next)
			}
		})
	case isKustomization(d.path, kind, version):
		d.kustomization(n)
	}
}

// seals notes what SOPS says of itself.
func (d *document) seals(n *yaml.Node) {
	pairs(n, 0, func(key, value, next *yaml.Node) {
		if key.Value == "sops" && strings.HasPrefix(text(field(value, "mac")), secret.SOPS) {
			d.seal(value, next)
		}
	})
}

// seal notes that a node, up to the next key beside it, is sealed.
func (d *document) seal(n, next *yaml.Node) {
	last := n
	for len(last.Content) > 0 {
		last = last.Content[len(last.Content)-1]
	}
	end := d.start + len(d.text)
	if next != nil && next.Line >= last.Line {
		end = d.at(next)
	} else if i := last.Line + strings.Count(last.Value, "\n"); last.Kind == yaml.ScalarNode && i+1 < len(d.lines) {
		end = d.start + d.lines[i+1]
	}
	if from := d.at(n); end > from {
		d.sealed = append(d.sealed, [2]int{from, end})
	}
}

// secret finds the values of a Secret that nobody sealed.
func (d *document) secret(n *yaml.Node) {
	labels := field(field(n, "metadata"), "labels")
	opens := field(labels, "sealedsecrets.bitnami.com/sealed-secrets-key") != nil
	for _, part := range []string{"data", "stringData"} {
		pairs(field(n, part), 0, func(key, value, next *yaml.Node) {
			if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
				return
			}
			content := value.Value
			if part == "data" {
				content = decoded(content)
			}
			if !open(value.Value) || !open(content) {
				return
			}
			rule, says := RuleSecret, "A value of a Secret that is not sealed."
			switch key := keyRule(content); {
			case opens && path.Ext(keyName(n, value, part)) == ".key", opens && key == RulePrivateKey:
				rule, says = RuleSealingKey, "The private key by which every SealedSecret of a cluster is opened."
			case key != "":
				rule, says = key, "A private key in a Secret that is not sealed."
			}
			d.add(rule, says, key, value, next)
		})
	}
}

// keyName returns the name by which a Secret holds a value.
func keyName(n, value *yaml.Node, part string) string {
	name := ""
	pairs(field(n, part), 0, func(key, v, _ *yaml.Node) {
		if v == value {
			name = key.Value
		}
	})
	return name
}

// add notes a value, told where its key is.
func (d *document) add(rule, says string, key, value, next *yaml.Node) {
	from := d.at(key)
	to := d.at(value) + len(value.Value)
	if next != nil && d.at(next) > from {
		to = d.at(next)
	}
	to = max(from, min(to, d.start+len(d.text)))
	d.hits = append(d.hits, hit{rule: rule, description: says, start: from, end: from, from: from, to: to, value: value.Value})
}

// decoded returns what base64 stands for, or the text itself where it is none.
func decoded(s string) string {
	compact := strings.Map(func(r rune) rune {
		if r == '\n' || r == ' ' || r == '\r' {
			return -1
		}
		return r
	}, s)
	b, err := base64.StdEncoding.DecodeString(compact)
	if err != nil {
		return s
	}
	return string(b)
}

// isKustomization: by its name, or by what it says it is.
func isKustomization(file, kind, version string) bool {
	switch path.Base(file) {
	case "kustomization.yaml", "kustomization.yml", "Kustomization":
		return kind == "" || kind == "Kustomization" || kind == "Component"
	}
	return strings.HasPrefix(version, "kustomize.config.k8s.io/")
}

// kustomization finds what secretGenerators make Secrets of.
func (d *document) kustomization(n *yaml.Node) {
	generators := field(n, "secretGenerator")
	if generators == nil || generators.Kind != yaml.SequenceNode {
		return
	}
	for _, g := range generators.Content {
		pairs(g, 0, func(key, value, _ *yaml.Node) {
			switch key.Value {
			case "literals":
				each(value, d.literal)
			case "files":
				each(value, func(item, _ *yaml.Node) {
					_, file, named := strings.Cut(item.Value, "=")
					if !named {
						file = item.Value
					}
					d.refer(file, asValue)
				})
			case "envs", "env":
				each(value, func(item, _ *yaml.Node) { d.refer(item.Value, asEnv) })
			}
		})
	}
}

// each visits the scalars of a sequence, or the one scalar that stands for it.
func each(n *yaml.Node, visit func(item, next *yaml.Node)) {
	if n.Kind == yaml.ScalarNode {
		visit(n, nil)
	}
	if n.Kind != yaml.SequenceNode {
		return
	}
	for i, item := range n.Content {
		var next *yaml.Node
		if i+1 < len(n.Content) {
			next = n.Content[i+1]
		}
		if item = resolved(item); item != nil && item.Kind == yaml.ScalarNode {
			visit(item, next)
		}
	}
}

func (d *document) literal(item, next *yaml.Node) {
	_, value, ok := strings.Cut(item.Value, "=")
	if value = strings.Trim(value, `"'`); !ok || !open(value) {
		return
	}
	rule, says := RuleLiteral, "A literal of a secretGenerator: its value is not sealed."
	if key := keyRule(value); key != "" {
		rule = key
	}
	d.add(rule, says, item, item, next)
	d.hits[len(d.hits)-1].value = value
}

// refer notes a file of the tree that a Secret is made of.
func (d *document) refer(file string, role Role) {
	if file == "" || strings.Contains(file, "://") || path.IsAbs(file) {
		return
	}
	if full := path.Join(path.Dir(d.path), file); full != ".." && !strings.HasPrefix(full, "../") {
		d.refs = append(d.refs, madeOf{Path: full, Role: role})
	}
}

// asSecret finds what is open in a file that a secretGenerator reads.
func asSecret(role Role, content string) []hit {
	if role == asValue {
		if !open(content) {
			return nil
		}
		rule, says := RuleFile, "A file of which a secretGenerator makes a Secret; it is not sealed."
		if key := keyRule(content); key != "" {
			rule = key
		}
		return []hit{{rule: rule, description: says, to: len(content), value: content}}
	}
	var all []hit
	at, sealed := 0, sealedFile(content) // a line of a sealed file may stand open all the same
	for line := range strings.Lines(content) {
		trimmed := strings.TrimSpace(line)
		name, value, ok := strings.Cut(trimmed, "=")
		if sealed && strings.HasPrefix(name, "sops_") {
			ok = false
		}
		if value = strings.Trim(strings.TrimSpace(value), `"'`); ok && !strings.HasPrefix(trimmed, "#") && open(value) {
			all = append(all, hit{
				rule: RuleFile, description: "A line of which a secretGenerator makes a value of a Secret; it is not sealed.",
				start: at, end: at, from: at, to: at + len(line), value: value,
			})
		}
		at += len(line)
	}
	return all
}
