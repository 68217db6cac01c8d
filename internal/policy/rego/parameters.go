package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// parameters is the schema that a template gives for the parameters of its constraints.
// The zero value permits everything.
type parameters struct {
	// structural fills in defaults and knows which fields there are; nil for schemas of
	// the old kind, which do not.
	structural *schema.Structural
	validator  validation.SchemaValidator
}

// newParameters reads the schema. Without one, a template takes no parameters, unless it
// is of the old kind: in v1beta1, schemas are that by default.
func newParameters(spec *templateSpec, apiVersion string) (*parameters, error) {
	legacy := !strings.HasSuffix(apiVersion, "/v1")
	v := spec.CRD.Spec.Validation
	if v != nil && v.LegacySchema != nil {
		legacy = *v.LegacySchema
	}
	if v == nil || len(v.OpenAPIV3Schema) == 0 {
		if legacy {
			return &parameters{}, nil
		}
		return &parameters{structural: &schema.Structural{Generic: schema.Generic{Type: "object"}}}, nil
	}
	var v1 apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(v.OpenAPIV3Schema, &v1); err != nil {
		return nil, err
	}
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&v1, &internal, nil); err != nil {
		return nil, err
	}
	p := &parameters{}
	var err error
	if !legacy {
		if p.structural, err = schema.NewStructural(&internal); err != nil {
			return nil, fmt.Errorf("the schema is not structural: %w", err)
		}
	}
	p.validator, _, err = validation.NewSchemaValidator(&internal)
	return p, err
}

// check completes parameters with defaults, and returns what is wrong with them.
func (p *parameters) check(values map[string]any) error {
	if p.structural != nil {
		defaulting.Default(values, p.structural)
		unknown := pruning.PruneWithOptions(runtime.DeepCopyJSON(values), p.structural, false, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
		if len(unknown) > 0 {
			return fmt.Errorf("the template's schema has no spec.parameters.%s", strings.Join(unknown, ", spec.parameters."))
		}
	}
	if p.validator == nil {
		return nil
	}
	var all []string
	for _, e := range validation.ValidateCustomResource(field.NewPath("spec", "parameters"), values, p.validator) {
		all = append(all, e.Error())
	}
	if len(all) > 0 {
		return errors.New(strings.Join(all, "; "))
	}
	return nil
}
