package delivery

import (
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// errorInterval is how exactly the time of an error that goes on is kept.
const errorInterval = time.Second

// health follows how a sink is and says so in the log: from when it leaves up until it is back, each state once.
type health struct {
	o         *Options
	sink      string
	words     Words
	backlog   func() int64 // in webhooks
	now       SinkHealth
	since     time.Time
	err       string
	errAt     time.Time
	troubleAt time.Time           // when the state left up
	told      map[SinkHealth]bool // the states that the log was told since then
	waited    int64               // the most webhooks that waited since then
	started   bool
}

func newHealth(o *Options, sink string, words Words, backlog func() int64) health {
	return health{
		o: o, sink: sink, words: words, backlog: backlog, now: Up, told: make(map[SinkHealth]bool), since: o.Now(),
	}
}

// state is what the journal keeps of the sink's health.
func (h *health) state() journal.SinkState {
	if !h.started {
		return journal.SinkState{}
	}
	return journal.SinkState{Sink: h.sink, State: string(h.now), LastError: h.err, LastErrorAt: h.errAt, Since: h.since}
}

// delivering judges by the lanes, after a batch.
func (h *health) delivering(lanes *lane.Lanes) {
	var worst *lane.Lane // whose failure is shown: one that is blocked, and of those the latest
	var since time.Time
	tries, goesOn := 0, false
	for ln := range lanes.All() {
		if !ln.Failing() {
			continue
		}
		goesOn = goesOn || !ln.Down()
		tries = max(tries, ln.Attempts())
		if since.IsZero() || ln.FailingSince().Before(since) {
			since = ln.FailingSince()
		}
		if worst == nil || worse(ln, worst) {
			worst = ln
		}
	}
	if worst == nil {
		h.set(Up, nil, time.Time{}, true)
		return
	}
	for ln := range lanes.All() {
		// A lane with nothing to do is taken to go on if the sink took something of it since the trouble began.
		goesOn = goesOn || (!ln.Failing() && ln.PassedAt().After(since))
	}
	next := Down
	switch {
	case goesOn:
		next = Degraded
	case worst.Kind() == bridge.FailureBlocked:
		next = Blocked
	}
	// A first failure often passes at once, as with a change of leader: it is not worth a line.
	at := h.o.Now().Add(-time.Since(worst.FailedAt()))
	h.set(next, worst.Cause(), at, tries > 1 || worst.Kind() == bridge.FailureBlocked)
}

func worse(a, b *lane.Lane) bool {
	if aBlocked, bBlocked := a.Kind() == bridge.FailureBlocked, b.Kind() == bridge.FailureBlocked; aBlocked != bBlocked {
		return aBlocked
	}
	return a.FailedAt().After(b.FailedAt())
}

// idle judges by a check of the sink while it had nothing to do.
func (h *health) idle(err error) {
	now := h.o.Now()
	switch {
	case err == nil:
		h.set(Up, nil, time.Time{}, true)
	case bridge.KindOf(err) == bridge.FailureBlocked:
		h.set(Blocked, err, now, true)
	default:
		h.set(Down, err, now, true)
	}
}

// set takes a new judgement: the state, and unless that is up, its cause, when that occurred, and whether it is worth
// a line in the log.
func (h *health) set(next SinkHealth, cause error, at time.Time, say bool) {
	now := h.o.Now()
	if next != h.now || !h.started {
		if h.now == Up {
			h.troubleAt = now
		}
		h.now, h.since, h.started = next, now, true
	}
	h.waited = max(h.waited, h.backlog())
	if next == Up {
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

func (h *health) log(state SinkHealth, cause error, now time.Time) {
	log := h.o.Logger.With(slog.String("sink", h.sink), slog.Int64("backlog_webhooks", h.backlog()))
	switch state {
	case Up:
		log.Info("sink is back", "down_for", now.Sub(h.troubleAt).Round(time.Millisecond).String(),
			"waited_webhooks", h.waited)
	case Degraded:
		log.Warn(h.words.Degraded, "error", cause) //nolint:sloglint // one of the words that a mode has
	case Blocked:
		log.Error(h.words.Blocked, "error", cause) //nolint:sloglint // as above
	default:
		log.Warn(h.words.Down, "error", cause) //nolint:sloglint // as above
	}
}
