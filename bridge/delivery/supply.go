package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// supply is where a Dispatcher's webhooks come from and where what becomes of them goes: the journal, or the feed of a Queue
// that is the sink's. Everything in between is the same for both.
type supply interface {
	// begin returns the number of the webhook behind which reading begins.
	begin(ctx context.Context) (cursor int64, err error)
	// read waits for webhooks behind a number and returns some of them, oldest first. None means that ctx has ended.
	read(ctx context.Context, after int64) []parsed
	// backlog counts the webhooks that have not wholly reached the sink.
	backlog() int64
	// bury takes events that the sink rejected, with the dead letter of each, and answers for each: nil when the dead letter
	// is safe, errSenderTold when there is none and the webhook's sender hears of it instead, else why the event is to be
	// tried again.
	bury(ctx context.Context, items []*item, letters []journal.DeadLetter) []error
	// done is told once of every webhook that the loop has no more to do with. lost is how many of its events were neither
	// acknowledged nor buried: 0 unless nobody waited for it any more.
	done(w *webhook, lost int)
}

// errSenderTold is the answer of bury for an event of which there is no dead letter.
var errSenderTold = errors.New("the sender of the webhook is told")

// fromJournal is the supply of a Dispatcher on a journal.
type fromJournal struct{ *Dispatcher }

func (s fromJournal) begin(ctx context.Context) (int64, error) {
	cursor, err := s.o.Journal.Cursor(ctx, s.name)
	if err != nil {
		return 0, fmt.Errorf("cursor of sink %s: %w", s.name, err)
	}
	return cursor, nil
}

func (s fromJournal) read(ctx context.Context, after int64) []parsed {
	for {
		changed := s.o.Journal.Changed()
		var entries []journal.Webhook
		if !s.insist(ctx, func() (err error) {
			entries, err = s.o.Journal.Read(ctx, after, readWebhooks, readBytes)
			return err
		}) {
			return nil
		}
		if len(entries) > 0 {
			return parseAll(entries, s.o.Events)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// backlog counts webhooks behind the cursor. Sequence numbers have no gaps.
func (s fromJournal) backlog() int64 { return max(0, s.o.Journal.Head()-s.cursor.Load()) }

func (s fromJournal) bury(ctx context.Context, _ []*item, letters []journal.DeadLetter) []error {
	errs := make([]error, len(letters))
	if err := s.o.Journal.AddDeadLetters(ctx, letters); err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// done has nothing to do: the cursor says which webhooks are through.
func (s fromJournal) done(*webhook, int) {}

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
