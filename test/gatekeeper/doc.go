// Package gatekeeper has Gatekeeper's own library judge the cases of internal/policy/rego
// that are about ConstraintTemplates, and compares its verdicts with what stands there. It
// is a module of its own: what it needs is no part of Holdfast.
package gatekeeper
