package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/operate"
	"github.com/holdfastcd/holdfast/internal/overview"
)

// naming says in the help of every order how deliveries are named.
const naming = `A delivery is named by its kind and name, such as app/shop or ks/apps, or by its
name alone if there is only one of it. Without --namespace it is looked for in all
namespaces.`

// Order is what the commands have in common that ask something of deliveries.
type Order struct {
	Connection

	Namespace string
	Output    string
}

func (o *Order) bind(cmd *cobra.Command) {
	o.Connection.bind(settings{cmd.Flags()})
	cmd.Flags().StringVarP(&o.Namespace, "namespace", "n", "", "only look in this `NAMESPACE` (default: all)")
	cmd.Flags().StringVarP(&o.Output, "output", "o", "text", "`FORMAT`: text, json or yaml")
	cmd.ValidArgsFunction = o.suggest
	suggestFlags(cmd, &o.Connection)
}

// check refuses what can be refused before anything is sent.
func (o *Order) check() error {
	if o.Output != "text" && o.Output != "json" && o.Output != "yaml" {
		return fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose text, json or yaml")
	}
	return nil
}

// connect returns the cluster that the flags name.
func (o *Order) connect() (*operate.Cluster, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	cfg, err := o.config()
	if err != nil {
		return nil, err
	}
	return operate.Connect(cfg)
}

// choices reads what arguments name: KIND/NAME..., KIND NAME... or NAME....
func (o *Order) choices(args []string) ([]operate.Choice, error) {
	kind := k8sschema.GroupVersionKind{}
	if len(args) > 1 && !strings.Contains(args[0], "/") {
		if known, err := operate.KindOf(args[0]); err == nil {
			kind, args = known, args[1:]
		}
	}
	var all []operate.Choice
	for _, arg := range args {
		choice := operate.Choice{Kind: kind, Namespace: o.Namespace, Name: arg}
		if prefix, name, ok := strings.Cut(arg, "/"); ok {
			known, err := operate.KindOf(prefix)
			if err != nil {
				return nil, err
			}
			if kind.Kind != "" || name == "" || strings.Contains(name, "/") {
				return nil, fault.New(fault.Invalid, "%q names no delivery", arg).WithHint("write KIND/NAME, and -n NAMESPACE")
			}
			choice.Kind, choice.Name = known, name
		}
		all = append(all, choice)
	}
	return all, nil
}

// one returns the only delivery that arguments name.
func (o *Order) one(ctx context.Context, c *operate.Cluster, args []string) (*unstructured.Unstructured, error) {
	choices, err := o.choices(args)
	if err != nil {
		return nil, err
	}
	if len(choices) != 1 {
		return nil, fault.New(fault.Invalid, "%d deliveries are named", len(choices)).WithHint("name one: they are done one at a time")
	}
	return c.One(ctx, choices[0])
}

// show prints how a resource stands after an order, with a sentence about it for people.
func (o *Order) show(p Process, sentence string, resources ...*unstructured.Unstructured) error {
	if o.Output == "text" {
		_, err := fmt.Fprintln(p.Out, plain(sentence))
		return err
	}
	rows := []overview.Row{}
	for _, u := range resources {
		row, err := overview.Read(u)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	return encode(p.Out, o.Output, rows)
}

// Waiting is how long a command waits for the answer to its order.
type Waiting struct {
	Wait    bool
	Timeout time.Duration
}

func (w *Waiting) bind(cmd *cobra.Command, wait bool) {
	if wait {
		cmd.Flags().BoolVar(&w.Wait, "wait", true, "wait until it is done, and fail if it fails")
	} else {
		w.Wait = true
	}
	cmd.Flags().DurationVar(&w.Timeout, "timeout", 5*time.Minute, "wait for this `DURATION` at most, such as 90s")
}

// until waits until done says so, and tells of every step on a terminal. The error at
// the end of the time says how the resource stands.
func (w *Waiting) until(ctx context.Context, c *operate.Cluster, p Process, u *unstructured.Unstructured, done func(*unstructured.Unstructured) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	steps := progress{to: p}
	err := c.Await(ctx, u, func(u *unstructured.Unstructured) (bool, error) {
		steps.tell(u)
		return done(u)
	})
	if fault.KindOf(err) != fault.Waiting {
		return err
	}
	state := "nobody has answered; is the controller running?"
	if row, bad := overview.Read(u); bad == nil && row.State != overview.Synced { // what is synced has not answered
		state = row.State + ": " + row.Message
	}
	return fault.New(fault.Waiting, "not done after %s; %s", w.Timeout, plain(state)).
		On(operate.Name(u)).WithHint("it goes on without you: see 'holdfast get', or wait for longer with --timeout").Because(err)
}

// progress tells on a terminal how a resource fares; in a pipe it is quiet.
type progress struct {
	to   Process
	last string
}

func (s *progress) tell(u *unstructured.Unstructured) {
	if !isTerminal(s.to.Err) {
		return
	}
	row, err := overview.Read(u)
	if err != nil {
		return
	}
	line := operate.Name(u) + "  " + row.State
	if row.Message != "" {
		line += "  " + row.Message
	}
	if line == s.last {
		return
	}
	s.last = line
	fmt.Fprintln(s.to.Err, colours(s.to.Err, s.to).paint(faint, plain(line)))
}

// suggest completes the names of deliveries, as KIND/NAME.
func (o *Order) suggest(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	c, err := o.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	choice := operate.Choice{Namespace: o.Namespace}
	if prefix, _, ok := strings.Cut(typed, "/"); ok {
		if choice.Kind, err = operate.KindOf(prefix); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(cmd.Context(), c, choice, prefix+"/"), cobra.ShellCompDirectiveNoFileComp
	}
	return names(cmd.Context(), c, choice, ""), cobra.ShellCompDirectiveNoFileComp
}

// patience bounds what pressing a key may cost.
const patience = 2 * time.Second

// names lists deliveries for completion: with the prefix that was typed, or else
// each with its own kind.
func names(ctx context.Context, c *operate.Cluster, choice operate.Choice, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := c.All(ctx, choice)
	if err != nil {
		return nil
	}
	var list []string
	for _, u := range all {
		as := prefix
		if as == "" {
			as = strings.ToLower(u.GetKind()) + "/"
		}
		list = append(list, as+u.GetName()+"\tin namespace "+u.GetNamespace())
	}
	return list
}
