package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// phase is one row of the result. Times are the median over its runs.
type phase struct {
	Name     string         `json:"name"`
	Runs     int            `json:"runs"`
	Wall     time.Duration  `json:"wallNanoseconds"`
	CPU      time.Duration  `json:"cpuNanoseconds"` // of the controller and its workers; 0 for the floor
	Must     time.Duration  `json:"mustNanoseconds,omitempty"`
	MustCPU  time.Duration  `json:"mustCPUNanoseconds,omitempty"`
	Requests map[string]int `json:"requests,omitempty"` // by verb, in the last run
}

// result is what one run of the benchmark found.
type result struct {
	Dialect    string  `json:"dialect"`
	Apps       int     `json:"apps"`
	Objects    int     `json:"objectsPerApp"`
	Phases     []phase `json:"phases"`
	PeakBytes  int64   `json:"peakMemoryBytes"` // proportional set size, all processes
	MustBytes  int64   `json:"mustMemoryBytes"`
	Controller string  `json:"controller"` // its version
}

func median(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}

// bound prints a bar and whether a figure keeps it.
func bound(got, must time.Duration) string {
	switch {
	case must == 0:
		return "-"
	case got <= must:
		return fmt.Sprintf("<= %s ok", must)
	}
	return fmt.Sprintf("<= %s MISSED", must)
}

func round(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(time.Millisecond).String()
}

// table prints the result for people.
func (r result) table(out io.Writer) error {
	fmt.Fprintf(out, "%d applications x %d objects, %s, %s\n\n", r.Apps, r.Objects, r.Dialect, r.Controller)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PHASE\tRUNS\tWALL\tMUST\tCPU\tMUST\tREQUESTS")
	for _, p := range r.Phases {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Runs, round(p.Wall), bound(p.Wall, p.Must),
			round(p.CPU), bound(p.CPU, p.MustCPU), verbs(p.Requests))
	}
	mark := "ok"
	if r.PeakBytes > r.MustBytes {
		mark = "MISSED"
	}
	fmt.Fprintf(w, "peak memory (PSS)\t\t%d MiB\t<= %d MiB %s\t\t\t\n", r.PeakBytes>>20, r.MustBytes>>20, mark)
	return w.Flush()
}

func (r result) json(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func verbs(requests map[string]int) string {
	var parts []string
	for verb, n := range requests {
		parts = append(parts, fmt.Sprintf("%s %d", verb, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
