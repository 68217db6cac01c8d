package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker where the build knows better than the module.
var version string

// build is what is known of how this binary was made.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Date     string `json:"date,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(p Process) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Long: `Print the version of this binary, the commit that it was built from, and by what.

Exit codes: 0 it is printed; 2 there is no such output format.`,
		Example: "  holdfast version\n  holdfast version -o json",
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if output != "" {
				return encode(p.Out, output, b)
			}
			_, err := fmt.Fprintln(p.Out, b)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FORMAT`: json or yaml (default: a line of text)")
	return cmd
}

// String renders the build in one line.
func (b build) String() string {
	s := "holdfast " + b.Version
	if b.Commit != "" {
		s += " (" + b.Commit[:min(12, len(b.Commit))]
		if b.Modified {
			s += ", modified"
		}
		s += ")"
	}
	return s + " " + b.Go + " " + b.Platform
}

func readBuild() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "vcs.time":
			b.Date = s.Value
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	return b
}
