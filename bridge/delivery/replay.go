package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

const (
	// replayPortion is how many events of a replay are looked at before live events are asked after again.
	replayPortion = 256
	// progressInterval is the least time between two calls of a replay's progress function.
	progressInterval = 250 * time.Millisecond
)

var (
	// ErrReplayRunning is the error of a replay that is asked for while another one of the same sink runs.
	ErrReplayRunning = errors.New("a replay of this sink is running; let it end or stop it first")
	// ErrReplayStopped is the error of a replay that the end of the dispatcher cut short.
	ErrReplayStopped = errors.New("the bridge stopped before the replay was through; ask for it again when it runs")

	errNoJournal = errors.New("there is no journal to replay from")
)

// ReplayRequest selects events of webhooks that a sink has been through with. The zero request selects all of them.
type ReplayRequest struct {
	// Since and Until select by when the webhook was received, from Since on and before Until. Zero: open.
	Since, Until time.Time
	// Events selects by the event.
	Events bridge.Filter
}

// ReplayProgress is how far a replay has come.
type ReplayProgress struct {
	// Webhooks are those in the range when the replay began, and Read those that it has read.
	Webhooks, Read int64
	// Events matched the request so far. Acknowledged reached the sink, and DeadLettered are dead letters; the rest is on
	// its way.
	Events, Acknowledged, DeadLettered int64
}

func (r *ReplayRequest) filter(through int64) journal.WebhookFilter {
	return journal.WebhookFilter{Through: through, Since: r.Since, Until: r.Until}
}

func (r *ReplayRequest) check() error {
	if !r.Since.IsZero() && !r.Until.IsZero() && !r.Since.Before(r.Until) {
		return fmt.Errorf("nothing lies between %s and %s: the beginning of a replay must be before its end",
			r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339))
	}
	return nil
}

// Selector is what CountReplay needs of a *journal.Journal or a *journal.Reader.
type Selector interface {
	Select(ctx context.Context, f journal.WebhookFilter, maxCount int, maxBytes int64) ([]journal.Webhook, error)
}

// CountReplay counts what a replay would publish to a sink with such routes whose cursor is at the number given, without
// publishing anything: Webhooks, Read and Events of what it returns. What it has counted so far is returned with an error, too.
func CountReplay(ctx context.Context, j Selector, cursor int64, req ReplayRequest, events tensorlake.Options,
	routes bridge.Routes,
) (ReplayProgress, error) {
	var p ReplayProgress
	if err := req.check(); err != nil {
		return p, err
	}
	for f := req.filter(cursor); cursor > 0; {
		page, err := j.Select(ctx, f, readWebhooks, readBytes)
		if err != nil || len(page) == 0 {
			return p, err
		}
		f.After = page[len(page)-1].Seq
		for _, entry := range page {
			read := parse(entry)
			for e := range eventsOf(&read, events) {
				if routes.Match(&e) && req.Events.Match(&e) {
					p.Events++
				}
			}
		}
		p.Read += int64(len(page))
		p.Webhooks = p.Read
	}
	return p, nil
}

// replay is a replay under way. The loop owns it; the counters are also read by who asked for it.
type replay struct {
	ctx          context.Context //nolint:containedctx // lives as long as the replay: its end calls the replay off
	request      ReplayRequest
	number       int64 // tells it from other replays: when it began
	filter       journal.WebhookFilter
	counted      bool
	all          bool // everything in the range has been read
	err          error
	over         bool // called off: nothing more is taken, and what fails is let go
	reading      bool
	openWebhooks []*source
	share        share
	done         chan struct{} // closed when err and the counters are final

	webhooks, read, events, acknowledged, deadLettered atomic.Int64
}

func (r *replay) progress() ReplayProgress {
	return ReplayProgress{
		Webhooks: r.webhooks.Load(), Read: r.read.Load(), Events: r.events.Load(),
		Acknowledged: r.acknowledged.Load(), DeadLettered: r.deadLettered.Load(),
	}
}

// replayRead is a page of a replay's webhooks; none is the end.
type replayRead struct {
	counted bool
	page    []parsed
	ok      bool
}

// Replay publishes again what the journal still holds of webhooks that the sink has been through with: those that lay
// behind its cursor when the replay began, as far as req selects them. Their events have the ids that they had. They go
// behind live traffic, move no cursor, and those that the sink can never store become dead letters. Webhooks that
// retention deletes meanwhile are left out. While the sink takes nothing, the replay waits.
//
// Replay returns when every event is acknowledged or a dead letter; when ctx ends, with its error, once the events
// under way have their answer; and with ErrReplayStopped when Run ends. It calls progress now and then, and at the
// end, from its own goroutine; progress may be nil. One replay runs at a time; a second one gets ErrReplayRunning.
// Before Run has begun, Replay waits for it.
func (d *Dispatcher) Replay(ctx context.Context, req ReplayRequest, progress func(ReplayProgress)) (ReplayProgress, error) {
	if d.o.Journal == nil {
		return ReplayProgress{}, errNoJournal
	}
	if err := req.check(); err != nil {
		return ReplayProgress{}, err
	}
	if !d.replaying.CompareAndSwap(false, true) {
		return ReplayProgress{}, ErrReplayRunning
	}
	defer d.replaying.Store(false)
	if progress == nil {
		progress = func(ReplayProgress) {}
	}
	r := &replay{ctx: ctx, request: req, number: d.o.Now().UnixNano(), done: make(chan struct{})}
	select {
	case d.replays <- r:
	case <-ctx.Done():
		return ReplayProgress{}, ctx.Err()
	case <-d.ended:
		return ReplayProgress{}, ErrReplayStopped
	}
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	var said ReplayProgress
	for {
		select {
		case <-tick.C:
			if p := r.progress(); p != said {
				said = p
				progress(p)
			}
		case <-r.done:
			p := r.progress()
			progress(p)
			return p, r.err
		}
	}
}

// beginReplay takes a replay on.
func (l *loop) beginReplay(r *replay) {
	r.filter = r.request.filter(l.window.cursor)
	r.all = l.window.cursor == 0 // an open filter would select what is on its way
	l.replay = r
	l.endReplay()
}

// calledOff fires when who asked for the replay no longer wants it.
func (l *loop) calledOff() <-chan struct{} {
	if l.replay == nil || l.replay.over {
		return nil
	}
	return l.replay.ctx.Done()
}

// startReplayRead reads the next page of a replay when the one before has been taken.
func (l *loop) startReplayRead(ctx context.Context) {
	r := l.replay
	if r == nil || r.over || r.all || r.reading || len(r.openWebhooks) > 0 || !l.liveIdle() {
		return
	}
	r.reading = true
	l.running++
	filter, counted := r.filter, r.counted
	go func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(r.ctx, cancel)() //nolint:contextcheck // it ends with either of the two
		l.replayRead <- l.readReplay(ctx, r, filter, counted)
	}()
}

func (l *loop) readReplay(ctx context.Context, r *replay, filter journal.WebhookFilter, counted bool) replayRead {
	if !counted && !l.insist(ctx, func() error {
		count, _, err := l.o.Journal.Count(ctx, filter)
		r.webhooks.Store(count)
		return err
	}) {
		return replayRead{}
	}
	var page []journal.Webhook
	if !l.insist(ctx, func() (err error) {
		page, err = l.o.Journal.Select(ctx, filter, readWebhooks, readBytes/guestShare)
		return err
	}) {
		return replayRead{}
	}
	return replayRead{counted: true, page: parseAll(page, l.o.Events), ok: true}
}

func (l *loop) tookReplay(p replayRead) {
	l.running--
	r := l.replay
	r.reading = false
	if p.ok && !r.over {
		r.counted = true
		r.all = len(p.page) == 0
		for _, entry := range p.page {
			r.filter.After = entry.entry.Seq
			r.openWebhooks = append(r.openWebhooks, l.sourceOf(&entry))
		}
	}
	l.endReplay()
}

// liveIdle tells whether live events have no room in the lanes, or are all there but for what the next read brings.
func (l *loop) liveIdle() bool {
	return !l.window.room(&l.o) || l.window.span() >= int64(l.o.WindowWebhooks) ||
		(l.openWebhooks.len() == 0 && l.o.Journal.Head()-l.window.read < readWebhooks)
}

// fillReplay takes a portion of a replay's events into the lanes, and tells whether there is more to take at once.
func (l *loop) fillReplay() (more bool) {
	r := l.replay
	if r == nil {
		return false
	}
	for range replayPortion {
		if len(r.openWebhooks) == 0 || !r.share.room(&l.o) || !l.liveIdle() {
			l.endReplay()
			return false
		}
		s := r.openWebhooks[0]
		e := s.next()
		if e == nil {
			s.stop()
			r.openWebhooks[0] = nil
			r.openWebhooks = r.openWebhooks[1:]
			r.read.Add(1)
			continue
		}
		if r.request.Events.Match(e) {
			again := *e
			again.Origin.Replay = r.number
			it := &item{event: &again, webhook: s.webhook, class: classReplayed, replay: r}
			r.events.Add(1)
			r.share.take(it)
			l.enqueue(it)
		}
	}
	return true
}

// finishReplayed notes what became of an event of a replay.
func (l *loop) finishReplayed(it *item, deadLettered bool) {
	it.replay.share.leave(it)
	if deadLettered {
		it.replay.deadLettered.Add(1)
		return
	}
	l.metrics.replayed.Inc()
	it.replay.acknowledged.Add(1)
}

// callOffReplay lets go of everything of a replay that is not under way.
func (l *loop) callOffReplay(err error) {
	r := l.replay
	if r == nil || r.over {
		return
	}
	r.over, r.err = true, err
	for _, s := range r.openWebhooks {
		s.stop()
	}
	r.openWebhooks = nil
	for _, p := range l.partitions {
		for _, it := range p.remove(classReplayed, func(*item) bool { return true }) {
			l.letGo(it)
		}
		if !p.busy {
			p.lanes[classReplayed] = lane{}
		}
	}
	l.endReplay()
}

// letGo forgets an event of a replay that has been called off.
func (l *loop) letGo(it *item) {
	it.replay.share.leave(it)
	l.leave(it)
}

// endReplay ends a replay of which nothing is left.
func (l *loop) endReplay() {
	r := l.replay
	if r == nil || r.reading || r.share.events > 0 || len(r.openWebhooks) > 0 || (!r.all && !r.over) {
		return
	}
	l.replay = nil
	close(r.done)
}
