package delivery

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

// shownPartitions is how many partitions are named.
const shownPartitions = 20

// standing follows what of a sink stands still while the rest goes on, and says so in the log: of each partition when
// that begins and when it ends, those of a second in one line.
type standing struct {
	o    *Options
	sink string

	text    string // for status
	down    map[int]bool
	full    bool // the log was told
	judged  time.Time
	trouble bool
}

// judge looks at the lanes, at most once a second, and returns when to look again. webhooks is how many wait, degraded
// tells whether only part of the sink fails, and full whether nothing more is read because of what waits.
func (s *standing) judge(lanes *lane.Lanes, webhooks int, degraded, full bool) (next time.Time) {
	trouble := lanes.Held() || full
	if !trouble && !s.trouble {
		return time.Time{}
	}
	now := time.Now()
	if next = s.judged.Add(errorInterval); now.Before(next) {
		return next
	}
	s.judged, s.trouble = now, trouble
	var since time.Time
	var cause error
	down := make(map[int]bool)
	events, keys := 0, 0
	for ln := range lanes.All() {
		switch {
		case !ln.Failing():
			continue
		case !ln.Stands():
			held, of := ln.Held()
			events, keys = events+held, keys+of
		case !s.down[ln.Partition] && ln.Attempts() < 2 && ln.Kind() != bridge.FailureBlocked:
			continue // it often passes at once, as with a change of leader
		default:
			down[ln.Partition] = true
			since = lane.Earlier(since, ln.FailingSince())
		}
		cause = ln.Cause()
	}
	var parts []string
	if len(down) > 0 {
		parts = append(parts, fmt.Sprintf("nothing gets through to %s, since %s",
			partitionsText(down), s.o.Now().Add(-now.Sub(since)).UTC().Format(time.RFC3339)))
	}
	if keys > 0 {
		parts = append(parts, fmt.Sprintf("%d events of %d keys are held", events, keys))
	}
	if len(s.down) > 0 || degraded { // else it is the whole sink
		s.say(down, cause, webhooks)
	}
	if full && !s.full {
		s.o.Logger.Error("the whole sink waits for the part of it that stands still: no more can be remembered of that",
			"sink", s.sink, "waiting_webhooks", webhooks)
	}
	s.full = full || (s.full && trouble) // it goes on a little whenever there is room, which is not worth a line
	if s.text = ""; len(parts) > 0 && (lanes.GoOn() || full) {
		s.text = fmt.Sprintf("%s: %s; %d webhooks wait",
			strings.Join(parts, ", and "), excerpt.Shorten(cause.Error()), webhooks)
		if full {
			s.text += ", and those behind them"
		}
	}
	return now.Add(errorInterval)
}

// say tells the log which partitions have begun to stand still, and which go on again.
func (s *standing) say(down map[int]bool, cause error, webhooks int) {
	began, ended := make(map[int]bool), make(map[int]bool)
	for p := range down {
		if !s.down[p] {
			began[p] = true
		}
	}
	for p := range s.down {
		if !down[p] {
			ended[p] = true
		}
	}
	s.down = down
	if len(began) > 0 {
		s.o.Logger.Warn("partitions stand still, and the others go on", "sink", s.sink,
			"partitions", partitionsText(began), "waiting_webhooks", webhooks, "error", cause)
	}
	if len(ended) > 0 {
		s.o.Logger.Info("partitions stand still no longer", "sink", s.sink, "partitions", partitionsText(ended))
	}
}

// partitionsText names partitions.
func partitionsText(which map[int]bool) string {
	all := slices.Sorted(maps.Keys(which))
	names := make([]string, 0, shownPartitions)
	for _, p := range all[:min(len(all), shownPartitions)] {
		names = append(names, strconv.Itoa(p))
	}
	more := ""
	if len(all) > shownPartitions {
		more = ", …"
	}
	noun := "partitions"
	if len(all) == 1 {
		noun = "partition"
	}
	return fmt.Sprintf("%d %s (%s%s)", len(all), noun, strings.Join(names, ", "), more)
}
