package delivery

import (
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// The states of a sink, as `fnbridge status` shows them.
const (
	stateUp       = "up"       // the last try of every partition was acknowledged
	stateDegraded = "degraded" // some partitions hold events back, others go on
	stateDown     = "down"     // nothing gets through
	stateBlocked  = "blocked"  // nothing gets through until somebody mends it
)

// health follows how a sink is and says so in the log: once when it changes, not once a try.
type health struct {
	d       *Dispatcher
	now     string
	since   time.Time
	err     string
	errAt   time.Time
	said    string // the last state that the log was told
	downAt  time.Time
	started bool
}

func newHealth(d *Dispatcher) health {
	return health{d: d, now: stateUp, said: stateUp, since: d.o.Now()}
}

// state is what the journal keeps of the sink's health.
func (h *health) state(sink string) journal.SinkState {
	if !h.started {
		return journal.SinkState{}
	}
	return journal.SinkState{Sink: sink, State: h.now, LastError: h.err, LastErrorAt: h.errAt, Since: h.since}
}

// delivering judges by the lanes, after a batch.
func (h *health) delivering(l *loop) {
	working, failing, down, tries := 0, 0, 0, 0
	kind := bridge.FailureRetry
	var cause error
	for _, ln := range l.lanes {
		if ln.idle() {
			continue
		}
		working++
		if !ln.failing() {
			continue
		}
		failing++
		tries = max(tries, ln.attempt)
		if ln.down {
			down++
		}
		if cause == nil || ln.kind == bridge.FailureBlocked {
			cause = ln.cause
		}
		if ln.kind == bridge.FailureBlocked {
			kind = bridge.FailureBlocked
		}
	}
	next := stateUp
	switch {
	case failing == 0:
	case down < working:
		next = stateDegraded
	case kind == bridge.FailureBlocked:
		next = stateBlocked
	default:
		next = stateDown
	}
	// A first failure often passes at once, as with a change of leader: it is not worth a line.
	h.set(next, cause, tries > 1 || kind == bridge.FailureBlocked)
}

// idle judges by a check of the sink while it had nothing to do.
func (h *health) idle(err error) {
	switch {
	case err == nil:
		h.set(stateUp, nil, true)
	case bridge.KindOf(err) == bridge.FailureBlocked:
		h.set(stateBlocked, err, true)
	default:
		h.set(stateDown, err, true)
	}
}

func (h *health) set(next string, cause error, say bool) {
	now := h.d.o.Now()
	if next != h.now || !h.started {
		h.now, h.since, h.started = next, now, true
		h.d.up.Store(next == stateUp)
		if next != stateUp && h.said == stateUp && h.downAt.IsZero() {
			h.downAt = now
		}
	}
	if cause != nil {
		if text := cause.Error(); text != h.err {
			h.err, h.errAt = text, now
		}
	}
	if next == h.said {
		if next == stateUp {
			h.downAt = time.Time{}
		}
		return
	}
	if next != stateUp && !say {
		return
	}
	h.said = next
	h.log(next, cause, now)
}

func (h *health) log(state string, cause error, now time.Time) {
	backlog := h.d.backlog()
	log := h.d.o.Logger.With(slog.String("sink", h.d.name), slog.Int64("backlog_webhooks", backlog))
	switch state {
	case stateUp:
		log.Info("sink is back", "down_for", now.Sub(h.downAt).Round(time.Millisecond).String())
		h.downAt = time.Time{}
	case stateDegraded:
		log.Warn("sink takes only part of the events; the others wait in the journal", "error", cause)
	case stateBlocked:
		log.Error("sink is blocked until its cause is mended; events wait in the journal, nothing is lost", "error", cause)
	default:
		log.Warn("sink is down; events wait in the journal and are sent when it is back", "error", cause)
	}
}
