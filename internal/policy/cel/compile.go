package cel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	registration "k8s.io/api/admissionregistration/v1"
	plugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// rule is a policy that was compiled.
type rule struct {
	manifest

	name   string
	spec   *registration.ValidatingAdmissionPolicySpec
	match  *constraint
	ignore bool // failurePolicy Ignore
	// The groups of expressions; those that are empty are nil.
	conditions, validations, messages, annotations plugin.ConditionEvaluator
	// composed holds the variables; nil where there are none.
	composed *plugin.CompositedCompiler
	uses     uses
	bindings []*binding
}

// uses says what of a request the expressions of a policy look at.
type uses struct{ request, user, namespace, annotations bool }

// expression is one of a policy, as the API server's compiler takes it.
type expression struct {
	name, text string
	types      []*cel.Type
}

func (e *expression) GetName() string          { return e.name }
func (e *expression) GetExpression() string    { return e.text }
func (e *expression) ReturnTypes() []*cel.Type { return e.types }

// The types that expressions may have, by what they are for.
var (
	boolean        = []*cel.Type{cel.BoolType}
	message        = []*cel.Type{cel.StringType}
	valueOrNothing = []*cel.Type{cel.StringType, cel.NullType}
	anything       = []*cel.Type{cel.AnyType, cel.DynType}
)

// compiler compiles the policies of one set in the API server's environment.
type compiler struct {
	base *environment.EnvSet
	// plain is for expressions that have no variables: making one costs more than
	// compiling with it.
	plain *plugin.CompositedCompiler
}

func newCompiler() (*compiler, error) {
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	plain, err := plugin.NewCompositedCompiler(base)
	return &compiler{base, plain}, err
}

// compilation is one policy under way.
type compilation struct {
	*checker

	with *plugin.CompositedCompiler
	rule *rule
}

// compile compiles a policy that was checked; nil if it has a flaw, which c then holds.
// It does what compilePolicy of k8s.io/apiserver/pkg/admission/plugin/policy/validating
// does, and as its API's validation refuses variables in matchConditions.
func (k *compiler) compile(c *checker, name string, spec *registration.ValidatingAdmissionPolicySpec) *rule {
	r := &rule{manifest: c.manifest, name: name, spec: spec, ignore: deref(spec.FailurePolicy) == string(registration.Ignore)}
	var err error
	if r.match, err = newConstraint(spec.MatchConstraints); err != nil {
		c.add(err.Error(), "spec", "matchConstraints")
		return nil
	}
	with := k.plain
	if len(spec.Variables) > 0 {
		if with, err = plugin.NewCompositedCompiler(k.base); err != nil {
			c.add("its variables cannot be declared: "+plain(err), "spec", "variables")
			return nil
		}
	}
	m := &compilation{checker: c, with: with, rule: r}
	for i, v := range spec.Variables {
		m.result(with.CompileAndStoreVariable(&expression{v.Name, v.Expression, anything}, m.declared(true), environment.StoredExpressions),
			"spec", "variables", i, "expression")
	}
	m.conditions(k.plain)
	m.validations()
	m.annotations()
	if len(c.flaws) > 0 {
		return nil
	}
	if len(spec.Variables) > 0 {
		// The variables are all that judging needs: the environments that the
		// compiler made for every combination of declarations go.
		slim := *with
		slim.Compiler, slim.ConditionCompiler, slim.MutatingCompiler = nil, nil, nil
		r.composed = &slim
	}
	return r
}

// declared says which variables expressions of the policy may use.
func (m *compilation) declared(authorizer bool) plugin.OptionalVariableDeclarations {
	return plugin.OptionalVariableDeclarations{HasParams: m.rule.spec.ParamKind != nil, HasAuthorizer: authorizer}
}

func (m *compilation) conditions(with *plugin.CompositedCompiler) {
	var all []plugin.CompilationResult
	for i, c := range m.rule.spec.MatchConditions {
		e := &expression{c.Name, c.Expression, boolean}
		all = append(all, m.result(with.CompileCELExpression(e, m.declared(true), environment.StoredExpressions), "spec", "matchConditions", i, "expression"))
	}
	if len(all) > 0 {
		m.rule.conditions = plugin.NewCondition(all)
	}
}

func (m *compilation) validations() {
	validations := make([]plugin.CompilationResult, len(m.rule.spec.Validations))
	messages := make([]plugin.CompilationResult, len(m.rule.spec.Validations))
	some := false
	for i, v := range m.rule.spec.Validations {
		e := &expression{"", v.Expression, boolean}
		validations[i] = m.result(m.with.CompileCELExpression(e, m.declared(true), environment.StoredExpressions), "spec", "validations", i, "expression")
		if v.MessageExpression == "" {
			continue // a place without an expression, as the API server has it
		}
		some = true
		e = &expression{"", v.MessageExpression, message}
		messages[i] = m.result(m.with.CompileCELExpression(e, m.declared(false), environment.StoredExpressions), "spec", "validations", i, "messageExpression")
	}
	m.rule.validations = plugin.NewCondition(validations)
	if some {
		m.rule.messages = plugin.NewCondition(messages)
	}
}

func (m *compilation) annotations() {
	var all []plugin.CompilationResult
	for i, a := range m.rule.spec.AuditAnnotations {
		e := &expression{a.Key, a.ValueExpression, valueOrNothing}
		all = append(all, m.result(m.with.CompileCELExpression(e, m.declared(true), environment.StoredExpressions), "spec", "auditAnnotations", i, "valueExpression"))
	}
	if len(all) > 0 {
		m.rule.annotations = plugin.NewCondition(all)
	}
}

// result notes what an expression uses, or why it does not compile, and returns it.
func (m *compilation) result(result plugin.CompilationResult, way ...any) plugin.CompilationResult {
	text := result.ExpressionAccessor.GetExpression()
	if result.Error == nil {
		if m.look(text) {
			m.add("it uses authorizer, which asks a cluster who may do what: nobody can answer that here", way...)
		}
		return result
	}
	line, message := 1, plain(result.Error)
	var c *apiservercel.CompilationError
	if errors.As(result.Error, &c) && len(c.Issues.Errors()) > 0 {
		first := c.Issues.Errors()[0]
		line, message = first.Location.Line(), first.Message
	}
	f := m.flaw(fmt.Sprintf("the %v %q does not compile: %s", way[len(way)-1], shorten(text), strings.Join(strings.Fields(message), " ")), way...)
	f.Line = m.within(line, way...)
	m.flaws = append(m.flaws, f)
	return result
}

// shorten renders an expression in a line, which is not long.
func shorten(text string) string {
	const most = 200
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}

// look notes what an expression uses, and reports whether it asks the authorizer.
func (m *compilation) look(text string) (authorizer bool) {
	env, err := m.with.Env(environment.StoredExpressions)
	if err != nil {
		return false // it could not have compiled
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return false // nor this
	}
	u := &m.rule.uses
	ast.PostOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.SelectKind {
			u.user = u.user || e.AsSelect().FieldName() == "userInfo"
			u.annotations = u.annotations || e.AsSelect().FieldName() == "annotations" && ofNamespace(e.AsSelect().Operand())
		}
		if e.Kind() != ast.IdentKind {
			return
		}
		switch e.AsIdent() {
		case plugin.RequestVarName:
			u.request = true
		case plugin.NamespaceVarName:
			u.namespace = true
		case plugin.AuthorizerVarName:
			authorizer = true
		}
	}))
	return authorizer
}

// ofNamespace reports whether an expression is a field of namespaceObject.
func ofNamespace(e ast.Expr) bool {
	for e.Kind() == ast.SelectKind {
		e = e.AsSelect().Operand()
	}
	return e.Kind() == ast.IdentKind && e.AsIdent() == plugin.NamespaceVarName
}

// in returns the context in which expressions find the variables of the policy. It is
// made anew for each group of expressions, as the API server does.
func (r *rule) in(ctx context.Context) context.Context {
	if r.composed == nil {
		return ctx
	}
	return r.composed.CreateContext(ctx)
}
