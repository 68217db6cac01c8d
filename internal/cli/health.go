package cli

import (
	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/health"
)

const healthExamples = `  # how do the objects of a namespace fare?
  kubectl get deployments,statefulsets,pods -n shop -o json | holdfast health -f -

  # for a script
  holdfast health -f live.yaml -o json`

func newHealth(p Process) *cobra.Command {
	var files []string
	var output string
	var kstatus bool
	cmd := &cobra.Command{
		Use:   "health -f FILE",
		Short: "Judge the health of live objects, as Argo CD names it",
		Long: `Judge the health of live objects, as they are read from a cluster: Healthy,
Progressing, Degraded, Suspended, Missing or Unknown, and why. Kinds that have no
health have an empty status. No cluster is asked.

Exit codes: 0 everything was judged, whatever the verdict; 2 a file cannot be read.`,
		Example: healthExamples,
		RunE: func(*cobra.Command, []string) error {
			objects, err := readObjects(p, files)
			if err != nil {
				return err
			}
			reports := health.Options{Kstatus: kstatus}.JudgeAll(objects)
			if output != "text" {
				if reports == nil {
					reports = []health.Report{}
				}
				return encode(p.Out, output, reports)
			}
			return table(p.Out, healthRows(reports))
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`FILE` of objects in YAML or JSON, - for standard input; repeatable")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "`FORMAT`: text, json or yaml")
	cmd.Flags().BoolVar(&kstatus, "kstatus", false, "also judge kinds without a rule, by their conditions")
	return cmd
}

func healthRows(reports []health.Report) [][]string {
	rows := [][]string{{"KIND", "NAMESPACE", "NAME", "STATUS", "MESSAGE"}}
	for _, r := range reports {
		rows = append(rows, []string{r.Kind, r.Namespace, r.Name, string(r.Status), r.Message})
	}
	return rows
}
