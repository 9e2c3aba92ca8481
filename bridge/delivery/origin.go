package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// origin is where a Dispatcher's webhooks come from and where what becomes of them goes: the journal, or a Queue in memory.
// Everything in between is the same for both.
type origin interface {
	// begin returns the number of the webhook behind which reading begins.
	begin(ctx context.Context) (cursor int64, err error)
	// read waits for webhooks behind a number and returns some of them, oldest first. None means that ctx has ended.
	read(ctx context.Context, after int64) []parsed
	// backlog counts the webhooks that have not wholly reached the sink.
	backlog() int64
	// deadLetter takes events that the sink rejected, with the dead letter of each, and answers for each: nil when the dead
	// letter is safe, errSenderTold when there is none and the webhook's sender hears of it instead, else why the event is to
	// be tried again.
	deadLetter(ctx context.Context, items []*item, letters []journal.DeadLetter) []error
	// done is told once of every webhook that the loop has no more to do with. lost is how many of its events were neither
	// acknowledged nor dead-lettered: 0 unless nobody waited for it any more.
	done(w *webhook, lost int)
	// save keeps how far delivery has come and how the sink is, as far as they differ from what was kept before.
	save(ctx context.Context, now, before progress) error
	// words are what the log says of the sink.
	words() words

	// withdrawals fires when the loop may have to let go of webhooks that nobody waits for. Nil: never.
	withdrawals() <-chan struct{}
	// refuses tells whether an event is not to be taken now, since its lane is known to be down.
	refuses(l *loop, e *bridge.Event, w *webhook) bool
	// settled judges how the sink is after a batch of live events, which began at started, and of which so many got through.
	settled(l *loop, p *partition, started time.Time, done int, cause error)
	// checked judges by a check of the idle sink, and tells whether the check says anything of how the sink is.
	checked(l *loop, err error) bool
	// checkInterval is how long after a check the next one comes.
	checkInterval() time.Duration
}

// progress is what an origin keeps of a sink: its cursor, and how it is.
type progress struct {
	cursor int64
	state  journal.SinkState
}

// errSenderTold is the answer of deadLetter for an event of which there is no dead letter.
var errSenderTold = errors.New("the sender of the webhook is told")

// fromJournal is the origin of a Dispatcher on a journal.
type fromJournal struct{ d *Dispatcher }

func (s fromJournal) begin(ctx context.Context) (int64, error) {
	cursor, err := s.d.o.Journal.Cursor(ctx, s.d.name)
	if err != nil {
		return 0, fmt.Errorf("cursor of sink %s: %w", s.d.name, err)
	}
	return cursor, nil
}

func (s fromJournal) read(ctx context.Context, after int64) []parsed {
	for {
		changed := s.d.o.Journal.Changed()
		var entries []journal.Webhook
		if !s.d.insist(ctx, func() (err error) {
			entries, err = s.d.o.Journal.Read(ctx, after, readWebhooks, readBytes)
			return err
		}) {
			return nil
		}
		if len(entries) > 0 {
			return parseAll(entries, s.d.o.Events)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// backlog counts webhooks behind the cursor. Sequence numbers have no gaps.
func (s fromJournal) backlog() int64 { return max(0, s.d.o.Journal.Head()-s.d.cursor.Load()) }

func (s fromJournal) deadLetter(ctx context.Context, _ []*item, letters []journal.DeadLetter) []error {
	errs := make([]error, len(letters))
	if err := s.d.o.Journal.AddDeadLetters(ctx, letters); err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// done has nothing to do: the cursor says which webhooks are through.
func (s fromJournal) done(*webhook, int) {}

func (s fromJournal) save(ctx context.Context, now, before progress) (err error) {
	if now.cursor != before.cursor {
		err = s.d.o.Journal.Advance(ctx, s.d.name, now.cursor)
	}
	if now.state != before.state {
		err = errors.Join(err, s.d.o.Journal.SetSinkState(ctx, now.state))
	}
	return err
}

func (s fromJournal) words() words {
	return words{
		degraded: "sink takes only part of the events; the others wait in the journal",
		blocked:  "sink is blocked until its cause is mended; events wait in the journal, nothing is lost",
		down:     "sink is down; events wait in the journal and are sent when it is back",
		rejected: "events rejected by the sink's broker are in the dead letters",
	}
}

// What the journal holds waits for a sink however long that is down.

func (s fromJournal) withdrawals() <-chan struct{} { return nil }

func (s fromJournal) refuses(*loop, *bridge.Event, *webhook) bool { return false }

func (s fromJournal) settled(*loop, *partition, time.Time, int, error) {}

func (s fromJournal) checked(*loop, error) bool { return true }

func (s fromJournal) checkInterval() time.Duration { return s.d.o.CheckInterval }

func parseAll(entries []journal.Webhook, o tensorlake.Options) []parsed {
	result := make([]parsed, len(entries))
	for i, e := range entries {
		p := &result[i]
		*p = parse(e)
		if count := p.payload.Len(o); p.err == nil && count <= eagerEvents && len(e.Body) <= eagerBytes {
			p.events = slices.AppendSeq(make([]bridge.Event, 0, count), eventsOf(p, o))
		}
	}
	return result
}

func parse(e journal.Webhook) parsed {
	payload, err := tensorlake.Parse(e.Body)
	return parsed{entry: e, payload: payload, err: err}
}
