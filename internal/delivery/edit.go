package delivery

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/writes"
)

// edit is one change that others made, as it is told.
type edit struct {
	change audit.Change
	id     object.ID
	by     []editor
}

// editor is one field manager, and the user behind it as far as is known.
type editor struct {
	query writes.Query
	users []string
}

// editOf puts a change into words.
func (e *Engine) editOf(s *suspect, news plan.Drift) edit {
	gvk := s.action.Kind.GVK
	out := edit{id: s.action.ID, change: audit.Change{
		Object: audit.ObjectName(s.action.ID, gvk.Version), Operation: "edit", UID: string(s.action.Observed.UID),
	}}
	target := writes.Target{Group: gvk.Group, Resource: s.action.Kind.Resource, Namespace: s.action.ID.Namespace, Name: s.action.ID.Name}
	if s.gone {
		out.change.Operation, out.by = "delete", []editor{{query: writes.Query{Target: target, Gone: true}}}
	}
	var managers []string
	fields := func(touches []plan.Touch) []string {
		var names []string
		for _, t := range touches {
			if t.Field != "" && len(names) < MaxFields {
				names = append(names, t.Field)
			}
			if t.Manager != "" && !slices.Contains(managers, t.Manager) && len(managers) < MaxFields {
				managers = append(managers, t.Manager)
				out.by = append(out.by, editor{query: writes.Query{Target: target, Manager: t.Manager, At: t.At}})
			}
		}
		return names
	}
	out.change.Fields, out.change.Added = fields(news.Changed), fields(news.Added)
	out.change.By = strings.Join(managers, ", ")
	e.name(out.by)
	return out
}

// name looks up the users behind editors, as far as they are not known.
func (e *Engine) name(by []editor) (named bool) {
	for i := range by {
		if b := &by[i]; e.Editors != nil && len(b.users) == 0 {
			b.users = e.Editors.Wrote(b.query)
			named = named || len(b.users) > 0
		}
	}
	return named
}

// text tells an edit to people.
func (d edit) text() string {
	var parts []string
	if len(d.change.Fields) > 0 {
		parts = append(parts, "changed "+few(d.change.Fields))
	}
	if len(d.change.Added) > 0 {
		parts = append(parts, "added "+few(d.change.Added))
	}
	what := strings.Join(parts, "; ")
	switch {
	case d.change.Operation == "delete":
		what = "deleted it"
	case what == "":
		what = "changed it"
	}
	return d.id.String() + ": " + d.who() + " " + what
}

// who names the editors.
func (d edit) who() string {
	var names []string
	for _, b := range d.by {
		name := b.query.Manager
		if len(b.users) > 0 {
			name = strings.TrimSpace(name + " (user " + strings.Join(b.users, " or ") + ")")
		}
		if name != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "somebody"
	}
	return few(names)
}

// recordEdits writes one entry for all that a pass found, and waits for it: it stands
// before the intent to revert. If it cannot be written the intent cannot either, and
// nothing is reverted; the entry is tried again behind.
func (e *Engine) recordEdits(ctx context.Context, spec Spec, st *state, found []edit, remark string) {
	entry := e.entry(spec, st, audit.Drift)
	entry.Who = nil // who made the revision has not made the change
	var told []string
	if remark != "" {
		told = append(told, remark)
	}
	for _, f := range found {
		told = append(told, f.text())
	}
	entry.Reason = few(told)
	record := &audit.Record{}
	for _, f := range found {
		record.Objects = append(record.Objects, f.change)
		for _, p := range f.people() {
			if len(entry.Who) < MaxFields && !slices.Contains(entry.Who, p) {
				entry.Who = append(entry.Who, p)
			}
		}
	}
	entry.Counts = map[string]int{"edited": len(found)}
	if _, err := e.append(ctx, st, entry, record); err != nil {
		e.later(st, entry, record)
	}
}

// people are the editors as the audit log names them. A field manager is a claim; a user
// is proven, where only one can have been it.
func (d edit) people() []audit.Person {
	var who []audit.Person
	for _, b := range d.by {
		for _, user := range b.users {
			who = append(who, audit.Person{Role: audit.RoleEditor, Name: user, Proven: len(b.users) == 1, By: byAuditLog})
		}
		if b.query.Manager != "" {
			who = append(who, audit.Person{Role: audit.RoleEditor, Name: b.query.Manager})
		}
	}
	return who
}

// unnamed is an edit of which the user may become known: the API server sends its audit
// events when they are some, or old enough.
type unnamed struct {
	edit

	until time.Time
}

// await keeps edits of which a user is not known yet.
func (e *Engine) await(spec Spec, st *state, found []edit) {
	if e.Editors == nil {
		return
	}
	until := e.Clock().Add(nameWithin)
	for _, f := range found {
		open := slices.ContainsFunc(f.by, func(b editor) bool { return len(b.users) == 0 })
		if open && len(st.unnamed) < maxUnnamed {
			st.unnamed = append(st.unnamed, unnamed{f, until})
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(st.unnamed) > 0 {
		e.awaiting[spec.ID] = true
	}
}

// identify tells of edits whose user has become known since.
func (e *Engine) identify(ctx context.Context, spec Spec, st *state) {
	if len(st.unnamed) == 0 {
		return
	}
	now := e.Clock()
	var found []edit
	st.unnamed = slices.DeleteFunc(st.unnamed, func(u unnamed) bool {
		if e.name(u.by) {
			found = append(found, u.edit)
			return true
		}
		return now.After(u.until)
	})
	for _, f := range found {
		e.recordEdits(ctx, spec, st, []edit{f}, "the API server's audit log names who made an edit that is recorded before")
		st.alerts = append(st.alerts, Alert{AlertDrift, f.text()})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(st.unnamed) == 0 {
		delete(e.awaiting, spec.ID)
	}
}

// Named asks for a pass of every delivery that waits to learn who changed its objects:
// there is something new to know. It does not block.
func (e *Engine) Named() {
	e.mu.Lock()
	var ids []ID
	for id := range e.awaiting {
		ids = append(ids, id)
	}
	notify := e.notify
	e.mu.Unlock()
	for _, id := range ids {
		if notify != nil {
			notify(id)
		}
	}
}
