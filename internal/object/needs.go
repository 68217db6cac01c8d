package object

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Need is a Secret without which the Pods of an object do not start, and which another
// object of the same set has made for it.
type Need struct {
	Secret ID
	Maker  ID
	// Field of the object that names the Secret.
	Field string
	// Through is set where the maker itself cannot do its work before the object runs:
	// what it needs, at the end of which the object is. Such a need must not be waited for.
	Through ID
}

// Needs returns what each of objects needs that others of them make, in the order in
// which it names them. Objects without needs are not in the result, nor are Secrets
// that are among objects themselves, or that nobody among them makes.
func Needs(objects []Object) map[ID][]Need {
	if !slices.ContainsFunc(objects, func(o Object) bool { _, makes := makerOf(o.ID()); return makes }) {
		return nil
	}
	g := newGraph(objects)
	all := map[ID][]Need{}
	for _, id := range slices.SortedFunc(maps.Keys(g.uses), Compare) {
		for _, u := range g.uses[id] {
			n := Need{Secret: u.secret, Maker: g.made[u.secret], Field: u.field}
			if !slices.ContainsFunc(all[id], func(other Need) bool { return other.Secret == n.Secret }) {
				n.Through = g.through(n, id)
				all[id] = append(all[id], n)
			}
		}
	}
	return all
}

// graph is who needs whom among objects: workloads the Secrets that are made for them,
// Secrets their makers, makers the stores that they take values from and the operator
// that does their work, stores the Services whose address they have and the Secrets
// that they are authorised with, Services the workloads behind them.
type graph struct {
	at        map[ID]*Object
	made      map[ID]ID       // by Secret: who has it made
	uses      map[ID][]use    // by workload: the Secrets that are made for it
	operators map[string][]ID // by how their images are called: the workloads among uses
	edges     map[ID][]ID     // what was found so far, by whom it is needed
	left      int             // steps that may still be taken
}

// maxSteps bounds the search for needs that lead back: a set of objects may be made to
// have as many ways as it likes. Where it ends nothing is found, and what waits does
// so until its time is over.
const maxSteps = 200_000

func newGraph(objects []Object) *graph {
	g := &graph{
		at: map[ID]*Object{}, made: map[ID]ID{}, uses: map[ID][]use{}, operators: map[string][]ID{}, edges: map[ID][]ID{},
		left: maxSteps,
	}
	for i := range objects {
		g.at[objects[i].ID()] = &objects[i]
	}
	for i := range objects {
		id := objects[i].ID()
		m, ok := makerOf(id)
		if !ok {
			continue
		}
		for _, secret := range m.makes(&objects[i], objects) {
			if _, first := g.made[secret]; !first && g.at[secret] == nil {
				g.made[secret] = id
			}
		}
	}
	for i := range objects {
		id := objects[i].ID()
		for _, u := range uses(&objects[i], g.at) {
			if _, ok := g.made[u.secret]; ok {
				g.uses[id] = append(g.uses[id], u)
			}
		}
		if len(g.uses[id]) > 0 {
			g.noteOperator(&objects[i])
		}
	}
	return g
}

// noteOperator notes a workload that does the work of makers.
func (g *graph) noteOperator(o *Object) {
	for _, image := range Images([]Object{*o}) {
		name, err := ParseImage(image)
		if err != nil {
			continue
		}
		for _, m := range makers {
			if !strings.HasSuffix("/"+name.Repository, "/"+m.operator) || slices.Contains(g.operators[m.operator], o.ID()) {
				continue
			}
			g.operators[m.operator] = append(g.operators[m.operator], o.ID())
		}
	}
}

// through returns what a need's maker needs first on the way that ends at the object
// itself; zero if no way does.
func (g *graph) through(n Need, itself ID) ID {
	for _, next := range g.needs(n.Secret) {
		if g.leads(next, itself, map[ID]bool{}) {
			return next
		}
	}
	return ID{}
}

// leads reports whether to is from itself, or among what it needs.
func (g *graph) leads(from, to ID, been map[ID]bool) bool {
	if from == to {
		return true
	}
	if g.left--; been[from] || g.left < 0 {
		return false
	}
	been[from] = true
	return slices.ContainsFunc(g.needs(from), func(next ID) bool { return g.leads(next, to, been) })
}

// needs returns what an object, or a Secret that is made, needs at once.
func (g *graph) needs(id ID) []ID {
	if known, ok := g.edges[id]; ok {
		return known
	}
	var found []ID
	o := g.at[id]
	switch maker, made := g.made[id]; {
	case made:
		found = g.makerNeeds(maker, id.Namespace)
	case o == nil:
	case isSource(id):
		found = g.sourceNeeds(o)
	case id.Group == "" && id.Kind == "Service":
		found = g.behind(o)
	default:
		for _, u := range g.uses[id] {
			found = append(found, u.secret)
		}
	}
	slices.SortFunc(found, Compare)
	found = slices.Compact(found)
	g.edges[id] = found
	g.left -= len(found)
	return found
}

// makerNeeds returns the sources of a maker, for one of its Secrets, and its operator.
func (g *graph) makerNeeds(id ID, namespace string) []ID {
	m, _ := makerOf(id)
	return append(m.sourcesOf(g.at[id], namespace), g.operators[m.operator]...)
}

// sourceNeeds returns the Services whose address a store has, wherever in its spec, and
// the Secrets that it names, where they are made.
func (g *graph) sourceNeeds(o *Object) []ID {
	var found []ID
	visitStrings(o.Object["spec"], "", func(holder map[string]any, within, key, value string) {
		if id, ok := serviceAt(value, o.GetNamespace()); ok && g.at[id] != nil {
			found = append(found, id)
		}
		if key != "name" || !strings.HasSuffix(strings.ToLower(within), "secretref") {
			return
		}
		id := ID{Kind: "Secret", Namespace: o.GetNamespace(), Name: value}
		if ns, _ := holder["namespace"].(string); ns != "" {
			id.Namespace = ns
		}
		if _, ok := g.made[id]; ok {
			found = append(found, id)
		}
	})
	return found
}

// behind returns the workloads whose Pods a Service selects, of those that wait.
func (g *graph) behind(service *Object) []ID {
	spec, _ := service.Object["spec"].(map[string]any)
	selector, _ := spec["selector"].(map[string]any)
	var found []ID
	for id := range g.uses {
		if g.left--; g.left < 0 || len(selector) == 0 || id.Namespace != service.GetNamespace() {
			continue
		}
		for _, labels := range podLabels(g.at[id]) {
			if within(selector, labels) {
				found = append(found, id)
			}
		}
	}
	return found
}

// within reports whether all has each of some, with the same value.
func within(some, all map[string]any) bool {
	for key, value := range some {
		if all[key] != value {
			return false
		}
	}
	return true
}

// maxAddress bounds what is taken for the address of a Service: a host's name has at
// most 253 characters.
const maxAddress = 512

// serviceAt reads the address of a Service in the cluster: name.namespace, or
// name.namespace.svc and what follows it, as a URL or with a port; from within
// namespace, a URL may have the name alone.
func serviceAt(address, namespace string) (ID, bool) {
	if len(address) > maxAddress {
		return ID{}, false
	}
	isURL := strings.Contains(address, "://")
	if !isURL {
		address = "//" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return ID{}, false
	}
	parts := strings.Split(u.Hostname(), ".")
	id := ID{Kind: "Service", Namespace: namespace, Name: parts[0]}
	switch {
	case len(parts) == 1:
		return id, isURL && namespace != ""
	case len(parts) == 2 || parts[2] == "svc":
		id.Namespace = parts[1]
		return id, true
	}
	return ID{}, false
}

// visitStrings calls visit with each string below value: the map that holds it, the
// name of the field that this map is in, its own name and itself.
func visitStrings(value any, within string, visit func(holder map[string]any, within, key, value string)) {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if s, ok := value[key].(string); ok {
				visit(value, within, key, s)
			} else {
				visitStrings(value[key], key, visit)
			}
		}
	case []any:
		for _, item := range value {
			visitStrings(item, within, visit)
		}
	}
}
