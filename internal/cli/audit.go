package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// errTampered is how verify says that the log is not what it was.
var errTampered = errors.New("the log was changed")

func newAudit(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify, read and export the audit log",
		Long: `Verify, read and export the log of every decision: what was synced, refused, reverted,
pruned, rolled back, suspended and approved, by whom, on what evidence.

` + logAccess,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditVerify(p), newAuditLog(p), newAuditExport(p), newAuditCheckpoint(p), newAuditKey(p))
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
	return cmd
}

// reach returns the log that the flags name, and asks a cluster only where it must.
func (o *LogAccess) reach(ctx context.Context, namespace string) (auditLog, error) {
	var cfg *rest.Config
	if o.Dir == "" && o.Store == "" && (o.Server == "" || o.TokenFile == "") {
		var err error
		if cfg, err = o.config(); err != nil {
			return nil, err
		}
	}
	return o.openLog(ctx, cfg, namespace)
}

// AuditVerify says which log to verify, and against what.
type AuditVerify struct {
	LogAccess

	Checkpoint string
	Key        string
	Output     string
}

const verifyExamples = `  # keep a checkpoint where whoever may change the log cannot reach, and its key, once
  holdfast audit checkpoint > checkpoint-2026-11-22
  holdfast audit key > audit.pub

  # later: is the log whole, and has it only grown?
  holdfast audit verify --checkpoint checkpoint-2026-11-22 --key audit.pub

  # a copy of the log, without a cluster
  holdfast audit verify --dir /backup/audit --key audit.pub`

func newAuditVerify(p Process) *cobra.Command {
	var o AuditVerify
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the log is whole, and has only grown",
		Long: `Read the whole log and prove that every entry and every record is the one that the
newest checkpoint signs, and, with --checkpoint, that the log which that checkpoint
signed is where it was, unchanged. What cannot be proven is said: entries that were
written since the newest checkpoint are not signed yet, and without --key the key is
the one that the log itself tells.

Exit codes: 0 the log is whole; 1 it was changed, and what was is named; 2 it could
not be read, so that nothing can be told.`,
		Example: verifyExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), p)
		},
	}
	o.bindLog(settings{cmd.Flags()})
	flags := cmd.Flags()
	flags.StringVar(&o.Checkpoint, "checkpoint", "", "`FILE` with a checkpoint that was kept elsewhere")
	flags.StringVar(&o.Key, "key", "", "`FILE` with the public key of the log, as 'holdfast audit key' printed it, or the key itself")
	flags.StringVarP(&o.Output, "output", "o", "text", "`FORMAT`: text, json or yaml")
	suggestFlags(cmd, &o.Connection)
	return cmd
}

// verification is what verify prints.
type verification struct {
	Whole    bool     `json:"whole"`
	Log      string   `json:"log"`
	Entries  uint64   `json:"entries"` // that are signed
	Unsigned uint64   `json:"unsigned,omitempty"`
	Proven   []string `json:"proven"`
	Unproven []string `json:"unproven,omitempty"`
	Problem  string   `json:"problem,omitempty"` // what was changed
}

func (o *AuditVerify) run(ctx context.Context, p Process) error {
	if o.Output != "text" && o.Output != "json" && o.Output != "yaml" {
		return fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose text, json or yaml")
	}
	against, err := o.kept()
	if err != nil {
		return err
	}
	log, err := o.reach(ctx, "")
	if err != nil {
		return err
	}
	verifier, err := o.verifier(ctx, log)
	if err != nil {
		return err
	}
	if _, err := log.Read(ctx, "checkpoint", maxNote); err != nil && (against == nil || !errors.Is(err, fs.ErrNotExist)) {
		return err // there is no log to be told of
	}
	verified, err := audit.Verify(ctx, filesOf(log), audit.VerifyOptions{Verifier: verifier, Against: against, Progress: verifying(p)})
	if err != nil && !tampered(err) {
		return err
	}
	result := o.result(log.Teller(), verified, err)
	if err := o.show(p, result); err != nil {
		return err
	}
	if err != nil {
		return errTampered
	}
	return nil
}

// filesOf returns the files of a log. Those of a directory can be listed, so that the
// ones that nothing leads to are looked at as well.
func filesOf(log auditLog) audit.Reader {
	if stored, ok := log.(*remote.Reading); ok {
		return stored.Reader
	}
	return log
}

// tampered tells errors about the log from those of reading it.
func tampered(err error) bool {
	f, ok := errors.AsType[*fault.Error](err)
	return ok && (f.Kind == fault.Invalid || f.Kind == fault.NotFound && errors.Is(err, fs.ErrNotExist) || f.Kind == fault.Limit && f.File != "")
}

func (o *AuditVerify) kept() ([]byte, error) {
	if o.Checkpoint == "" {
		return nil, nil
	}
	f, err := os.Open(o.Checkpoint)
	if err != nil {
		return nil, fault.New(fault.NotFound, "the checkpoint cannot be read: %s", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the checkpoint cannot be read: %s", err).At(o.Checkpoint, 0)
	}
	return raw, nil
}

// verifier returns the key that was given, or else the one that the log tells.
func (o *AuditVerify) verifier(ctx context.Context, log auditLog) (note.Verifier, error) {
	if o.Key != "" {
		return readKey(o.Key)
	}
	if o.Dir != "" || o.Store != "" {
		return nil, noKeyThere()
	}
	raw, err := log.Read(ctx, remote.KeyName, maxNote)
	if err != nil {
		return nil, err
	}
	return readKey(string(raw))
}

// noKeyThere is the answer to whoever expects the key of a log beside its files, where who
// changes them could change it, too.
func noKeyThere() error {
	return fault.New(fault.Invalid, "the key of the log is missing: no directory and no bucket tells it").
		WithHint("it is what 'holdfast audit key' printed from a running controller, field key.pub of Secret holdfast-audit-key, and the key that the controller logs when it starts; give it with --key, in a FILE or itself")
}

// verifying tells on a terminal how far it has come.
func verifying(p Process) func(done, of uint64) {
	if !isTerminal(p.Err) {
		return nil
	}
	return func(done, of uint64) { fmt.Fprintf(p.Err, "\r%d of %d entries", done, of) }
}

// result says what was proven, and what was not.
func (o *AuditVerify) result(teller string, v audit.Verified, failed error) verification {
	r := verification{Whole: failed == nil, Log: teller, Entries: v.Size, Unsigned: v.Unsigned, Proven: []string{}}
	if failed != nil {
		r.Problem = failed.Error()
		return r
	}
	r.Proven = append(r.Proven, fmt.Sprintf("each of the first %d entries is the one that the newest checkpoint signs, and in its place", v.Size),
		fmt.Sprintf("the records of %d entries are those that the entries name", v.Records))
	if o.Checkpoint != "" {
		r.Proven = append(r.Proven, fmt.Sprintf("the log of the checkpoint that was kept, %d entries, is its unchanged beginning", v.Kept))
	} else {
		r.Unproven = append(r.Unproven, "that this is not an older copy, or a log that was written anew: give --checkpoint FILE with one that was kept elsewhere")
	}
	if o.Key == "" {
		r.Unproven = append(r.Unproven, "whose key it is: the log told it; give --key FILE with one that was kept elsewhere")
	}
	if v.Unsigned > 0 {
		r.Unproven = append(r.Unproven, fmt.Sprintf("the last %d entries, which no checkpoint signs yet", v.Unsigned))
	} else if o.Dir == "" && o.Store == "" {
		r.Unproven = append(r.Unproven, "entries behind those: they are not signed yet")
	}
	if len(v.Strange) > 0 {
		r.Unproven = append(r.Unproven, "files that are no part of the log: "+strings.Join(v.Strange, ", "))
	}
	return r
}

func (o *AuditVerify) show(p Process, r verification) error {
	if o.Output != "text" {
		return encode(p.Out, o.Output, r)
	}
	if isTerminal(p.Err) {
		fmt.Fprint(p.Err, "\r\x1b[K")
	}
	colour := colours(p.Out, p)
	var b strings.Builder
	line := func(code, state, text string) {
		for i, l := range wrap(plain(text), 80-stateWidth) {
			if i > 0 {
				state = ""
			}
			b.WriteString(colour.paint(code, state) + strings.Repeat(" ", stateWidth-len(state)) + l + "\n")
		}
	}
	if !r.Whole {
		line(red, "CHANGED", r.Problem)
		line("", "", "The log is not what was signed. Keep it as it is, and restore a copy elsewhere.")
	}
	for _, s := range r.Proven {
		line(green, "proven", s)
	}
	for _, s := range r.Unproven {
		line(yellow, "unproven", s)
	}
	_, err := io.WriteString(p.Out, b.String())
	return err
}

// AuditLog says which entries to show.
type AuditLog struct {
	LogAccess

	Namespace string
	Delivery  string
	Object    string
	Action    string
	Since     time.Duration
	Limit     int
	Follow    bool
	Output    string
}

const auditLogExamples = `  # the newest entries
  holdfast audit log

  # what was refused since yesterday, and why
  holdfast audit log --action refuse --since 24h

  # everything about one delivery, or one object, as it happens
  holdfast audit log --delivery Kustomization/team-a/apps -f
  holdfast audit log --object apps/v1/Deployment/shop/web

  # for those who may read the entries of one namespace's deliveries
  holdfast audit log -n team-a -o json`

func newAuditLog(p Process) *cobra.Command {
	var o AuditLog
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show entries of the log",
		Long: `Show the newest entries of the log, oldest first. With -o json each is one line, in
the form that 'holdfast audit export' writes.

Exit codes: 0 they are shown, if there are any; 2 the log cannot be read.`,
		Example: auditLogExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			log, err := o.reach(cmd.Context(), o.Namespace)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), log, p)
		},
	}
	o.bindLog(settings{cmd.Flags()})
	flags := cmd.Flags()
	flags.StringVarP(&o.Namespace, "namespace", "n", "", "only deliveries in this `NAMESPACE`, with the right to read in it (default: all)")
	flags.StringVar(&o.Delivery, "delivery", "", "only this `KIND/NAMESPACE/NAME`")
	flags.StringVar(&o.Object, "object", "", "only what is about this object, `GROUP/VERSION/KIND/NAMESPACE/NAME`")
	flags.StringVar(&o.Action, "action", "", "only this `ACTION`, such as sync, refuse or revert")
	flags.DurationVar(&o.Since, "since", 0, "only entries of the last `DURATION`, such as 24h")
	flags.IntVar(&o.Limit, "limit", 100, "`NUMBER` of entries at most; 0: all")
	flags.BoolVarP(&o.Follow, "follow", "f", false, "go on, and show new entries")
	flags.StringVarP(&o.Output, "output", "o", "text", "`FORMAT`: text or json")
	cmd.MarkFlagsMutuallyExclusive("object", "follow")
	suggestFlags(cmd, &o.Connection)
	_ = cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions(auditActions(), cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return cmd
}

func auditActions() []string {
	var list []string
	for _, a := range audit.Actions() {
		list = append(list, string(a))
	}
	return list
}

func (o *AuditLog) check() error {
	switch {
	case o.Output != "text" && o.Output != "json":
		return fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose text or json")
	case o.Action != "" && !slices.Contains(auditActions(), o.Action):
		return fault.New(fault.Invalid, "there is no action %q", o.Action).WithHint("choose one of %s", strings.Join(auditActions(), ", "))
	case o.Delivery != "" && strings.Count(o.Delivery, "/") != 2:
		return fault.New(fault.Invalid, "%q names no delivery", o.Delivery).WithHint("write KIND/NAMESPACE/NAME, such as Kustomization/team-a/apps")
	case o.Object != "" && strings.Count(o.Object, "/") != 4:
		return fault.New(fault.Invalid, "%q names no object", o.Object).
			WithHint("write GROUP/VERSION/KIND/NAMESPACE/NAME, such as apps/v1/Deployment/shop/web; the core group is empty")
	case o.Limit < 0:
		return fault.New(fault.Invalid, "--limit must not be negative")
	}
	return nil
}

func (o *AuditLog) run(ctx context.Context, log auditLog, p Process) error {
	colour := colours(p.Out, p)
	found, size, err := o.newest(ctx, log)
	if err != nil {
		return err
	}
	for _, e := range found {
		if err := o.show(p.Out, e, colour); err != nil {
			return err
		}
	}
	for o.Follow && ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
		q := o.query()
		q.From = &size
		page, err := log.Entries(ctx, q)
		if err != nil {
			return unlessEnded(ctx, err)
		}
		for _, e := range page.Entries {
			if err := o.show(p.Out, e, colour); err != nil {
				return err
			}
		}
		if page.Next != nil {
			size = *page.Next
		}
	}
	return nil
}

// followEvery is how often new entries are asked for.
const followEvery = time.Second

// unlessEnded drops an error that comes of the command being ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

func (o *AuditLog) query() remote.Query {
	q := remote.Query{Namespace: o.Namespace, Delivery: o.Delivery, Action: audit.Action(o.Action)}
	if o.Since > 0 {
		q.Since = time.Now().Add(-o.Since)
	}
	return q
}

// newest returns the newest entries that are asked for, oldest first, and the size of
// the log when they were read.
func (o *AuditLog) newest(ctx context.Context, log auditLog) ([]remote.Found, uint64, error) {
	q := o.query()
	if o.Object != "" {
		found, err := log.About(ctx, o.Object, o.Namespace, remote.MaxAbout)
		found = slices.DeleteFunc(found, func(e remote.Found) bool { return !q.Matches(&e.Entry) })
		slices.Reverse(found)
		return found, 0, err
	}
	var all []remote.Found
	var size uint64
	for first := true; first || q.Before != nil; first = false {
		q.Limit = 0
		if o.Limit > 0 {
			q.Limit = min(o.Limit-len(all), remote.MaxEntries)
		}
		page, err := log.Entries(ctx, q)
		if err != nil {
			return nil, 0, err
		}
		if first {
			size = page.Size
		}
		all = append(all, page.Entries...)
		if q.Before = page.Next; o.Limit > 0 && len(all) >= o.Limit {
			break
		}
	}
	slices.Reverse(all)
	return all, size, nil
}

var actionColours = map[audit.Action]string{
	audit.Refuse: red, audit.Rewind: red, audit.Drift: yellow, audit.Revert: yellow, audit.Untouched: faint, audit.Outcome: faint,
}

// show prints one entry: a line of text, or of JSON.
func (o *AuditLog) show(w io.Writer, f remote.Found, colour palette) error {
	if o.Output == "json" {
		line := json.NewEncoder(w)
		line.SetEscapeHTML(false)
		return line.Encode(audit.Numbered{Index: f.Index, Entry: f.Entry})
	}
	e := f.Entry
	what := e.Delivery
	if what == "" {
		what = strings.Join(e.Deliveries, ", ")
	}
	parts := []string{
		fmt.Sprintf("%d", f.Index), e.Time.UTC().Format("2006-01-02 15:04:05"),
		colour.paint(actionColours[e.Action], plain(string(e.Action))), plain(what),
	}
	if e.Source != nil && e.Action != audit.Outcome {
		parts = append(parts, plain(e.Source.Commit[:min(len(e.Source.Commit), 12)]))
	}
	if e.Of != nil {
		parts = append(parts, fmt.Sprintf("of %d: %s", *e.Of, plain(e.Result)))
	}
	if e.Reason != "" {
		parts = append(parts, plain(e.Reason))
	}
	_, err := fmt.Fprintln(w, strings.Join(parts, "  "))
	return err
}

// AuditExport says what to export.
type AuditExport struct {
	LogAccess

	From uint64
}

const exportExamples = `  # everything, for a SIEM
  holdfast audit export > audit.jsonl

  # what is new since the last time: one more than the last index that was written
  holdfast audit export --from 4212`

func newAuditExport(p Process) *cobra.Command {
	var o AuditExport
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the log as JSON Lines",
		Long: `Write the entries of the log as JSON Lines, one object for each entry; docs/audit.md
names its fields. It takes the right to read the whole log, and ends with what the
newest checkpoint signs.

Exit codes: 0 all of it is written; 2 it is not.`,
		Example: exportExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := o.reach(cmd.Context(), "")
			if err != nil {
				return err
			}
			return audit.Export(cmd.Context(), log, p.Out, o.From)
		},
	}
	o.bindLog(settings{cmd.Flags()})
	cmd.Flags().Uint64Var(&o.From, "from", 0, "begin with the entry of this `INDEX`")
	suggestFlags(cmd, &o.Connection)
	return cmd
}

func newAuditCheckpoint(p Process) *cobra.Command {
	var o LogAccess
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the newest checkpoint, to keep it elsewhere",
		Long: `Print the newest checkpoint of the log: a signed note of a few lines, with the log's
size and its hash. Kept where whoever may change the log cannot reach, it proves later
that the log of today was not changed ('holdfast audit verify --checkpoint FILE').

Exit codes: 0 it is printed; 2 it cannot be read.`,
		Example: "  holdfast audit checkpoint > \"checkpoint-$(date +%F)\"",
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := o.reach(cmd.Context(), "")
			if err != nil {
				return err
			}
			raw, err := log.Read(cmd.Context(), "checkpoint", maxNote)
			if err != nil {
				return err
			}
			_, err = p.Out.Write(raw)
			return err
		},
	}
	o.bindLog(settings{cmd.Flags()})
	suggestFlags(cmd, &o.Connection)
	return cmd
}

// maxNote bounds a checkpoint, and a key.
const maxNote = 4 << 10

func newAuditKey(p Process) *cobra.Command {
	var o LogAccess
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the public key that the log's checkpoints are signed with",
		Long: `Print the public key that verifies the log's checkpoints, as the controller tells it.
Keep it elsewhere once, when the log begins: a key that is asked for anew each time
proves only that the log fits itself.

Exit codes: 0 it is printed; 2 it cannot be read.`,
		Example: "  holdfast audit key > audit.pub",
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := o.reach(cmd.Context(), "")
			if err != nil {
				return err
			}
			if o.Dir != "" || o.Store != "" {
				return noKeyThere()
			}
			raw, err := log.Read(cmd.Context(), remote.KeyName, maxNote)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.Out, strings.TrimSpace(string(raw)))
			return err
		},
	}
	o.bindLog(settings{cmd.Flags()})
	suggestFlags(cmd, &o.Connection)
	return cmd
}

// readKey returns the verifier of a key: a file's, or the one that is given itself.
func readKey(given string) (note.Verifier, error) {
	line := given
	if b, err := os.ReadFile(filepath.Clean(given)); err == nil {
		line = string(b)
	}
	v, err := note.NewVerifier(strings.TrimSpace(line))
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is no public key of a log, and no file with one", plain(given)).
			WithHint("'holdfast audit key' prints it")
	}
	return v, nil
}
