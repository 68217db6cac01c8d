package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/operate"
	"github.com/holdfastcd/holdfast/internal/overview"
)

// Get says what to show.
type Get struct {
	Connection

	Kind, Name string
	Namespace  string
	All        bool
	Output     string
	Watch      bool
}

const getExamples = `  # everything that is delivered, in all namespaces
  holdfast get

  # one of them, with the whole message
  holdfast get ks/apps -n flux-system

  # sources and paths, whole revisions and messages, and the number of objects
  holdfast get -o wide

  # watch a rollout
  holdfast get --watch

  # for a script: what is not as Git wants it?
  holdfast get -o json | jq -r '.[] | select(.state != "Synced") | .name + ": " + .message'`

func newGet(p Process) *cobra.Command {
	var o Get
	cmd := &cobra.Command{
		Use:   "get [KIND] [NAME]",
		Short: "Show what is delivered, from where, its state and why",
		Long: `Show the deliveries of a cluster and their sources: Argo CD's Applications, and
Flux's GitRepositories and Kustomizations.

STATE is Synced, Progressing, OutOfSync, Failed, Suspended or Unknown in either
dialect, and MESSAGE says why. HEALTH is that of the delivered objects, where the
delivery looks at it. What was taken over from Argo CD or Flux says so with -o json.
A long message is cut, unless one delivery is named; -o wide shows everything.

Exit codes: 0 it is shown, whatever its state; 2 it cannot be read, or there is no
delivery of the name.`,
		Example: getExamples,
		Args:    cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.complete(args); err != nil {
				return err
			}
			cfg, err := o.config()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cfg, p)
		},
	}
	o.bind(settings{cmd.Flags()})
	flags := cmd.Flags()
	flags.StringVarP(&o.Namespace, "namespace", "n", "", "only this `NAMESPACE`")
	flags.BoolVarP(&o.All, "all-namespaces", "A", false, "all namespaces, which is the default")
	flags.StringVarP(&o.Output, "output", "o", "", "`FORMAT`: wide, json or yaml (default: a table of 120 columns)")
	flags.BoolVarP(&o.Watch, "watch", "w", false, "go on, and print what changes")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	cmd.ValidArgsFunction = o.suggest
	suggestFlags(cmd, &o.Connection)
	return cmd
}

// complete takes the arguments and checks what can be checked here.
func (o *Get) complete(args []string) error {
	if !slices.Contains([]string{"", "wide", "json", "yaml"}, o.Output) {
		return fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose wide, json or yaml")
	}
	if len(args) > 0 {
		o.Kind = args[0]
		if kind, name, both := strings.Cut(args[0], "/"); both && len(args) == 1 {
			o.Kind, o.Name = kind, name
		}
	}
	if len(args) > 1 {
		o.Name = args[1]
	}
	err := overview.CheckKind(o.Kind)
	if err != nil && len(args) == 1 && o.Name == "" {
		o.Kind, o.Name, err = "", args[0], nil // a name alone, of whatever kind
	}
	return err
}

// suggest completes kinds, and then the names of that kind.
func (o *Get) suggest(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const only = cobra.ShellCompDirectiveNoFileComp
	if len(args) == 0 {
		return []string{"application", "gitrepository", "kustomization"}, only
	}
	kind, err := operate.KindOf(args[0])
	if err != nil || len(args) > 1 {
		return nil, only
	}
	order := Order{Connection: o.Connection, Namespace: o.Namespace, Output: "text"}
	c, err := order.connect()
	if err != nil {
		return nil, only
	}
	var list []string
	for _, name := range names(cmd.Context(), c, operate.Choice{Kind: kind, Namespace: o.Namespace}, "/") {
		list = append(list, strings.TrimPrefix(name, "/"))
	}
	return list, only
}

func (o *Get) run(ctx context.Context, cfg *rest.Config, p Process) error {
	reader, err := overview.NewReader(cfg, o.Kind, o.Namespace, o.Name)
	if err != nil {
		return err
	}
	rows, err := reader.List(ctx)
	if err != nil {
		return kubeFault(err, "list what is delivered")
	}
	if o.Name != "" && len(rows) == 0 && !o.Watch {
		if o.Kind == "" {
			return fault.New(fault.NotFound, "there is no kind and no delivery %q here", o.Name).
				WithHint("choose application, gitrepository or kustomization; 'holdfast get' lists all there are")
		}
		return fault.New(fault.NotFound, "there is no %s %s here", o.Kind, o.Name).WithHint("'holdfast get' lists all there are")
	}
	printer := newPrinter(p, *o, rows)
	if err := printer.all(p, rows); err != nil || !o.Watch {
		return err
	}
	return reader.Watch(ctx, rows, func(r overview.Row) error { return printer.one(p.Out, r) })
}

// printer prints rows below one another, in columns that stay where the first
// rows put them.
type printer struct {
	Get

	widths  []int
	message int // as much of a message as is shown
	colour  palette
}

func newPrinter(p Process, o Get, rows []overview.Row) *printer {
	l := &printer{Get: o, colour: colours(p.Out, p)}
	for i, head := range l.header() {
		width := len(head)
		for _, r := range rows {
			width = max(width, len([]rune(plain(l.cells(r)[i]))))
		}
		l.widths = append(l.widths, width)
	}
	taken := 0
	for _, width := range l.widths[:len(l.widths)-1] {
		taken += width + gap
	}
	l.message = max(minMessage, lineWidth-taken)
	return l
}

func (l *printer) encodes() bool { return l.Output == "json" || l.Output == "yaml" }

// all prints what there is now.
func (l *printer) all(p Process, rows []overview.Row) error {
	switch {
	case l.encodes() && !l.Watch:
		if rows == nil {
			rows = []overview.Row{}
		}
		return encode(p.Out, l.Output, rows)
	case l.encodes(): // one document for each, as for those that follow
	case len(rows) == 0 && !l.Watch:
		fmt.Fprintln(p.Err, "Nothing is delivered here. 'holdfast demo' shows how it looks, and examples/fleet how it is written.")
		return nil
	default:
		fmt.Fprintln(p.Out, l.line(l.header()))
	}
	for _, r := range rows {
		if err := l.one(p.Out, r); err != nil {
			return err
		}
	}
	return nil
}

func (l *printer) one(w io.Writer, r overview.Row) error {
	if l.encodes() {
		return encode(w, l.Output, r)
	}
	_, err := fmt.Fprintln(w, l.line(l.cells(r)))
	return err
}

func (l *printer) header() []string {
	if l.Output == "wide" {
		return []string{"KIND", "NAMESPACE", "NAME", "SOURCE", "PATH", "REVISION", "STATE", "HEALTH", "OBJECTS", "MESSAGE"}
	}
	return []string{"KIND", "NAMESPACE", "NAME", "REVISION", "STATE", "HEALTH", "MESSAGE"}
}

// What a line of a table may take, and what a message has of it at least; between two
// columns is a gap.
const (
	lineWidth  = 120
	minMessage = 36
	gap        = 3
)

func (l *printer) cells(r overview.Row) []string {
	if l.Output == "wide" {
		return []string{r.Kind, r.Namespace, r.Name, r.Source, r.Path, r.Revision, r.State, r.Health, fmt.Sprint(r.Objects), r.Message}
	}
	return []string{r.Kind, r.Namespace, r.Name, overview.ShortRevision(r.Revision), r.State, r.Health, l.brief(r)}
}

// brief is what a line has room for of a message, or all of it where one delivery was
// asked for. That what is synced has its revision is said by the columns.
func (l *printer) brief(r overview.Row) string {
	if r.State == overview.Synced && r.Revision != "" && strings.HasSuffix(strings.TrimRight(r.Message, "'"), r.Revision) {
		return ""
	}
	message := []rune(plain(r.Message))
	if l.Name == "" && l.message > 0 && len(message) > l.message {
		message = append(message[:l.message-1], '…')
	}
	return string(message)
}

var stateColours = map[string]string{
	overview.Synced: green, "Healthy": green, overview.Failed: red, "Degraded": red,
	overview.Progressing: yellow, overview.OutOfSync: yellow, overview.Suspended: faint,
}

func (l *printer) line(cells []string) string {
	var b strings.Builder
	for i, cell := range cells {
		if cell = plain(cell); cell == "" {
			cell = "-"
		}
		b.WriteString(l.colour.paint(stateColours[cell], cell))
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", max(0, l.widths[i]-len([]rune(cell)))+gap))
		}
	}
	return b.String()
}
