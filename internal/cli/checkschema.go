package cli

import (
	"errors"

	"github.com/holdfastcd/holdfast/internal/check"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/schema/openapi"
)

// schemas are those of a minor version of Kubernetes, and of definitions, for [check.Engine].
func schemas(minor string, definitions []map[string]any) (check.Schemas, []error, error) {
	all, err := openapi.For(minor)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "--kubernetes-version: %s", err)
	}
	all, problems := all.With(definitions)
	return validator{all}, problems, nil
}

type validator struct{ schemas *openapi.Schemas }

// Validate implements check.Schemas.
func (v validator) Validate(o map[string]any) ([]check.Problem, error) {
	var all []check.Problem
	for _, p := range v.schemas.Validate(o) {
		if errors.Is(p.Err, openapi.ErrUnknownKind) {
			return nil, check.ErrUnknownKind
		}
		all = append(all, check.Problem{Path: p.Path, Message: p.Message})
	}
	return all, nil
}
