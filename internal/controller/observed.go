package controller

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfastcd/holdfast/internal/delivery"
)

// observations are what would change of the deliveries that are only observed. They
// are served as JSON and as a metric. Values of objects never enter.
type observations struct {
	clock func() time.Time

	mu  sync.Mutex
	all map[delivery.ID]observation
}

// observation is what a pass over one delivery would do.
type observation struct {
	Kind      string        `json:"kind"`
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	At        time.Time     `json:"at"`
	Error     string        `json:"error,omitempty"`
	Confirm   string        `json:"confirm,omitempty"` // the word that held prunes wait for
	Changes   int           `json:"changes"`
	Objects   []observedOne `json:"objects"`
}

// observedOne is an object that is not as its source wants it.
type observedOne struct {
	Object    string   `json:"object"`
	Operation string   `json:"operation"`
	Reason    string   `json:"reason,omitempty"`
	File      string   `json:"file,omitempty"`
	Line      int      `json:"line,omitempty"`
	By        string   `json:"by,omitempty"` // field manager that made it differ
	Fields    []string `json:"fields,omitempty"`
}

// note takes the report of a pass that wrote nothing; an empty report ends the
// observation.
func (o *observations) note(id delivery.ID, report delivery.Report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !report.Observed && report.Err == nil {
		delete(o.all, id)
		return
	}
	if o.all == nil {
		o.all = map[delivery.ID]observation{}
	}
	seen := observation{
		Kind: id.Kind, Namespace: id.Namespace, Name: id.Name, At: o.clock().UTC(), Confirm: report.HeldDigest, Objects: []observedOne{},
	}
	if report.Err != nil {
		seen.Error = report.Err.Error()
	}
	for _, object := range report.Objects {
		if object.Synced() || report.Err != nil && object.Op == "" {
			continue
		}
		seen.Objects = append(seen.Objects, observedOne{
			Object: object.ID.String(), Operation: cmp.Or(string(object.Op), string(object.Outcome)), Reason: object.Message,
			File: object.Origin.File, Line: object.Origin.Line, By: object.By, Fields: object.Fields,
		})
	}
	seen.Changes = len(seen.Objects)
	o.all[id] = seen
}

// list returns the observations by kind, namespace and name.
func (o *observations) list() []observation {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]observation, 0, len(o.all))
	for _, seen := range o.all {
		list = append(list, seen)
	}
	slices.SortFunc(list, func(a, b observation) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// ServeHTTP answers with everything that is observed, as JSON.
func (o *observations) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(o.list()) //nolint:errchkjson // times of our own clock marshal; whoever asked may have gone
}

var observedChanges = prometheus.NewDesc("holdfast_observed_changes",
	"Objects that a delivery which is only observed would change; -1 if that cannot be told.", []string{"kind", "namespace", "name"}, nil)

// Describe implements prometheus.Collector.
func (o *observations) Describe(ch chan<- *prometheus.Desc) { ch <- observedChanges }

// Collect implements prometheus.Collector.
func (o *observations) Collect(ch chan<- prometheus.Metric) {
	for _, seen := range o.list() {
		n := float64(seen.Changes)
		if seen.Error != "" && seen.Changes == 0 {
			n = -1
		}
		ch <- prometheus.MustNewConstMetric(observedChanges, prometheus.GaugeValue, n, seen.Kind, seen.Namespace, seen.Name)
	}
}
