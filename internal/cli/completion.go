package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/holdfastcd/holdfast/internal/operate"
)

// suggestFlags completes the values of flags that many commands have.
func suggestFlags(cmd *cobra.Command, connection *Connection) {
	for flag, complete := range map[string]cobra.CompletionFunc{
		"context": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return contexts(connection), cobra.ShellCompDirectiveNoFileComp
		},
		"namespace": func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return namespaces(cmd.Context(), connection), cobra.ShellCompDirectiveNoFileComp
		},
		"output": cobra.FixedCompletions(outputs(cmd), cobra.ShellCompDirectiveNoFileComp),
	} {
		if cmd.Flags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, complete) // the flag exists
		}
	}
}

func outputs(cmd *cobra.Command) []string {
	if f := cmd.Flags().Lookup("output"); f != nil && f.DefValue == "text" {
		return []string{"text", "json", "yaml"}
	}
	return []string{"wide", "json", "yaml"}
}

func contexts(c *Connection) []string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	config, err := rules.Load()
	if err != nil {
		return nil
	}
	var list []string
	for name := range config.Contexts {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// namespaces lists those that deliveries live in.
func namespaces(ctx context.Context, connection *Connection) []string {
	cfg, err := connection.config()
	if err != nil {
		return nil
	}
	c, err := operate.Connect(cfg)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var list []string
	for _, kind := range []schema.GroupVersionKind{{}, operate.GitRepository} {
		all, err := c.All(ctx, operate.Choice{Kind: kind})
		if err != nil {
			continue
		}
		for _, u := range all {
			list = append(list, u.GetNamespace())
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
