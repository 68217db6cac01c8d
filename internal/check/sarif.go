package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// The part of SARIF 2.1.0 that code hosts read
// (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		ColumnKind  string            `json:"columnKind"`
		Results     []sarifResult     `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		URI     string      `json:"informationUri"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifInvocation struct {
		Successful    bool                `json:"executionSuccessful"`
		Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
	}
	sarifNotification struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifRule struct {
		ID         string         `json:"id"`
		Short      sarifText      `json:"shortDescription"`
		HelpURI    string         `json:"helpUri,omitempty"`
		Default    sarifDefault   `json:"defaultConfiguration"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	sarifDefault struct {
		Level string `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Related      []sarifLocation   `json:"relatedLocations,omitempty"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Properties   map[string]any    `json:"properties,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
		Message  *sarifText     `json:"message,omitempty"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		Line   int `json:"startLine"`
		Column int `json:"startColumn,omitempty"`
	}
)

const (
	sarifSchema = "https://json.schemastore.org/sarif-2.1.0.json"
	homepage    = "https://github.com/holdfastcd/holdfast"
	// someFile is where a finding is shown that has no file: code hosts drop what has none.
	someFile = "."
)

// severities as code hosts sort security findings by, see CVSS.
var severities = map[string]string{"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "3.0", "info": "0.5"}

// writeSARIF writes the report in SARIF 2.1.0, for code hosts; version is that of this
// program.
func (r Report) writeSARIF(w io.Writer, version string) error {
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{Name: "holdfast", Version: version, URI: homepage, Rules: []sarifRule{}}},
		ColumnKind: "unicodeCodePoints", Results: []sarifResult{},
		Invocations: []sarifInvocation{r.invocation()},
	}
	index := map[string]int{}
	for _, f := range r.Findings {
		id := f.ruleID()
		if _, known := index[id]; !known {
			index[id] = len(run.Tool.Driver.Rules)
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, f.sarifRule(id))
		}
		run.Results = append(run.Results, f.sarif(id, index[id]))
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{run}})
}

func (r Report) invocation() sarifInvocation {
	i := sarifInvocation{Successful: len(r.Undecided) == 0}
	for _, text := range r.Undecided {
		i.Notifications = append(i.Notifications, sarifNotification{"error", sarifText{text}})
	}
	for _, text := range r.Notices {
		i.Notifications = append(i.Notifications, sarifNotification{"note", sarifText{text}})
	}
	return i
}

// ruleID is unique among the rules of all policies.
func (f Finding) ruleID() string {
	if f.Policy != "" && f.Kind != KindSecret {
		return f.Policy + "/" + f.Rule
	}
	return f.Rule
}

// kinds say in words what the rules of a kind are for.
var kinds = map[string]string{
	KindRender:  "What the repository asks to be delivered can be rendered.",
	KindSchema:  "Objects are what the API server takes.",
	KindProject: "The AppProject permits what is delivered.",
	KindTrust:   "Images are those that a TrustPolicy permits.",
}

func (f Finding) sarifRule(id string) sarifRule {
	text := kinds[f.Kind]
	switch f.Kind {
	case KindSecret:
		text = f.Message
	case KindPolicy:
		text = "The rule " + f.Rule + " of the policy set " + f.Policy + "."
	}
	properties := map[string]any{"tags": []string{f.Kind}}
	if s, ok := severities[strings.ToLower(f.Level)]; ok {
		properties["security-severity"] = s
	}
	return sarifRule{ID: id, Short: sarifText{text}, HelpURI: f.Reference, Default: sarifDefault{f.level()}, Properties: properties}
}

// level is the severity, in the words of SARIF.
func (f Finding) level() string {
	if f.Severity == Warning {
		return "warning"
	}
	return "error"
}

func (f Finding) sarif(id string, index int) sarifResult {
	text := f.words()
	if f.Object != "" {
		text = f.Object + ": " + text
	}
	at := location(f.File, f.Line, f.Column)
	if f.Object != "" {
		at.Logical = []sarifLogical{{f.Object, "object"}}
	}
	result := sarifResult{
		RuleID: id, RuleIndex: index, Level: f.level(), Message: sarifText{text}, Locations: []sarifLocation{at},
		Fingerprints: map[string]string{"holdfast/v1": f.Fingerprint}, Properties: map[string]any{},
	}
	for name, value := range map[string]string{"commit": f.Commit, "path": f.Path, "kind": f.Kind} {
		if value != "" {
			result.Properties[name] = value
		}
	}
	if len(f.Deliveries) > 0 {
		result.Properties["deliveries"] = f.Deliveries
	}
	if f.Source != "" && f.Source != f.File {
		policy := location(f.Source, f.SourceLine, 0)
		policy.Message = &sarifText{fmt.Sprintf("the policy %s", f.Rule)}
		result.Related = []sarifLocation{policy}
	}
	return result
}

func location(file string, line, column int) sarifLocation {
	if file == "" {
		file = someFile
	}
	l := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{uri(file)}}}
	if line > 0 {
		l.Physical.Region = &sarifRegion{line, column}
	}
	return l
}

// uri is a path as a relative reference.
func uri(file string) string {
	var b strings.Builder
	for _, c := range []byte(file) {
		switch {
		case c == '/', c == '-', c == '_', c == '.', c == '~', '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
