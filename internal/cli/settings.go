package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// environment is the annotation of a flag that names its variable.
const environment = "holdfast.dev/environment"

// settings binds fields of an options struct to flags that can also be given in
// the environment: --data-dir is $HOLDFAST_DATA_DIR. Name, default and help are
// said once, where a field is bound; the flag wins over the variable.
type settings struct{ flags *pflag.FlagSet }

func (s settings) text(p *string, name, value, help string) {
	s.flags.StringVar(p, name, value, help)
	s.bind(name)
}

func (s settings) toggle(p *bool, name, help string) {
	s.flags.BoolVar(p, name, false, help)
	s.bind(name)
}

func (s settings) number(p *int, name string, value int, help string) {
	s.flags.IntVar(p, name, value, help)
	s.bind(name)
}

func (s settings) value(p pflag.Value, name, help string) {
	s.flags.Var(p, name, help)
	s.bind(name)
}

func (s settings) bind(name string) {
	flag := s.flags.Lookup(name)
	variable := "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	flag.Annotations = map[string][]string{environment: {variable}}
	flag.Usage += " [$" + variable + "]"
}

// fromEnvironment gives flags that were not given on the command line the values
// of their variables. Errors are Invalid and name the variable.
func fromEnvironment(cmd *cobra.Command, lookup func(string) (string, bool)) error {
	var failed error
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		names := flag.Annotations[environment]
		if flag.Changed || len(names) == 0 || failed != nil {
			return
		}
		value, given := lookup(names[0])
		if !given || value == "" {
			return
		}
		if err := cmd.Flags().Set(flag.Name, value); err != nil {
			failed = fault.New(fault.Invalid, "the variable %s cannot be used for --%s: %s", names[0], flag.Name, err).
				WithHint("see '%s --help'", cmd.CommandPath())
		}
	})
	return failed
}

// memory is a flag for an amount of memory.
type memory int64

var units = []struct {
	suffix string
	size   int64
}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}, {"", 1}}

// Set parses a whole number, with Ki, Mi or Gi behind it or nothing.
func (b *memory) Set(s string) error {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		var n int64
		if _, err := fmt.Sscanf(number+" ", "%d ", &n); err != nil || fmt.Sprint(n) != number || n < 0 || n > (1<<62)/u.size {
			break
		}
		*b = memory(n * u.size)
		return nil
	}
	return fmt.Errorf("%q is no amount of memory such as 256Mi", s)
}

// String renders the amount in the largest unit that divides it.
func (b *memory) String() string {
	for _, u := range units {
		if n := int64(*b); n != 0 && n%u.size == 0 {
			return fmt.Sprint(n/u.size) + u.suffix
		}
	}
	return "0"
}

// Type implements pflag.Value.
func (b *memory) Type() string { return "memory" }
