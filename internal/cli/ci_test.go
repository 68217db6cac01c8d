package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// scripts are the programs in the templates for CI, by file, with what runs them.
func scripts(t *testing.T) map[string][]string {
	t.Helper()
	var action struct {
		Runs struct {
			Using string
			Steps []struct {
				Run, Shell string
				Env        map[string]string
			}
		}
		Inputs map[string]struct{ Description, Default string }
	}
	parse(t, "github/action.yml", &action)
	found := map[string][]string{}
	for _, s := range action.Runs.Steps {
		if strings.Contains(s.Run, "${{") {
			t.Errorf("an expression in a script can be a program: %s", s.Run)
		}
		for name, value := range s.Env {
			input := regexp.MustCompile(`inputs\.([a-z-]+)`).FindStringSubmatch(value)
			if input == nil || action.Inputs[input[1]].Description == "" {
				t.Errorf("%s is %q, which is no input", name, value)
			}
		}
		found["github/action.yml"] = append(found["github/action.yml"], s.Run)
	}
	var gitlab map[string]struct {
		Script       []string
		BeforeScript []string `json:"before_script"`
		Artifacts    struct{ Reports struct{ JUnit string } }
	}
	parse(t, "gitlab/holdfast.yml", &gitlab)
	job := gitlab["holdfast"]
	found["gitlab/holdfast.yml"] = []string{strings.Join(slices.Concat(job.BeforeScript, job.Script), "\n")}
	if job.Artifacts.Reports.JUnit == "" {
		t.Error("the job of GitLab's leaves no report")
	}
	var task struct {
		APIVersion, Kind string
		Spec             struct {
			Steps []struct{ Script string }
		}
	}
	parse(t, "tekton/holdfast-check.yaml", &task)
	if task.APIVersion != "tekton.dev/v1" || task.Kind != "Task" {
		t.Errorf("%s %s is no Task", task.APIVersion, task.Kind)
	}
	for _, s := range task.Spec.Steps {
		found["tekton/holdfast-check.yaml"] = append(found["tekton/holdfast-check.yaml"], s.Script)
	}
	var hooks []struct{ Entry string }
	parse(t, "../.pre-commit-hooks.yaml", &hooks)
	for _, h := range hooks {
		found[".pre-commit-hooks.yaml"] = append(found[".pre-commit-hooks.yaml"], h.Entry)
	}
	return found
}

func parse(t *testing.T, name string, into any) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "ci", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// What the templates for CI run is a script, and every flag in it is one of check.
func TestTemplatesForCI(t *testing.T) {
	flags := newCheck(OS()).Flags()
	for file, all := range scripts(t) {
		checks := 0
		for _, script := range all {
			if out, err := exec.Command("bash", "-n", "-c", script).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", file, err, out)
			}
			if !strings.Contains(script, "check") {
				continue
			}
			script = regexp.MustCompile(`(?m)^\s*git .*$`).ReplaceAllString(script, "") // it has flags of its own
			for _, flag := range regexp.MustCompile(`--([a-z][a-z-]*)`).FindAllStringSubmatch(script, -1) {
				if checks++; flags.Lookup(flag[1]) == nil {
					t.Errorf("%s: check has no flag --%s", file, flag[1])
				}
			}
		}
		if checks == 0 {
			t.Errorf("%s checks nothing", file)
		}
	}
}

// The scripts give what they are told to holdfast, whatever is in it, write a report, and
// end as the check does.
func TestTemplatesRun(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "holdfast")
	program := "#!/bin/sh\nfor a in \"$@\"; do echo \"[$a]\"; done >> " + dir + "/told\necho report\nexit 1\n"
	if err := os.WriteFile(fake, []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	all := scripts(t)
	tests := []struct {
		reason, script string
		args, env      []string
		want           string
	}{
		{
			reason: "GitHub", script: all["github/action.yml"][2],
			env:  []string{"INPUT_PATH=a b; exit 0", "INPUT_POLICY=p 1\np2\n", "INPUT_BUILTIN=x,y", "INPUT_KUBERNETES=", "INPUT_BASE=origin/main", "INPUT_FORMAT=sarif", "INPUT_FILE=out", "INPUT_EXECUTABLE=" + fake, "RUNNER_TEMP=" + dir},
			want: "[check] [--policy=p 1] [--policy=p2] [--builtin=x,y] [--diff-base=origin/main] [--] [a b; exit 0] [check] [--policy=p 1] [--policy=p2] [--builtin=x,y] [--diff-base=origin/main] [--output=sarif] [--] [a b; exit 0]",
		},
		{
			reason: "Tekton", script: all["tekton/holdfast-check.yaml"][0], args: []string{"--builtin=x", "--policy=a b"},
			env:  []string{"HOLDFAST_PATH=$(exit 0)", "HOLDFAST_VERSION=v1", "HOLDFAST_FORMAT=junit", "HOLDFAST_FILE=out", "KYVERNO_ENGINE=false", "PATH=" + dir + ":" + os.Getenv("PATH")},
			want: "[check] [--builtin=x] [--policy=a b] [--] [$(exit 0)] [check] [--builtin=x] [--policy=a b] [--output=junit] [--] [$(exit 0)]",
		},
	}
	for _, tc := range tests {
		_ = os.Remove(filepath.Join(dir, "told"))
		cmd := exec.Command("bash", append([]string{"-c", tc.script, "script"}, tc.args...)...)
		cmd.Dir, cmd.Env = t.TempDir(), append([]string{"PATH=" + os.Getenv("PATH")}, tc.env...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%s: %v: %s", tc.reason, err, errs.String())
		}
		told, _ := os.ReadFile(filepath.Join(dir, "told"))
		if got := strings.Join(strings.Split(strings.TrimSpace(string(told)), "\n"), " "); got != tc.want {
			t.Errorf("%s: got %s\nwant %s", tc.reason, got, tc.want)
		}
		if report, err := os.ReadFile(filepath.Join(cmd.Dir, "out")); err != nil || string(report) != "report\n" {
			t.Errorf("%s: the report is %q: %v", tc.reason, report, err)
		}
	}
}
