package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bar is what a phase may take; times is a multiple of the floor of the same run.
type bar struct {
	wall, cpu time.Duration
	times     float64
}

// must is the bars of one size of fleet.
type must struct {
	phases map[string]bar
	memory int64
}

// bars returns what holds for a fleet on two cores: the 'must' column of the
// design for 100 applications of five objects, and that for large fleets; other
// sizes have none.
func bars(apps, objects int) must {
	switch {
	case apps == 100 && objects == 5:
		return must{memory: 150 << 20, phases: map[string]bar{
			firstPhase:           {wall: 3 * time.Second, cpu: 5 * time.Second, times: 3},
			nonePhase:            {wall: time.Second},
			onePhase:             {wall: 500 * time.Millisecond},
			allPhase:             {wall: 3 * time.Second, times: 3},
			"live edit reverted": {wall: 300 * time.Millisecond},
			idlePhase:            {cpu: 150 * time.Millisecond},
		}}
	case apps == 1000 && objects == 10:
		return must{memory: 400 << 20, phases: map[string]bar{
			firstPhase: {times: 4},
			onePhase:   {wall: time.Second},
		}}
	}
	return must{}
}

// The phases that more than the list of them knows.
const (
	floorCreatePhase = "floor: create all"
	floorChangePhase = "floor: change all"
	floorNewPhase    = "floor: new resources"
	floorStatusPhase = "floor: statuses"
	firstPhase       = "first sync"
	nonePhase        = "commit touching none"
	onePhase         = "commit changing one"
	allPhase         = "commit changing all"
	idlePhase        = "idle, per minute"
)

// measure runs the phases in order; each starts from the end of the one before.
func (b *bench) measure(ctx context.Context) error {
	steps := []struct {
		name string
		runs int
		do   func(context.Context) (time.Duration, error)
	}{
		{floorCreatePhase, 1, b.floorCreate},
		{floorChangePhase, 1, b.floorChange},
		{floorNewPhase, 1, b.floorNew},
		{floorStatusPhase, b.runs, b.floorStatuses},
		{firstPhase, 1, b.firstSync},
		{nonePhase, b.runs, b.commitNone},
		{onePhase, b.runs, b.commitOne},
		{"live edit reverted", b.runs, b.liveEdit},
		{allPhase, (b.runs + 1) / 2, b.commitAll},
		{idlePhase, 1, b.doNothing},
	}
	for _, s := range steps {
		if b.signed > 0 && s.name != firstPhase {
			continue // what they commit is not signed
		}
		if s.name == idlePhase {
			settling, cancel := context.WithTimeout(ctx, time.Minute)
			b.settle(settling)
			cancel()
		}
		p, err := b.repeat(ctx, s.name, s.runs, s.do)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if s.name == idlePhase {
			p.CPU = time.Duration(float64(p.CPU) * float64(time.Minute) / float64(b.idle))
		}
		b.result.add(p)
		b.progressf("%s: %s", s.name, round(p.Wall))
	}
	b.result.PeakBytes, b.result.MustBytes = b.peak.bytes(), bars(b.apps, b.objects).memory
	return b.verify(ctx)
}

// repeat measures one phase: wall time from what do returns, CPU and requests around it.
func (b *bench) repeat(ctx context.Context, name string, runs int, do func(context.Context) (time.Duration, error)) (phase, error) {
	var walls, cpus []time.Duration
	must := bars(b.apps, b.objects).phases[name]
	p := phase{Name: name, Runs: runs, Must: must.wall, MustCPU: must.cpu, MustTimes: must.times}
	var stolen float64
	for range runs {
		ctx, cancel := context.WithTimeout(ctx, b.limit+b.idle)
		requests, rendered, cpu := b.requests(), b.renderings(ctx), cpuTime(b.pid())
		before := processors()
		wall, err := do(ctx)
		stolen += processors().since(before)
		p.Rendered = b.renderings(ctx) - rendered
		cancel()
		if err != nil {
			return p, err
		}
		if b.pid() != 0 {
			cpus = append(cpus, cpuTime(b.pid())-cpu)
		}
		p.Requests = since(requests, b.requests())
		walls = append(walls, wall)
	}
	p.Wall, p.CPU, p.Stolen = median(walls), median(cpus), stolen/float64(runs)
	return p, nil
}

// settle waits until the controller has finished what the
// last phase left behind: events of what it did go out after the work itself.
func (b *bench) settle(ctx context.Context) {
	const look, quiet = 3 * time.Second, 20 * time.Millisecond
	for calm := 0; calm < 5; {
		before := cpuTime(b.pid())
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return
		}
		if calm++; cpuTime(b.pid())-before > quiet {
			calm = 0
		}
	}
}

func timed(do func() error) (time.Duration, error) {
	start := time.Now()
	err := do()
	return time.Since(start), err
}

func (b *bench) floorCreate(ctx context.Context) (time.Duration, error) { return b.floor(ctx, 0) }
func (b *bench) floorChange(ctx context.Context) (time.Duration, error) { return b.floor(ctx, 1) }

func (b *bench) floor(ctx context.Context, version int) (time.Duration, error) {
	f := newFleet(b.apps, b.objects)
	for i := range f.apps {
		f.version[i] = version
	}
	all, err := f.writes("floor-")
	if err != nil {
		return 0, err
	}
	return timed(func() error { return floor(ctx, b.account, all) })
}

// firstSync starts when the first resource is created and ends when the last
// says that it is applied.
func (b *bench) firstSync(ctx context.Context) (time.Duration, error) {
	if err := b.start(ctx); err != nil {
		return 0, err
	}
	head, err := b.repo.Head()
	if err != nil {
		return 0, err
	}
	return timed(func() error {
		if err := b.create(ctx, b.resources()); err != nil {
			return err
		}
		return b.arrived(ctx, head)
	})
}

// commitNone pushes a commit outside of every application and waits until each
// of them says that it stands at that commit.
func (b *bench) commitNone(ctx context.Context) (time.Duration, error) {
	b.serial++
	head, err := b.commit("README.md", fmt.Sprintf("edition %d\n", b.serial))
	if err != nil {
		return 0, err
	}
	return timed(func() error {
		if err := b.push(ctx, head); err != nil {
			return err
		}
		return b.arrived(ctx, head)
	})
}

// commitOne changes one application and waits until the change is live.
func (b *bench) commitOne(ctx context.Context) (time.Duration, error) {
	app := b.apps / 2
	b.fleet.version[app]++
	head, err := b.repo.Commit("change one", b.fleet.changes(app)...)
	if err != nil {
		return 0, err
	}
	want := fmt.Sprint(b.fleet.version[app])
	wait, err := b.awaitConfigMap(ctx, appName(app), func(c *corev1.ConfigMap) bool { return c.Data["version"] == want })
	if err != nil {
		return 0, err
	}
	wall, err := timed(func() error {
		if err := b.push(ctx, head); err != nil {
			return err
		}
		return wait()
	})
	if err != nil {
		return 0, err
	}
	return wall, b.arrived(ctx, head) // the rest of the fleet must not run into the next measurement
}

// commitAll changes every application.
func (b *bench) commitAll(ctx context.Context) (time.Duration, error) {
	for i := range b.apps {
		b.fleet.version[i]++
	}
	head, err := b.repo.Commit("change all", b.fleet.changes(b.fleet.all()...)...)
	if err != nil {
		return 0, err
	}
	return timed(func() error {
		if err := b.push(ctx, head); err != nil {
			return err
		}
		return b.arrived(ctx, head)
	})
}

// liveEdit changes a live object by hand and waits until it is as before. Each
// run edits another application, so that no run meets the back-off for fights.
func (b *bench) liveEdit(ctx context.Context) (time.Duration, error) {
	b.edited = (b.edited + 1) % b.apps
	name := appName(b.edited)
	want := fmt.Sprint(b.fleet.version[b.edited])
	seen := false
	wait, err := b.awaitConfigMap(ctx, name, func(c *corev1.ConfigMap) bool {
		seen = seen || c.Data["version"] == "edited"
		return seen && c.Data["version"] == want
	})
	if err != nil {
		return 0, err
	}
	return timed(func() error {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"version":"edited"}}`))
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: name}}
		if err := b.client.Patch(ctx, o, patch, client.FieldOwner("kubectl-edit")); err != nil {
			return err
		}
		return wait()
	})
}

// doNothing watches the controller idle; its CPU time is scaled to a minute by idle.
func (b *bench) doNothing(ctx context.Context) (time.Duration, error) {
	return timed(func() error {
		select {
		case <-time.After(b.idle):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}
