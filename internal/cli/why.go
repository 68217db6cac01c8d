package cli

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/holdfastcd/holdfast/internal/dialect/argo"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/why"
)

// Why says which object to explain.
type Why struct {
	LogAccess

	Namespace     string
	Output        string
	ArgoNamespace string
}

const whyExamples = `  # from person to Pod
  holdfast why deploy/web -n shop
  holdfast why pod web-7d4b9c6f5-x2x8q -n shop

  # short names, plurals and groups, as kubectl takes them
  holdfast why certificates.cert-manager.io/web -n shop

  # which links of the chain are not proven?
  holdfast why deploy/web -n shop -o json | jq '.links[] | select(.state != "proven")'`

func newWhy(p Process) *cobra.Command {
	var o Why
	cmd := &cobra.Command{
		Use:   "why KIND/NAME",
		Short: "Show why a live object is as it is, from the person to the Pod",
		Long: `Show the chain behind a live object: its commit, author and signer, who approved
it, what it was rendered from, what policies said, the images with their signatures
and attestations, when it was applied, and what became of it since. An object that
is owned by another, such as a Pod, leads to the one that is delivered.

Each link says how it stands:
  proven    by a signature, a digest, the API server or the audit log
  claimed   by somebody who could have written anything
  unproven  nobody has shown it
  broken    what is there contradicts what was recorded

` + logAccess + `

Exit codes: 0 it is shown, whatever it says; 2 there is no such object, or the
cluster cannot be read. A log that cannot be read is said in the chain.`,
		Example: whyExamples,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			chain, err := o.run(cmd.Context(), args)
			if err != nil {
				return err
			}
			if o.Output != "text" {
				return encode(p.Out, o.Output, chain)
			}
			return writeChain(p.Out, chain, colours(p.Out, p))
		},
	}
	o.bindLog(settings{cmd.Flags()})
	flags := cmd.Flags()
	flags.StringVarP(&o.Namespace, "namespace", "n", "", "`NAMESPACE` of the object (default: that of the kubeconfig's context)")
	flags.StringVarP(&o.Output, "output", "o", "text", "`FORMAT`: text, json or yaml")
	flags.StringVar(&o.ArgoNamespace, "argocd-namespace", argoNamespace, "`NAMESPACE` of Applications that marks name without one")
	suggestFlags(cmd, &o.Connection)
	return cmd
}

func (o *Why) run(ctx context.Context, args []string) (why.Chain, error) {
	if o.Output != "text" && o.Output != "json" && o.Output != "yaml" {
		return why.Chain{}, fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose text, json or yaml")
	}
	kind, name, err := whichObject(args)
	if err != nil {
		return why.Chain{}, err
	}
	cfg, err := o.config()
	if err != nil {
		return why.Chain{}, err
	}
	live, err := why.Connect(cfg)
	if err != nil {
		return why.Chain{}, err
	}
	gvk, namespaced, err := live.Kind(kind)
	if err != nil {
		return why.Chain{}, err
	}
	namespace := o.namespaceOr("default")
	if !namespaced {
		namespace = ""
	} else if o.Namespace != "" {
		namespace = o.Namespace
	}
	ask := why.Options{Cluster: live, Owner: o.owner}
	if log, err := o.openLog(ctx, cfg, namespace); err != nil {
		ask.NoLog = explain(err)
	} else {
		ask.Log = log
	}
	facts, err := why.Ask(ctx, ask, gvk, namespace, name)
	if err != nil {
		return why.Chain{}, err
	}
	return why.Explain(facts), nil
}

// owner reads marks as the controller does.
func (o *Why) owner(id object.ID, labels, annotations map[string]string) string {
	if owner := flux.Owner(id, labels, annotations); owner != "" {
		return owner
	}
	return argo.Owner(o.ArgoNamespace)(id, labels, annotations)
}

// namespaceOr returns the namespace of the kubeconfig's context.
func (c *Connection) namespaceOr(otherwise string) string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
	if namespace, _, err := loader.Namespace(); err == nil && namespace != "" {
		return namespace
	}
	return otherwise
}

// whichObject reads KIND/NAME or KIND NAME.
func whichObject(args []string) (kind, name string, err error) {
	kind, name, both := strings.Cut(args[0], "/")
	if len(args) == 2 && !both {
		name, both = args[1], true
	} else if len(args) == 2 {
		both = false
	}
	if !both || kind == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fault.New(fault.Invalid, "%q names no object", strings.Join(args, " ")).
			WithHint("write KIND/NAME, such as deploy/web, and -n NAMESPACE")
	}
	return kind, name, nil
}

// The columns of a chain's text: state, name and words.
const (
	stateWidth = 10
	nameWidth  = 11
	textWidth  = 80 - stateWidth - nameWidth
)

var chainColours = map[why.State]string{why.Proven: green, why.Claimed: yellow, why.Unproven: yellow, why.Broken: red, why.None: faint}

// digests are shown as far as people compare them.
var digests = regexp.MustCompile(`((?:hmac-)?sha256:[0-9a-f]{12})[0-9a-f]{52}`)

// writeChain prints a chain for people. What it says comes from commits, clusters and
// registries, so that characters that could steer a terminal are left out.
func writeChain(w io.Writer, c why.Chain, colour palette) error {
	var b strings.Builder
	b.WriteString(colour.paint(bold, plain(c.Object.String())) + "\n\n")
	for _, l := range c.Links {
		state := string(l.State)
		if l.State == why.None {
			state = "-"
		}
		var lines []string
		for _, text := range l.Text {
			lines = append(lines, wrap(plain(text), textWidth)...)
		}
		proof := len(lines)
		if l.By != "" && l.State != why.None {
			lines = append(lines, wrap("by "+plain(l.By), textWidth)...)
		}
		for i, line := range lines {
			if i == 0 {
				b.WriteString(colour.paint(chainColours[l.State], state) + strings.Repeat(" ", stateWidth-len(state)))
				fmt.Fprintf(&b, "%-*s", nameWidth, l.Name)
			} else {
				b.WriteString(strings.Repeat(" ", stateWidth+nameWidth))
			}
			if i >= proof {
				line = colour.paint(faint, line)
			}
			b.WriteString(line + "\n")
		}
	}
	b.WriteString("\n" + strings.Join(wrap(summary(c), 80), "\n") + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// summary names the links that are not proven, the worst first.
func summary(c why.Chain) string {
	var parts []string
	for _, state := range []why.State{why.Broken, why.Unproven, why.Claimed} {
		var names []string
		seen := map[string]bool{}
		for _, l := range c.Links {
			if l.State == state && (l.Name != why.LinkLog || state != why.Claimed) && !seen[l.Name] {
				names, seen[l.Name] = append(names, l.Name), true
			}
		}
		if len(names) > 0 {
			parts = append(parts, strings.ToUpper(string(state[:1]))+string(state[1:])+": "+strings.Join(names, ", ")+".")
		}
	}
	if len(parts) == 0 {
		return "Every link is proven, as far as the log is whole."
	}
	return strings.Join(parts, " ")
}

// wrap breaks a text into lines of a width at spaces, and longer words where they end.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(digests.ReplaceAllString(text, "$1")) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
		for utf8.RuneCountInString(line) > width {
			runes := []rune(line)
			lines, line = append(lines, string(runes[:width])), string(runes[width:])
		}
	}
	return append(lines, line)
}
