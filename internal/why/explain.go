package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// What operations and outcomes of a record say, as far as it matters here.
const opPrune = "prune"

// idle are the outcomes of requests that were not sent, or not accepted.
var idle = []string{"skipped", "waiting", "refused", "failed", "left", "released"}

// Explain returns the chain that facts show.
func Explain(f Facts) Chain {
	c := Chain{Links: []Link{}, Approvals: f.Approvals}
	for i, u := range f.Objects {
		if i == 0 {
			c.Object = about(u)
		} else {
			c.Owners = append(c.Owners, about(u))
		}
	}
	managed := f.Objects[len(f.Objects)-1]
	at := f.sync()
	if at >= 0 {
		c.Sync = &f.Found[at]
	}
	c.Since = f.since(at)
	c.Delivery = f.Marked
	if len(f.Found) > 0 {
		c.Delivery = f.Found[0].Entry.Delivery
	}
	c.add(objectLink(f.Objects[0]))
	c.add(f.ownerLinks()...)
	c.add(f.deliveryLink(managed, c.Sync))
	if c.Sync != nil {
		c.add(appliedLink(*c.Sync), sourceLink(*c.Sync))
		c.add(peopleLinks(*c.Sync)...)
		c.add(approvalLinks(f.Approvals)...)
		c.add(renderLink(*c.Sync))
		c.add(policyLinks(*c.Sync)...)
		c.add(imageLinks(managed, *c.Sync)...)
	}
	c.Running = running(f.Pods, c.Sync)
	c.add(runningLinks(c.Running)...)
	c.add(driftLinks(managed, c.Sync, c.Since, f.Found)...)
	c.add(f.logLink())
	return c
}

func (c *Chain) add(links ...Link) { c.Links = append(c.Links, links...) }

// sync returns the index in Found of the entry by which the object is as it is; -1
// if there is none: the newest sync that reached it.
func (f *Facts) sync() int {
	return slices.IndexFunc(f.Found, func(e remote.Found) bool {
		if e.Entry.Action != audit.Sync || e.Change == nil {
			return false
		}
		done := e.Outcome
		return done == nil || done.Change == nil || !slices.Contains(idle, done.Change.Outcome)
	})
}

// since returns what the log says about the object after the sync, oldest first.
func (f *Facts) since(sync int) []remote.Found {
	if sync < 0 {
		sync = len(f.Found)
	}
	later := slices.Clone(f.Found[:sync])
	slices.Reverse(later)
	return later
}

func objectLink(u *unstructured.Unstructured) Link {
	o := about(u)
	if o.UID == "" {
		return Link{Name: LinkObject, State: None, Text: []string{"It is not in the cluster."}}
	}
	return Link{
		Name: LinkObject, State: Proven, By: "the API server",
		Text: []string{"uid " + o.UID + ", created " + stamp(o.Created)},
	}
}

// ownerLinks are claims: whoever may create an object may write its references.
func (f *Facts) ownerLinks() []Link {
	var links []Link
	for _, owner := range f.Objects[1:] {
		links = append(links, Link{
			Name: LinkOwner, State: Claimed, Text: []string{"owned by " + about(owner).String()},
			By: "ownerReferences, which name the uid of the live owner",
		})
	}
	if f.Lost != "" {
		links = append(links, Link{
			Name: LinkOwner, State: Broken, Text: []string{"owned by " + f.Lost}, By: "ownerReferences",
		})
	}
	return links
}

// deliveryLink compares who holds the object by its marks and by the log.
func (f *Facts) deliveryLink(managed *unstructured.Unstructured, sync *remote.Found) Link {
	l := Link{Name: LinkDelivery, State: Unproven}
	switch {
	case sync == nil && f.Marked == "":
		l.Text = []string{"No delivery is known to hold it."}
		if f.Log == "" {
			l.Text = append(l.Text, "The log has no sync of it, and it carries no marks.")
		}
		return l
	case sync == nil:
		l.State, l.Text, l.By = Claimed, []string{"delivered by " + f.Marked}, "the marks on the object, which anybody who may edit it can write"
		return l
	}
	l.Text = []string{"delivered by " + sync.Entry.Delivery}
	l.State, l.By = Proven, entry(*sync)
	uid, live := uidOf(*sync), string(managed.GetUID())
	switch {
	case f.Marked != "" && f.Marked != sync.Entry.Delivery:
		l.State = Broken
		l.Text = append(l.Text, "but its marks name "+f.Marked)
	case live == "":
	case uid == "":
		l.State, l.By = Claimed, l.By+", which names it, without its uid"
	case uid != live:
		l.State = Broken
		l.Text = append(l.Text, "but what was delivered had the uid "+uid+": this is another object of the name")
	default:
		l.By += ", which names its uid"
	}
	return l
}

// uidOf returns the uid of the object that an entry is about; "" if it is not recorded.
func uidOf(e remote.Found) string {
	if e.Outcome != nil && e.Outcome.Change != nil && e.Outcome.Change.UID != "" {
		return e.Outcome.Change.UID
	}
	return e.Change.UID
}

func appliedLink(e remote.Found) Link {
	l := Link{Name: LinkApplied, State: Unproven, By: entry(e)}
	if e.Outcome == nil {
		l.Text = []string{"meant to be applied " + stamp(e.Entry.Time), "No outcome is recorded: it may be under way."}
		return l
	}
	done := e.Outcome
	l.By += fmt.Sprintf(" and its outcome %d", done.Index)
	l.Text = []string{"applied " + stamp(done.Entry.Time) + ": " + done.Entry.Result}
	if done.Change != nil && done.Change.Outcome != "" {
		l.Text[0] += ", this object " + done.Change.Outcome
	}
	if done.Entry.Reason != "" {
		l.Text = append(l.Text, done.Entry.Reason)
	}
	if done.Entry.Result == audit.ResultDelivered || done.Change != nil && done.Change.Outcome != "" {
		l.State = Proven
	}
	return l
}

func sourceLink(e remote.Found) Link {
	s := e.Entry.Source
	if s == nil {
		return Link{Name: LinkSource, State: Unproven, Text: []string{"The entry names no source."}, By: entry(e)}
	}
	text := []string{"commit " + s.Commit}
	if s.Ref != "" {
		text = append(text, "of "+s.Ref)
	}
	text = append(text, s.URL)
	if s.Tree != "" {
		text = append(text, "tree "+s.Tree)
	}
	return Link{Name: LinkSource, State: Proven, Text: text, By: entry(e)}
}

// approvalLinks are the words that prunes of the delivery waited for.
func approvalLinks(approvals []remote.Found) []Link {
	if len(approvals) == 0 {
		return []Link{{Name: LinkApproval, State: None, Text: []string{"Nothing had to be approved."}}}
	}
	a := approvals[0] // the newest
	l := Link{Name: LinkApproval, State: Claimed, By: entry(a)}
	names := make([]string, 0, len(a.Entry.Who))
	proven := len(a.Entry.Who) > 0
	for _, p := range a.Entry.Who {
		names = append(names, p.Name)
		proven = proven && p.Proven
	}
	if proven {
		l.State = Proven
	}
	who := strings.Join(names, ", ")
	if who == "" {
		who, l.State = "somebody who is not named", Unproven
	}
	l.Text = []string{"prunes, by " + who + ", " + stamp(a.Entry.Time)}
	if a.Entry.Reason != "" {
		l.Text = append(l.Text, a.Entry.Reason)
	}
	return []Link{l}
}

// tools are the words for what a record names by what it may be.
var tools = map[string]string{
	string(render.Detect):              "directory",
	string(render.KustomizeOrGenerate): "kustomize",
}

func renderLink(e remote.Found) Link {
	l := Link{Name: LinkRender, State: Unproven, By: entry(e)}
	if e.Record == nil || e.Record.Render == nil {
		l.Text = []string{"What it was rendered from is not recorded."}
		return l
	}
	r := e.Record.Render
	l.State = Proven
	from := r.Path
	if from == "" {
		from = "the root of the source"
	}
	tool := r.Tool
	if words, ok := tools[tool]; ok {
		tool = words
	}
	l.Text = []string{tool + " " + from}
	if c := e.Change; c.File != "" {
		place := "from " + c.File
		if c.Line > 0 {
			place += fmt.Sprintf(":%d", c.Line)
		}
		l.Text = append(l.Text, place)
	}
	if n := len(r.Inputs) + r.More; n > 0 {
		l.Text = append(l.Text, counted(n, "file")+" read, each recorded with its digest")
		if r.More > 0 {
			l.Text[len(l.Text)-1] = counted(n, "file") + fmt.Sprintf(" read, %d of them recorded with their digests", len(r.Inputs))
		}
	}
	return l
}

// verdicts say what the outcomes of a verdict are worth.
var verdicts = map[string]State{"pass": Proven, "fail": Broken, "audit": Unproven, "excused": Unproven}

func policyLinks(e remote.Found) []Link {
	var links []Link
	all := e.Entry.Verdicts
	if e.Record != nil && len(e.Record.Verdicts) > len(all) {
		all = e.Record.Verdicts
	}
	for _, v := range all {
		if !concerns(v, e) {
			continue
		}
		state, known := verdicts[v.Outcome]
		if !known {
			state = Unproven
		}
		l := Link{Name: LinkPolicy, State: state, Text: []string{v.Rule + ": " + v.Outcome}, By: entry(e)}
		if v.Object != "" && v.Object != e.Change.Object {
			l.Text = append(l.Text, v.Object)
		}
		if v.Outcome == "audit" {
			l.Text[0] = v.Rule + ": failed, and was only told"
		}
		if v.Message != "" {
			l.Text = append(l.Text, v.Message)
		}
		if v.Revision != "" {
			l.Text = append(l.Text, "policy revision "+v.Revision)
		}
		links = append(links, l)
	}
	if len(links) == 0 {
		return []Link{{Name: LinkPolicy, State: None, Text: []string{"No policy judged it."}, By: entry(e)}}
	}
	return links
}

// concerns reports whether a verdict is about the object, or an image that it runs.
func concerns(v audit.Verdict, e remote.Found) bool {
	if v.Object == "" || v.Object == e.Change.Object || slices.Contains(e.Change.Images, v.Object) {
		return true
	}
	return e.Record != nil && slices.ContainsFunc(e.Record.Images, func(i trust.Image) bool {
		return i.Name == v.Object && slices.Contains(e.Change.Images, i.Pinned)
	})
}

// logLink says what the word "proven" leans on.
func (f *Facts) logLink() Link {
	if f.Log != "" {
		return Link{Name: LinkLog, State: Unproven, Text: []string{"The audit log could not be read: " + f.Log}}
	}
	return Link{
		Name: LinkLog, State: Claimed, By: f.Told,
		Text: []string{"Entries are as the log tells them.", "'holdfast audit verify --checkpoint FILE' proves that it is whole."},
	}
}

func entry(e remote.Found) string { return fmt.Sprintf("log entry %d", e.Index) }

func stamp(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
