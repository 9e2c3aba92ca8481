//go:build linux

package recovery

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// manyInFlight is when a backlog is being published for sure.
	manyInFlight = 256
	// littleLeft is when it is over, in webhooks.
	littleLeft = 1000
	// looks are how often is counted, before a fault, what is in flight. That changes all the time.
	looks = 10
)

// repeatsResult is what a kind of fault has had stored again.
type repeatsResult struct {
	name               string
	tries              int
	total              int // events stored while it went on
	repeats, dropped   int // of them stored twice, and those that the broker dropped
	inFlight, greatest int // when the fault began: of all tries together, and of one
}

// noteInFlight counts what is in flight now.
func (r *rig) noteInFlight(t *testing.T) {
	t.Helper()
	most := 0
	for range looks {
		most = max(most, r.bridges[0].metric(t, "fnbridge_sink_in_flight_events"))
	}
	r.inFlight = append(r.inFlight, most)
}

// awaitInFlight waits until much is in flight, or little of the backlog is left.
func (r *rig) awaitInFlight(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(awayLimit); ; {
		values, err := r.bridges[0].metrics(t.Context())
		require.NoError(t, err)
		if values["fnbridge_sink_in_flight_events"] >= manyInFlight || values["fnbridge_sink_backlog_webhooks"] < littleLeft {
			return
		}
		require.True(t, time.Now().Before(deadline), "the backlog is not published")
	}
}

// measureRepeats plays a fault so often under a load.
func measureRepeats(t *testing.T, s site, name string, number int, sc scenario, l load, tries int) repeatsResult {
	t.Helper()
	b := s.wide
	if b == nil {
		b = s.broker
	}
	if sc.through != nil {
		b = sc.through()
	}
	if sc.far {
		s.line.proxy.Distance(distance)
		defer s.line.proxy.Distance(0)
	}
	who := fmt.Sprintf("repeats%d", number)
	var bridge *runningBridge
	if sc.process {
		bridge = startBridgeProcess(t, who, b.env(who))
	} else {
		bridge = startBridge(t, who, b.env(who), slog.LevelInfo)
	}
	r := &rig{broker: b, bridges: []*runningBridge{bridge}, who: []string{who}}
	bridge.awaitReady(t)
	l.start(t, bridge)
	res := repeatsResult{name: name, tries: tries}
	for range tries {
		r.awaitAll(t, time.Now())
		last(t, quiet)
		began := time.Now()
		before := bridge.dropped(t)
		if !sc.counts {
			r.noteInFlight(t)
		}
		sc.fault(t, r)
		r.awaitAll(t, time.Now())
		last(t, quiet)
		p := r.pauses(t, began)
		dropped := bridge.dropped(t)
		if sc.process { // it counts anew
			before = 0
		}
		res.repeats, res.total, res.dropped = res.repeats+p.repeats, res.total+p.total, res.dropped+dropped-before
		t.Logf("%s, try %d: %d of %d stored twice, %d dropped, %d in flight",
			name, r.try, p.repeats, p.total, dropped-before, r.inFlight[r.try])
		r.try++
	}
	for _, n := range r.inFlight {
		res.inFlight, res.greatest = res.inFlight+n, max(res.greatest, n)
	}
	return res
}
