package delivery

import (
	"errors"
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// The states of a sink, as `fnbridge status` shows them.
const (
	stateUp       = "up"       // the last try of every partition was acknowledged
	stateDegraded = "degraded" // some events are held back, others go on
	stateDown     = "down"     // nothing gets through
	stateBlocked  = "blocked"  // nothing gets through until somebody mends it
)

// errorInterval is how exactly the time of an error that goes on is kept.
const errorInterval = time.Second

// health follows how a sink is and says so in the log: from when it leaves up until it is back, each state once.
type health struct {
	d         *Dispatcher
	now       string
	since     time.Time
	err       string
	errAt     time.Time
	troubleAt time.Time       // when the state left up
	told      map[string]bool // the states that the log was told since then
	waited    int64           // the most webhooks that waited since then
	started   bool
}

func newHealth(d *Dispatcher) health {
	return health{d: d, now: stateUp, told: make(map[string]bool), since: d.o.Now()}
}

// state is what the journal keeps of the sink's health.
func (h *health) state(sink string) journal.SinkState {
	if !h.started {
		return journal.SinkState{}
	}
	return journal.SinkState{Sink: sink, State: h.now, LastError: h.err, LastErrorAt: h.errAt, Since: h.since}
}

// cause is the last error while the sink is not up.
func (h *health) cause() error {
	if h.now == stateUp || h.err == "" {
		return nil
	}
	return errors.New(h.err)
}

// delivering judges by the lanes, after a batch.
func (h *health) delivering(l *loop) {
	var worst *lane // whose failure is shown: one that is blocked, and of those the latest
	var since time.Time
	tries, goesOn := 0, false
	for _, p := range l.partitions {
		ln := &p.lanes[classLive]
		if !ln.failing() {
			continue
		}
		goesOn = goesOn || !ln.down
		tries = max(tries, ln.attempt)
		if since.IsZero() || ln.failingSince.Before(since) {
			since = ln.failingSince
		}
		if worst == nil || worse(ln, worst) {
			worst = ln
		}
	}
	if worst == nil {
		h.set(stateUp, nil, time.Time{}, true)
		return
	}
	for _, p := range l.partitions {
		ln := &p.lanes[classLive]
		// A lane with nothing to do is taken to go on if the sink took something of it since the trouble began.
		goesOn = goesOn || (!ln.failing() && ln.passedAt.After(since))
	}
	next := stateDown
	switch {
	case goesOn:
		next = stateDegraded
	case worst.kind == bridge.FailureBlocked:
		next = stateBlocked
	}
	// A first failure often passes at once, as with a change of leader: it is not worth a line.
	at := h.d.o.Now().Add(-time.Since(worst.failedAt))
	h.set(next, worst.cause, at, tries > 1 || worst.kind == bridge.FailureBlocked)
}

func worse(a, b *lane) bool {
	if aBlocked, bBlocked := a.kind == bridge.FailureBlocked, b.kind == bridge.FailureBlocked; aBlocked != bBlocked {
		return aBlocked
	}
	return a.failedAt.After(b.failedAt)
}

// idle judges by a check of the sink while it had nothing to do.
func (h *health) idle(err error) {
	now := h.d.o.Now()
	switch {
	case err == nil:
		h.set(stateUp, nil, time.Time{}, true)
	case bridge.KindOf(err) == bridge.FailureBlocked:
		h.set(stateBlocked, err, now, true)
	default:
		h.set(stateDown, err, now, true)
	}
}

// set takes a new judgement: the state, and unless that is up, its cause, when that occurred, and whether it is worth
// a line in the log.
func (h *health) set(next string, cause error, at time.Time, say bool) {
	now := h.d.o.Now()
	if next != h.now || !h.started {
		if h.now == stateUp {
			h.troubleAt = now
		}
		h.now, h.since, h.started = next, now, true
		h.d.up.Store(next == stateUp)
	}
	h.waited = max(h.waited, h.d.origin.backlog())
	if next == stateUp {
		if len(h.told) > 0 {
			h.log(next, nil, now)
			clear(h.told)
		}
		h.waited = 0
		return
	}
	if text := cause.Error(); text != h.err || at.Sub(h.errAt).Abs() >= errorInterval {
		h.err, h.errAt = text, at
	}
	if say && !h.told[next] {
		h.told[next] = true
		h.log(next, cause, now)
	}
}

func (h *health) log(state string, cause error, now time.Time) {
	log := h.d.o.Logger.With(slog.String("sink", h.d.name), slog.Int64("backlog_webhooks", h.d.origin.backlog()))
	switch state {
	case stateUp:
		log.Info("sink is back", "down_for", now.Sub(h.troubleAt).Round(time.Millisecond).String(),
			"waited_webhooks", h.waited)
	case stateDegraded:
		log.Warn(h.d.origin.words().degraded, "error", cause) //nolint:sloglint // one of the words that a mode has
	case stateBlocked:
		log.Error(h.d.origin.words().blocked, "error", cause) //nolint:sloglint // as above
	default:
		log.Warn(h.d.origin.words().down, "error", cause) //nolint:sloglint // as above
	}
}

// words are what the log says of a sink, and of its events meanwhile.
type words struct{ degraded, blocked, down, rejected, refused string }
