package render

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"

	"github.com/holdfastcd/holdfast/internal/fault"
)

const (
	schemaFile = "values.schema.json"
	// schemaURL is what a schema's relative references are relative to.
	schemaURL = "file:///" + schemaFile
	// maxComplaints is how many faults in the values are told at once.
	maxComplaints = 5
)

// validate checks the values against the schemas of the chart and of the
// dependencies that have values. Helm would fetch what a schema refers to; here
// a schema that needs more than itself is refused.
func (r *release) validate(c *chart.Chart, top common.Values) error {
	if r.SkipSchemaValidation {
		return nil
	}
	values, err := top.Table("Values")
	if err != nil {
		return r.explain("the values are no mapping", err)
	}
	return r.validateChart(c, values)
}

func (r *release) validateChart(c *chart.Chart, values map[string]any) error {
	if c.Schema != nil {
		if err := r.validateOne(c, values); err != nil {
			return err
		}
	}
	for _, d := range c.Dependencies() {
		below, ok := values[d.Name()]
		if !ok || below == nil {
			continue
		}
		table, ok := below.(map[string]any)
		if v, isValues := below.(common.Values); isValues {
			table, ok = v, true
		}
		if !ok {
			return fault.New(fault.Invalid, "the values of the dependency %s must be a mapping", d.Name()).At(r.dir, 0)
		}
		if err := r.validateChart(d, table); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) validateOne(c *chart.Chart, values map[string]any) error {
	file, _ := r.raw(c, schemaFile)
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(c.Schema))
	if err != nil {
		return fault.New(fault.Invalid, "not valid JSON").At(file, 0)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(nothingElse{})
	if err := compiler.AddResource(schemaURL, schema); err != nil {
		return fault.New(fault.Invalid, "this is no JSON schema").At(file, 0)
	}
	compiled, err := compiler.Compile(schemaURL)
	if remote, ok := errors.AsType[*jsonschema.LoadURLError](err); ok {
		return fault.New(fault.Refused, "the schema refers to %s, which is not part of it", withoutUser(remote.URL)).At(file, 0).
			WithHint("put it under $defs, or skip the validation of values")
	}
	if err != nil {
		return fault.New(fault.Invalid, "this is no JSON schema").At(file, 0)
	}
	err = compiled.Validate(values)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return fault.New(fault.Invalid, "the values cannot be checked").At(file, 0)
	}
	words := newVocabulary()
	words.learn(c.Schema)
	return fault.New(fault.Invalid, "the values do not meet the schema of chart %s: %s", c.Name(), complaints(invalid, words)).At(file, 0)
}

// nothingElse is the loader of schemas that a schema refers to.
type nothingElse struct{}

// Load implements jsonschema.URLLoader.
func (nothingElse) Load(string) (any, error) {
	return nil, fault.New(fault.Refused, "not part of the schema")
}

// complaints names the values that are wrong and what the schema wants of them,
// without the values.
func complaints(err *jsonschema.ValidationError, words vocabulary) string {
	var found []string
	var visit func(e *jsonschema.ValidationError)
	visit = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			printer := message.NewPrinter(language.English)
			at := "." + strings.Join(e.InstanceLocation, ".")
			found = append(found, at+": "+words.redact(e.ErrorKind.LocalizedString(printer)))
		}
		for _, cause := range e.Causes {
			visit(cause)
		}
	}
	visit(err)
	slices.Sort(found)
	found = slices.Compact(found)
	if len(found) > maxComplaints {
		found = append(found[:maxComplaints], "…")
	}
	return strings.Join(found, "; ")
}
