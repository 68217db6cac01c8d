package substitute

import (
	"math"
	"regexp"
	"strings"

	"github.com/fluxcd/pkg/envsubst/parse"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of one delivery. The parser of expressions recurses for each of them and
// copies the text for each escape, the functions that match patterns take time by
// the square of a value, and a replacement may be longer than what it replaces.
const (
	maxExpressions = 20_000   // in one object
	maxCopied      = 2 << 30  // bytes, by the parser
	maxOutput      = 64 << 20 // bytes
	maxWork        = 1 << 30  // bytes looked at or copied by functions
	maxAdded       = 100_000  // parts of YAML that values add to one object; each takes hundreds of bytes
)

// budget is what a delivery may still spend.
type budget struct{ copied, output, work float64 }

func newBudget() *budget { return &budget{maxCopied, maxOutput, maxWork} }

var replacement = regexp.MustCompile(`\$\{[_[:alpha:]][_[:alpha:][:digit:]]*/`)

// take spends what substitution in text costs at most. It returns a *fault.Error
// of kind Limit if there is not enough left, and Invalid for expressions that
// cannot be read.
func (b *budget) take(text string, values map[string]string) *fault.Error {
	if n := strings.Count(text, "${"); n > maxExpressions {
		return fault.New(fault.Limit, "it has %d variables, %d are allowed", n, maxExpressions)
	}
	escapes := strings.Count(text, "$$")
	if replacement.MatchString(text) {
		escapes += strings.Count(text, `\`)
	}
	if b.copied -= float64(escapes) * float64(len(text)); b.copied < 0 {
		return fault.New(fault.Limit, "it has too many escaped characters for its size")
	}
	tree, err := parse.Parse(text)
	if err != nil {
		return fault.New(fault.Invalid, "a ${...} in it is not an expression: %s", err).
			WithHint("write $${...} for text that is not meant for substitution")
	}
	if b.output -= b.size(tree.Root, values); b.output < 0 || b.work < 0 {
		return fault.New(fault.Limit, "its variables make too much of it")
	}
	return nil
}

// size returns how long the text of a node becomes at most, and spends the work
// that this takes.
func (b *budget) size(n parse.Node, values map[string]string) float64 {
	switch n := n.(type) {
	case *parse.TextNode:
		return float64(len(n.Value))
	case *parse.ListNode:
		var sum float64
		for _, part := range n.Nodes {
			sum += b.size(part, values)
		}
		return sum
	case *parse.FuncNode:
		return b.call(n, values)
	}
	return math.Inf(1)
}

func (b *budget) call(n *parse.FuncNode, values map[string]string) float64 {
	var args []float64
	var sum float64
	for _, arg := range n.Args {
		a := b.size(arg, values)
		args = append(args, a)
		sum += a
	}
	value := float64(len(values[n.Param]))
	size := 3*value + sum // letters of another case may be longer
	switch {
	case n.Name == "//" && len(args) > 1:
		size = value + (value+1)*args[1]
	case strings.Trim(n.Name, "#%") == "" && len(args) > 0:
		b.work -= value * value * args[0]
	}
	b.work -= size
	return size
}
