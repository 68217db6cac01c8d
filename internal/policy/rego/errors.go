package rego

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// at tells a line.
func at(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf("line %d: ", line)
}

// firstError returns place and text of the first error of OPA's.
func firstError(err error) (line int, text string) {
	var all ast.Errors
	if !errors.As(err, &all) || len(all) == 0 {
		if one, ok := errors.AsType[*ast.Error](err); ok {
			all = ast.Errors{one}
		} else {
			return 0, oneLine(err.Error())
		}
	}
	if all[0].Location != nil {
		line = all[0].Location.Row
	}
	return line, oneLine(all[0].Message)
}

// oneLine bounds a message, and takes the line breaks out of it.
func oneLine(text string) string {
	const most = 600
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "�")), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// mostErrors is how many errors of the compiler's are told.
const mostErrors = 50

// compileFlaws tells what OPA's compiler has against modules.
func compileFlaws(errs ast.Errors) []policy.Flaw {
	var flaws []policy.Flaw
	for _, e := range errs {
		f := policy.Flaw{Message: oneLine(e.Message)}
		if e.Location != nil {
			f.File, f.Line = e.Location.File, e.Location.Row
		}
		if name, ok := strings.CutPrefix(f.Message, "undefined function "); ok {
			if why := forbidden()[name]; why != "" {
				f.Message = fmt.Sprintf("the built-in function %s is not allowed here", name)
				f.Hint = why
			}
		}
		flaws = append(flaws, f)
	}
	return flaws
}

// forbidden are the built-in functions that no policy may call, each with the reason: a
// verdict must be the same wherever and whenever the same tree is judged.
func forbidden() map[string]string {
	const clock = "verdicts must not change with the clock; compare with what the object or a data document says"
	const chance = "verdicts must not hang on chance"
	all := map[string]string{
		"http.send":          "a policy gets no network; put what it needs into data.json or data.yaml beside it",
		"net.lookup_ip_addr": "a policy gets no network; put what it needs into data.json or data.yaml beside it",
		"external_data":      "a policy gets no network, and so no provider of external data",
		"opa.runtime":        "a policy gets no environment",
		"time.now_ns":        clock,
		"crypto.x509.parse_and_verify_certificates":              clock,
		"crypto.x509.parse_and_verify_certificates_with_options": clock,
		"io.jwt.decode_verify":                                   clock,
		"rand.intn":                                              chance,
		"uuid.rfc4122":                                           chance,
		"io.jwt.encode_sign":                                     chance,
		"io.jwt.encode_sign_raw":                                 chance,
	}
	for _, b := range ast.Builtins {
		if _, told := all[b.Name]; b.Nondeterministic && !told {
			all[b.Name] = "what it returns is not the same each time"
		}
	}
	return all
}

// capabilities are what policies may call.
func capabilities() *ast.Capabilities {
	c := *ast.CapabilitiesForThisVersion()
	never := forbidden()
	c.Builtins = slices.DeleteFunc(slices.Clone(c.Builtins), func(b *ast.Builtin) bool { return never[b.Name] != "" })
	c.AllowNet = []string{} // empty, unlike nil: no host
	return &c
}
