package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/worker"
)

func TestMain(m *testing.M) {
	silence()
	// Tests that run commands in this process render in workers of it.
	worker.RunIfWorker(Handlers())
	testscript.Main(m, map[string]func(){
		"holdfast": func() {
			worker.RunIfWorker(Handlers())
			os.Exit(Run(os.Args[1:], OS()))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache"))
			return nil
		},
	})
}

// run runs a command in this process.
func run(env map[string]string, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Run(args, Process{
		In: strings.NewReader(stdin), Out: &out, Err: &errs,
		Lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	})
	return code, out.String(), errs.String()
}

// Every setting of the controller has a variable of the same name, and help says so.
func TestEveryControllerSettingHasAVariable(t *testing.T) {
	_, help, _ := run(nil, "", "controller", "--help")
	_, flags, _ := strings.Cut(help, "Flags:\n")
	for i, line := range strings.Split(flags, "\n      --") { // a long line goes on below
		if i == 0 {
			continue
		}
		name := line
		name, _, _ = strings.Cut(name, " ")
		want := "[$HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "]"
		if !strings.Contains(line, want) {
			t.Errorf("--%s: help does not name %s", name, want)
		}
	}
}

// Help is read in a terminal: whatever a command has to say of its flags, no line is
// wider than the tables.
func TestHelpIsNoWiderThanATable(t *testing.T) {
	for _, command := range []string{"build", "check", "controller", "diff", "get", "install", "seal", "sync", "takeover", "why"} {
		_, help, _ := run(nil, "", command, "--help")
		for line := range strings.Lines(help) {
			if n := utf8.RuneCountInString(line); n > 121 {
				t.Errorf("%s: %d columns: %s", command, n-1, line)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	tests := []struct {
		name, reason string
		env          map[string]string
		args         []string
		want         string
	}{
		{name: "default", reason: "neither is given", want: "argocd 8 256Mi"},
		{name: "variable", reason: "the environment is used", env: map[string]string{"HOLDFAST_ARGOCD_NAMESPACE": "a", "HOLDFAST_WORKER_MEMORY": "1Gi"}, want: "a 8 1Gi"},
		{name: "flag", reason: "the flag wins", env: map[string]string{"HOLDFAST_CONCURRENCY": "3"}, args: []string{"--concurrency=5"}, want: "argocd 5 256Mi"},
		{name: "empty", reason: "an empty variable is none", env: map[string]string{"HOLDFAST_CONCURRENCY": ""}, want: "argocd 8 256Mi"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var o Controller
			cmd := newTestCommand(&o)
			if err := cmd.ParseFlags(tt.args); err != nil {
				t.Fatal(err)
			}
			lookup := func(name string) (string, bool) { v, ok := tt.env[name]; return v, ok }
			if err := fromEnvironment(cmd, lookup); err != nil {
				t.Fatal(err)
			}
			got := strings.Join([]string{o.ArgoNamespace, strconv.Itoa(o.Concurrency), o.WorkerMemory.String()}, " ")
			if got != tt.want {
				t.Errorf("%s: got %q, want %q", tt.reason, got, tt.want)
			}
		})
	}
}

func newTestCommand(o *Controller) *cobra.Command {
	cmd := &cobra.Command{Use: "controller"}
	o.bind(settings{cmd.Flags()})
	return cmd
}

func TestMemory(t *testing.T) {
	tests := []struct {
		in, reason string
		want       int64
		back       string
		fails      bool
	}{
		{in: "256Mi", reason: "the usual", want: 256 << 20, back: "256Mi"},
		{in: "1024Ki", reason: "the largest unit that divides", want: 1 << 20, back: "1Mi"},
		{in: "1500", reason: "bytes", want: 1500, back: "1500"},
		{in: "0", reason: "nothing", want: 0, back: "0"},
		{in: "-1Mi", reason: "less than nothing", fails: true},
		{in: "1.5Gi", reason: "whole numbers only", fails: true},
		{in: "12 Mi", reason: "no spaces", fails: true},
		{in: "Mi", reason: "no number", fails: true},
		{in: "9999999999Gi", reason: "more than a machine has", fails: true},
		{in: "", reason: "empty", fails: true},
	}
	for _, tt := range tests {
		var m memory
		err := m.Set(tt.in)
		if (err != nil) != tt.fails {
			t.Errorf("%q: %s: error %v", tt.in, tt.reason, err)
			continue
		}
		if !tt.fails && (int64(m) != tt.want || m.String() != tt.back) {
			t.Errorf("%q: %s: got %d %q", tt.in, tt.reason, m, m.String())
		}
	}
}

func TestExplainSaysWhatToDo(t *testing.T) {
	tests := []struct {
		err          error
		reason, want string
	}{
		{fault.New(fault.Invalid, "it is wrong").WithHint("make it right"), "its own hint", "it is wrong (make it right)"},
		{fault.New(fault.Unreachable, "no answer"), "the hint of its kind", "no answer (check the address, and that the server can be reached from here)"},
		{os.ErrClosed, "an error nobody classified", "file already closed (run it again with --help to check its use; if it should work, report it with this message)"},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, explain(tt.err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
		}
	}
}

func TestPlain(t *testing.T) {
	got := plain("a\x1b[31mred\nline\u202e")
	if got != "a[31mred line" {
		t.Errorf("got %q: text from a cluster must not steer a terminal", got)
	}
}

func FuzzParseObjects(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: ConfigMap\n---\n{}\n"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[1]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		objects, err := parseObjects(content)
		if err != nil {
			return
		}
		for _, o := range objects {
			if o.GetKind() == "" || o.GetAPIVersion() == "" {
				t.Error("an object without a kind")
			}
		}
		_, _ = find(objects) // must not panic on what it does not know
	})
}
