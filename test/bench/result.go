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
	Name    string        `json:"name"`
	Runs    int           `json:"runs"`
	Wall    time.Duration `json:"wallNanoseconds"`
	CPU     time.Duration `json:"cpuNanoseconds"` // of the controller and its workers; 0 for the floor
	Must    time.Duration `json:"mustNanoseconds,omitempty"`
	MustCPU time.Duration `json:"mustCPUNanoseconds,omitempty"`
	// Times is Wall as a multiple of the floor of the same run; 0 where there is none.
	Times     float64 `json:"timesFloor,omitempty"`
	MustTimes float64 `json:"mustTimesFloor,omitempty"`
	// TimesWrites is Wall as a multiple of all writes that it takes, those of the
	// custom resources too.
	TimesWrites float64 `json:"timesAllWrites,omitempty"`
	// Stolen is the share of the machine's processor time that its host gave to
	// others meanwhile: with more than a tenth, wall times say little.
	Stolen   float64        `json:"stolen"`
	Rendered int            `json:"rendered"`           // deliveries, in the last run
	Requests map[string]int `json:"requests,omitempty"` // by verb, in the last run
}

// result is what one run of the benchmark found.
type result struct {
	Dialect    string  `json:"dialect"`
	Apps       int     `json:"apps"`
	Objects    int     `json:"objectsPerApp"`
	Phases     []phase `json:"phases"`
	PeakBytes  int64   `json:"peakMemoryBytes"` // proportional set size, all processes
	MustBytes  int64   `json:"mustMemoryBytes,omitempty"`
	Controller string  `json:"controller"` // its version
}

// floors names the floor of a phase that has one, writes all that it must write.
var (
	floors = map[string][]string{firstPhase: {floorCreatePhase}, allPhase: {floorChangePhase}}
	writes = map[string][]string{
		firstPhase: {floorCreatePhase, floorNewPhase}, nonePhase: {floorStatusPhase}, allPhase: {floorChangePhase, floorStatusPhase},
	}
)

// add appends a phase, compared with its floors.
func (r *result) add(p phase) {
	p.Times, p.TimesWrites = r.multiple(p.Wall, floors[p.Name]), r.multiple(p.Wall, writes[p.Name])
	r.Phases = append(r.Phases, p)
}

// multiple returns a time as a multiple of what some phases took together; 0 without them.
func (r *result) multiple(wall time.Duration, phases []string) float64 {
	var sum time.Duration
	for _, f := range r.Phases {
		if slices.Contains(phases, f.Name) {
			sum += f.Wall
		}
	}
	if sum == 0 {
		return 0
	}
	return float64(wall) / float64(sum)
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
	if must == 0 {
		return "-"
	}
	return fmt.Sprintf("<= %s %s", must, verdict(got <= must))
}

// times prints a multiple of the floor and whether it keeps its bar.
func (p phase) times() string {
	if p.Times == 0 || p.MustTimes == 0 {
		return times(p.Times)
	}
	return fmt.Sprintf("%.1fx <= %gx %s", p.Times, p.MustTimes, verdict(p.Times <= p.MustTimes))
}

func times(multiple float64) string {
	if multiple == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1fx", multiple)
}

func verdict(kept bool) string {
	if kept {
		return "ok"
	}
	return "MISSED"
}

func round(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(time.Millisecond).String()
}

// table prints the result for people.
func (r *result) table(out io.Writer) error {
	fmt.Fprintf(out, "%d applications x %d objects, %s, %s\n\n", r.Apps, r.Objects, r.Dialect, r.Controller)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PHASE\tRUNS\tWALL\tMUST\tFLOOR\tALL WRITES\tSTOLEN\tCPU\tMUST\tRENDERED\tREQUESTS")
	for _, p := range r.Phases {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%.0f%%\t%s\t%s\t%d\t%s\n", p.Name, p.Runs, round(p.Wall), bound(p.Wall, p.Must),
			p.times(), times(p.TimesWrites), 100*p.Stolen, round(p.CPU), bound(p.CPU, p.MustCPU), p.Rendered, verbs(p.Requests))
	}
	memory := "-"
	if r.MustBytes > 0 {
		memory = fmt.Sprintf("<= %d MiB %s", r.MustBytes>>20, verdict(r.PeakBytes <= r.MustBytes))
	}
	fmt.Fprintf(w, "peak memory (PSS)\t\t%d MiB\t%s\t\t\t\t\t\t\t\n", r.PeakBytes>>20, memory)
	return w.Flush()
}

func (r *result) json(out io.Writer) error {
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
