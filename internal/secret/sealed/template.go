package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// fill renders the templated values into data. A sealed value wins over a templated
// one of the same key, as text within templates too. Errors are Invalid, Unsupported
// and Limit; they quote neither values nor templates.
func (t *secretTemplate) fill(data map[string][]byte) error {
	if len(t.data) == 0 {
		return nil
	}
	values := make(map[string]string, len(data)+len(t.data))
	maps.Copy(values, t.data)
	for key, value := range data {
		values[key] = string(value)
	}
	b := newBudget()
	for _, key := range slices.Sorted(maps.Keys(t.data)) {
		content, err := b.render(key, t.data[key], values)
		if err != nil {
			return err
		}
		if _, sealed := data[key]; !sealed {
			data[key] = content
		}
	}
	return nil
}

// render executes one template, in the language of the stock controller: Go's, with
// the functions of sprig that are [offered].
func (b *budget) render(key, text string, values map[string]string) ([]byte, error) {
	if len(text) > maxText {
		return nil, fault.New(fault.Limit, "the template %s has more than %d bytes", key, maxText)
	}
	t, err := template.New(key).Funcs(b.functions()).Parse(text)
	if err != nil {
		return nil, unreadable(key, err)
	}
	if err := instrument(key, t); err != nil {
		return nil, err
	}
	out := &output{budget: b}
	if err := t.Execute(out, values); err != nil {
		return nil, ended(key, err, values)
	}
	return out.Bytes(), nil
}

// output takes no more than the budget has.
type output struct {
	bytes.Buffer

	budget *budget
}

func (o *output) Write(p []byte) (int, error) {
	if o.budget.output -= len(p); o.budget.output < 0 {
		return 0, errSpent
	}
	return o.Buffer.Write(p)
}

var undefined = regexp.MustCompile(`function "(\w{1,40})" not defined`)

// unreadable is the error of a template that is none.
func unreadable(key string, err error) error {
	if name := undefined.FindStringSubmatch(err.Error()); name != nil {
		return fault.New(fault.Unsupported, "the template %s calls %s, which is no function of templates", key, name[1]).
			WithHint("there are Go's own, and those of sprig without environment, time and chance")
	}
	return fault.New(fault.Invalid, "the template %s%s is not one of Go", key, line(err))
}

// ended is the error of a template that does not come to its end. What it was doing is
// not told: the message of the template package quotes values.
func ended(key string, err error, values map[string]string) error {
	if nothing, ok := errors.AsType[*nothingError](err); ok || untyped.MatchString(err.Error()) {
		what := "what is"
		if nothing != nil && nothing.what != "" {
			what = nothing.what + ", which is"
		}
		return fault.New(fault.Invalid, "the template %s%s writes %s not there", key, line(err), what).
			WithHint("there are: %s; if it may be missing, write {{ .name | default \"\" }}", strings.Join(slices.Sorted(maps.Keys(values)), ", "))
	}
	for _, bound := range []error{errSpent, errNumber} {
		if errors.Is(err, bound) {
			return fault.New(fault.Limit, "the template %s%s is ended: %s", key, line(err), bound)
		}
	}
	return fault.New(fault.Invalid, "the template %s%s fails", key, line(err)).WithHint("render it with values of no worth, to see why")
}

var position = regexp.MustCompile(`^template: [^:]{1,253}:(\d{1,6})[: ]`)

// untyped ends the error of a function that takes a text, and was given nothing.
var untyped = regexp.MustCompile(` at <[^<>]*>: invalid value; expected \w+\z`)

// line is where a template failed, " (line 3)", or nothing.
func line(err error) string {
	at := position.FindStringSubmatch(err.Error())
	if at == nil {
		return ""
	}
	return " (line " + at[1] + ")"
}

// These are called by templates without their knowing; by name they may not.
const (
	stepFunction    = "step"
	writtenFunction = "written"
)

// nothingError ends a template that writes what is not there.
type nothingError struct{ what string }

func (*nothingError) Error() string { return "it writes what is not there" }

// written is called in templates for every value that they write. Go writes "<no value>"
// for one that is not there, and the stock controller delivers that as the secret.
// what is how the template calls the value.
func written(what string, value any) (any, error) {
	if value == nil {
		return nil, &nothingError{what}
	}
	return value, nil
}

const (
	calling  = 100 // steps of calling a template, which takes stack
	compared = 10  // steps for each argument of a function: Go's own compare them, uncounted
)

// instrument has every part of t that can come by again say so to the budget first.
func instrument(key string, t *template.Template) error {
	w := walk{key: key, withheld: withheld()}
	for _, part := range t.Templates() {
		if part.Tree == nil || part.Root == nil {
			continue
		}
		part.Root.Nodes = slices.Insert(part.Root.Nodes, 0, stepNode(calling+w.list(part.Root), part.Root.Pos))
	}
	return w.err
}

// walk counts the steps in the nodes of a template, and marks its loops.
type walk struct {
	key      string
	withheld map[string]string
	err      error
}

func (w *walk) list(l *parse.ListNode) int {
	if l == nil {
		return 0
	}
	n := 1
	for _, node := range l.Nodes {
		n += w.node(node)
	}
	return n
}

func (w *walk) node(node parse.Node) int {
	switch n := node.(type) {
	case *parse.ActionNode:
		return w.action(n)
	case *parse.IfNode:
		return w.branch(&n.BranchNode)
	case *parse.WithNode:
		return w.branch(&n.BranchNode)
	case *parse.RangeNode:
		n.List.Nodes = slices.Insert(n.List.Nodes, 0, stepNode(w.list(n.List), n.Pos))
		return 1 + w.pipe(n.Pipe) + w.list(n.ElseList)
	case *parse.TemplateNode:
		return calling + w.pipe(n.Pipe)
	case *parse.PipeNode:
		return w.pipe(n)
	case *parse.ChainNode:
		return w.node(n.Node)
	case *parse.IdentifierNode:
		w.identifier(n.Ident)
		return compared
	}
	return 1
}

// action has a value that is written pass through [written].
func (w *walk) action(n *parse.ActionNode) int {
	steps := w.pipe(n.Pipe)
	if len(n.Pipe.Decl) > 0 {
		return steps // it is assigned, and written elsewhere
	}
	what := called(n.Pipe)
	text := &parse.StringNode{NodeType: parse.NodeString, Pos: n.Pos, Quoted: strconv.Quote(what), Text: what}
	n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{
		NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{parse.NewIdentifier(writtenFunction).SetPos(n.Pos), text},
	})
	return steps + compared
}

// called is how a template calls what a pipeline begins with; "" if that is no name.
func called(p *parse.PipeNode) string {
	first := p.Cmds[0]
	if len(first.Args) != 1 {
		return ""
	}
	switch n := first.Args[0].(type) {
	case *parse.FieldNode, *parse.VariableNode, *parse.DotNode:
		return n.String()
	}
	return ""
}

func (w *walk) branch(n *parse.BranchNode) int {
	return w.pipe(n.Pipe) + w.list(n.List) + w.list(n.ElseList)
}

func (w *walk) pipe(p *parse.PipeNode) int {
	if p == nil {
		return 0
	}
	n := 1
	for _, c := range p.Cmds {
		n += compared * (len(c.Args) - 1)
		for _, arg := range c.Args {
			n += w.node(arg)
		}
	}
	return n
}

func (w *walk) identifier(name string) {
	if why, ok := w.withheld[name]; ok {
		w.fail(fault.New(fault.Unsupported, "the template %s calls %s, which is not offered: %s", w.key, name, why).
			WithHint("seal what it would make"))
	}
	if name == stepFunction || name == writtenFunction {
		w.fail(fault.New(fault.Unsupported, "the template %s calls %s, which is no function of templates", w.key, name))
	}
}

func (w *walk) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// stepNode is the action {{step n}}.
func stepNode(n int, at parse.Pos) parse.Node {
	number := &parse.NumberNode{NodeType: parse.NodeNumber, Pos: at, IsInt: true, Int64: int64(n), Text: strconv.Itoa(n)}
	call := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: at, Args: []parse.Node{parse.NewIdentifier(stepFunction).SetPos(at), number}}
	pipe := &parse.PipeNode{NodeType: parse.NodePipe, Pos: at, Cmds: []*parse.CommandNode{call}}
	return &parse.ActionNode{NodeType: parse.NodeAction, Pos: at, Pipe: pipe}
}

func sprint(args ...any) string                 { return fmt.Sprint(args...) }
func sprintln(args ...any) string               { return fmt.Sprintln(args...) }
func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }
