package rego

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// readData joins the data documents, each at the place in data that its directory names
// below the root: that of the bundle, which a .manifest marks, or else the directory that
// holds all files that are Rego's. So does OPA with a bundle.
func (s *sources) readData() (map[string]any, []policy.Flaw) {
	data := map[string]any{}
	var flaws []policy.Flaw
	common := s.common()
	for _, d := range s.data {
		var value any
		if err := yaml.UnmarshalStrict(d.Content, &value); err != nil {
			flaws = append(flaws, policy.Flaw{File: d.File, Line: lineOf(err), Message: "the data cannot be read: " + oneLine(err.Error())})
			continue
		}
		object, ok := value.(map[string]any)
		if !ok {
			flaws = append(flaws, policy.Flaw{File: d.File, Message: "the data is no object at its top"})
			continue
		}
		for _, word := range slices.Backward(s.below(path.Dir(d.File), common)) {
			object = map[string]any{word: object}
		}
		if at := merge(data, object, ""); at != "" {
			flaws = append(flaws, policy.Flaw{File: d.File, Message: fmt.Sprintf("another file has data at %s, too", at)})
		}
	}
	return data, flaws
}

// common is the directory that holds all modules and data.
func (s *sources) common() string {
	var common []string
	for i, d := range slices.Concat(s.modules, s.data) {
		words := strings.Split(path.Dir(d.File), "/")
		if i == 0 {
			common = words
			continue
		}
		n := 0
		for n < min(len(common), len(words)) && common[n] == words[n] {
			n++
		}
		common = common[:n]
	}
	return strings.Join(common, "/")
}

// below returns the directories between a root and dir.
func (s *sources) below(dir, common string) []string {
	root := common
	for _, r := range s.roots {
		if (r == "." || dir == r || strings.HasPrefix(dir, r+"/")) && len(r) >= len(root) {
			root = r
		}
	}
	rest := dir
	if root != "." {
		rest = strings.TrimPrefix(strings.TrimPrefix(dir, root), "/")
	}
	if rest == "" || rest == "." {
		return nil
	}
	return strings.Split(rest, "/")
}

// merge adds one object to another, and returns where both have something; "" if nowhere.
func merge(into, from map[string]any, at string) string {
	for key, value := range from {
		have, ok := into[key]
		if !ok {
			into[key] = value
			continue
		}
		a, isMap := have.(map[string]any)
		b, both := value.(map[string]any)
		if !isMap || !both {
			return strings.TrimPrefix(at+"."+key, ".")
		}
		if clash := merge(a, b, at+"."+key); clash != "" {
			return clash
		}
	}
	return ""
}
