// Package check judges what a repository holds, before it is pushed: today whether
// secrets stand in it in plaintext. What it searches is a [Subject]: a directory, what is
// staged in Git, or every commit. What it finds is a [Report], as text, JSON or SARIF.
package check

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Options say what to judge, and how.
type Options struct {
	// Dir is a directory or file: of a repository, or of none.
	Dir string
	// Staged judges what the next commit would change, and nothing else.
	Staged bool
	// Index is Git's index, where it is not the repository's own; "" if it is.
	Index string
	// History judges every commit that a ref or HEAD reaches.
	History bool
	// HonorInline leaves out findings whose line says "gitleaks:allow".
	HonorInline bool
	Now         time.Time
}

// Finding is what is wrong in one place. Rules of other kinds will have the same form.
type Finding struct {
	leak.Finding

	// Commit is the first one that holds it, in a search of the history.
	Commit string `json:"commit,omitempty"`
}

// Report is what came of a check.
type Report struct {
	Findings []Finding `json:"findings"`
	// Allowed counts what a list excuses, or with [Options.HonorInline] a line itself.
	Allowed int `json:"allowed"`
	// Notices are for people: entries of a list that end, and what was not looked at.
	Notices []string `json:"notices,omitempty"`
	// Files that were searched; in a history each content of one.
	Files int `json:"files"`
	// Commits that were searched.
	Commits int `json:"commits,omitempty"`
}

// Scanner searches files for secrets; *leak.Scanner is one.
type Scanner interface {
	// Search is that of [leak.Scanner].
	Search(ctx context.Context, files []leak.File, look leak.Look, salt []byte) ([]leak.Finding, error)
}

// Run judges what the options name. Errors are *fault.Error, and mean that it could not
// be told whether something is wrong.
func Run(ctx context.Context, s Scanner, o Options) (Report, error) {
	r, err := open(o.Dir)
	if err != nil {
		return Report{}, err
	}
	defer r.close()
	list, err := r.allowList(o.Now)
	if err != nil {
		return Report{}, err
	}
	j := &judge{Scanner: s, options: o, list: list, report: Report{Findings: []Finding{}}}
	switch {
	case o.History:
		err = r.history(ctx, j)
	case o.Staged:
		err = r.staged(ctx, j)
	default:
		err = r.directory(ctx, j)
	}
	return j.report, err
}

// judge searches files and keeps what nothing excuses.
type judge struct {
	Scanner

	options Options
	list    leak.AllowList
	report  Report
}

// files searches files; only those that wanted, if it is not nil, are told of. commits
// names the first commit of a content.
func (j *judge) files(ctx context.Context, files []leak.File, look leak.Look, wanted map[string]bool, commits map[tree.Digest]string) error {
	found, err := j.Search(ctx, files, look, j.list.Salt)
	if err != nil {
		return err
	}
	if wanted != nil {
		found = slices.DeleteFunc(found, func(f leak.Finding) bool { return !wanted[f.File] })
	}
	judged := j.list.Judge(found, j.options.Now)
	j.report.Allowed += judged.Allowed
	for _, n := range judged.Notices {
		if !slices.Contains(j.report.Notices, n) {
			j.report.Notices = append(j.report.Notices, n)
		}
	}
	for _, f := range judged.Findings {
		if f.Inline && j.options.HonorInline {
			j.report.Allowed++
			continue
		}
		j.report.Findings = append(j.report.Findings, Finding{Finding: f, Commit: commits[f.Blob]})
	}
	j.report.Files += len(files)
	return nil
}

// noticef tells people something, once.
func (j *judge) noticef(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(j.report.Notices, text) {
		j.report.Notices = append(j.report.Notices, text)
	}
}
